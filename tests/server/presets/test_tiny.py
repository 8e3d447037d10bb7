import functools
import importlib.util
import math
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from vlascope_server.model import ModelInputs, parameter_shapes, sample_actions
from vlascope_server.presets.tiny import TINY, TINY_PI05, TOKENIZER_PATH, unit_norm_stats
from vlascope_server.prompts import Tokenizer
from vlascope_server.robots import Libero, RobotPipeline

SCRIPT = Path(__file__).parents[3] / "server" / "scripts" / "train_tiny_tokenizer.py"
CONFIGS = pytest.mark.parametrize("config", [TINY, TINY_PI05], ids=["tiny", "tiny-pi05"])


@CONFIGS
def test_sizes(config):
    elements = sum(math.prod(shape) for shape in parameter_shapes(config).values())
    assert 1e6 < elements < 7e6
    assert config.vlm.depth >= 8
    assert config.vlm.width != config.action.width
    assert config.vlm.mlp_dim != config.action.mlp_dim
    assert config.vision.image_size == 112
    assert all(len(range(span.start, span.stop)) % 8 == 0 for span in config.layout().expert("vlm").spans)


@CONFIGS
def test_a_robots_observation_becomes_its_actions(config):
    robot, tokenizer = Libero(), Tokenizer(TOKENIZER_PATH)
    tokenizer.check_fits(config.vocabulary)
    stats = unit_norm_stats(robot.spec.state_dim, robot.spec.action_dim)
    conventions = robot.conventions(pi05=config.pi05)
    pipeline = RobotPipeline(robot, stats, conventions, config.action_dim, config.vision.image_size)
    rng = np.random.default_rng(0)
    inputs = pipeline.read(
        {
            "observation/image": rng.integers(0, 256, (256, 256, 3), dtype=np.uint8),
            "observation/wrist_image": rng.integers(0, 256, (256, 256, 3), dtype=np.uint8),
            "observation/state": rng.uniform(-1, 1, 8),
            "prompt": "pick up the black bowl and place it on the plate",
        }
    )
    prompt = tokenizer.encode(inputs.prompt, config.max_token_len, inputs.prompt_state if config.pi05 else None)
    assert prompt.truncated == 0
    batch = ModelInputs(
        images={slot: jnp.asarray(image)[None] for slot, image in inputs.images.items()},
        image_masks={slot: jnp.ones(1, bool) for slot in inputs.images},
        state=jnp.asarray(inputs.state, "float32")[None],
        prompt=jnp.asarray(prompt.tokens)[None],
        prompt_mask=jnp.asarray(prompt.mask)[None],
    )
    noise = jax.random.normal(jax.random.key(0), (1, config.action_horizon, config.action_dim))
    sample = jax.jit(functools.partial(sample_actions, config=config, num_steps=2))
    # drawn with numpy: compiling a draw for each shape takes longer than all the rest
    shapes = parameter_shapes(config).items()
    params = {name: jnp.asarray(0.05 * rng.standard_normal(shape), "float32") for name, shape in shapes}
    actions, _ = sample(params, inputs=batch, noise=noise)
    found = pipeline.robot_actions(np.asarray(actions[0]), inputs.robot_state)
    assert found.shape == (10, 7)
    assert np.isfinite(found).all()


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("train_tiny_tokenizer", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def libero_folder():
    spec = importlib.util.find_spec("libero")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("package libero is not installed")
    return Path(next(iter(spec.submodule_search_locations)))


def test_every_instruction_of_libero_fits(script, libero_folder):
    tokenizer = Tokenizer(TOKENIZER_PATH)
    tasks = script.instructions(libero_folder)
    assert len(tasks) > 130
    assert "put the wine bottle on top of the cabinet" in tasks
    widest = np.full(8, 0.99)
    for task in tasks:
        assert tokenizer.encode(task, TINY.max_token_len).truncated == 0
        assert tokenizer.encode(task, TINY_PI05.max_token_len, widest).truncated == 0


def test_every_number_of_a_state_is_one_token():
    tokenizer = Tokenizer(TOKENIZER_PATH)
    lengths = {
        int(tokenizer.encode("open", 64, np.array([number])).mask.sum()) for number in np.linspace(-1.01, 1.0, 600)
    }
    assert len(lengths) == 1


def test_the_script_makes_the_bundled_model(script, libero_folder):
    tokenizer, bundled = script.train(libero_folder), TOKENIZER_PATH.read_bytes()
    assert tokenizer == bundled
    assert len(bundled) < 64 << 10
    assert script.train(libero_folder) == tokenizer


def test_instructions_are_looked_for(script, tmp_path):
    with pytest.raises(SystemExit, match=r"expected LIBERO's \.bddl files, found none"):
        script.instructions(tmp_path)
    (tmp_path / "a.bddl").write_text("(define (problem X))")
    with pytest.raises(SystemExit, match="expected a line"):
        script.instructions(tmp_path)
