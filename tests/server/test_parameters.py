"""Names, shapes and the architecture read off them, full size included; no full-size array is ever made."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from vlascope_server.model import (
    Lora,
    ParameterError,
    fuse_for_inference,
    infer_config,
    init_params,
    lora_frozen,
    parameter_shapes,
    sample_actions,
)
from vlascope_server.model.config import full_size
from vlascope_server.model.parameters import count, under

from tests.server.goldens import COMPACT, FOLDER, INDEX
from tests.server.small_models import noisy_params, random_inputs, small_config

VARIANTS = json.loads((COMPACT / "params_full.json").read_text())["variants"]  # the same in every set


@pytest.mark.parametrize("variant", ["pi0", "pi05", "pi0_lora", "pi05_lora"])
def test_full_size_names_and_shapes_are_the_references(variant):
    entry = VARIANTS[variant]
    expected = {name: tuple(shape) for name, shape in entry["shapes"].items()}
    config = full_size(pi05="pi05" in variant, lora="lora" in variant)
    assert parameter_shapes(config) == expected
    assert count(expected) == entry["parameters"]
    told = {"action_horizon": config.action_horizon, "max_token_len": config.max_token_len}
    assert infer_config(expected, **told) == config
    if "frozen_names" in entry:
        frozen = {name: shape for name, shape in expected.items() if lora_frozen(name)}
        assert set(frozen) == set(entry["frozen_names"])
        assert count(frozen) == entry["frozen_parameters"]


@pytest.mark.parametrize("variant", ["pi0", "pi05"])
def test_the_full_size_program_compiles_to_shapes_without_memory(variant):
    config = full_size(pi05=variant == "pi05")
    params = {name: jax.ShapeDtypeStruct(s, jnp.bfloat16) for name, s in parameter_shapes(config).items()}
    observation, _ = jax.eval_shape(lambda: random_inputs(config))
    noise = jax.ShapeDtypeStruct((1, config.action_horizon, config.action_dim), jnp.float32)
    actions, _ = jax.eval_shape(lambda p, o, n: sample_actions(p, config, o, n), params, observation, noise)
    assert actions.shape == noise.shape
    assert config.layout().expert("vlm").tokens == {"pi0": 816, "pi05": 968}[variant]
    assert config.layout().expert("action").tokens == {"pi0": 51, "pi05": 50}[variant]


@pytest.mark.parametrize("name", list(INDEX["goldens"]))
def test_frozen_parameters_are_the_references(name):
    entries = json.loads((FOLDER / INDEX["goldens"][name]["params"]).read_text())
    if not any(entry["frozen_by_get_freeze_filter"] for entry in entries.values()):
        pytest.skip("no adapters in this golden")
    assert {n for n, e in entries.items() if e["frozen_by_get_freeze_filter"]} == set(filter(lora_frozen, entries))


@pytest.mark.parametrize("changes", [{}, {"pi05": True}, {"lora": True}], ids=["pi0", "pi05", "lora"])
def test_the_architecture_is_read_off_the_shapes(changes):
    config = small_config(**changes)
    told = {"action_horizon": config.action_horizon, "max_token_len": config.max_token_len, "lora_alpha": 3.0}
    assert infer_config(parameter_shapes(config), **told) == config


def test_alpha_is_the_rank_where_nobody_says():
    shapes = parameter_shapes(small_config(lora=True))
    assert infer_config(shapes, action_horizon=5, max_token_len=6).vlm.attn_lora == Lora(2, 2.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s.pop("PaliGemma/llm/final_norm/scale"),
            "parameter PaliGemma/llm/final_norm/scale: missing; expected",
        ),
        (lambda s: s.pop("PaliGemma/img/pos_embedding"), "parameter PaliGemma/img/pos_embedding: missing"),
        (lambda s: s.update({"state_proj/bias": (3,)}), "parameter state_proj/bias: expected shape (24,), found (3,)"),
        (
            lambda s: s.update({"value_head/kernel": (24, 1)}),
            "parameter value_head/kernel: unknown to this architecture",
        ),
        (lambda s: s.update({"PaliGemma/img/pos_embedding": (1, 5, 12)}), "5 image tokens are no square grid"),
        (
            lambda s: s.update({"action_in_proj/kernel": (8,)}),
            "action_in_proj/kernel: expected 2 axes, found shape (8,)",
        ),
    ],
)
def test_foreign_parameters_are_named(change, message):
    shapes = parameter_shapes(small_config())
    change(shapes)
    with pytest.raises(ParameterError) as caught:
        infer_config(shapes, action_horizon=5, max_token_len=6)
    assert message in str(caught.value)


def test_first_values_depend_on_seed_and_name_alone():
    a, b = init_params(small_config(), 1), init_params(small_config(max_token_len=9, cameras=("base_0_rgb",)), 1)
    assert all(np.array_equal(a[name], b[name]) for name in a)
    other = init_params(small_config(), 2)
    assert not np.array_equal(a["action_in_proj/kernel"], other["action_in_proj/kernel"])
    adapters = {n: v for n, v in init_params(small_config(lora=True)).items() if n.endswith("lora_b")}
    assert adapters
    assert not any(np.any(v) for v in adapters.values()), "adapters start as no change"


@pytest.mark.parametrize("lora", [False, True])
def test_fused_parameters_give_the_same_actions(lora):
    config = small_config(lora=lora)
    params, (observation, noise) = noisy_params(config), random_inputs(config)
    fused = fuse_for_inference(params)
    assert count({n: v.shape for n, v in fused.items()}) == count({n: v.shape for n, v in params.items()})
    assert fuse_for_inference(fused).keys() == fused.keys()
    assert "attn/qkv_1" in under(fused, "PaliGemma/llm/layers")
    plain, _ = sample_actions(params, config, observation, noise, num_steps=2)
    np.testing.assert_array_equal(sample_actions(fused, config, observation, noise, num_steps=2)[0], plain)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "float16"}, "dtype 'float16': allowed are float32 and bfloat16"),
        ({"cameras": ()}, "cameras: expected at least one"),
        ({"cameras": ("a", "a")}, "each once"),
    ],
)
def test_impossible_configurations_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        small_config(**changes)
