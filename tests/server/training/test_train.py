"""`vlascope-server train` from a dataset to a policy that acts: it learns, resumes exactly, and leaves whole files."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import types

import jax
import numpy as np
import pytest
from vlascope_server.checkpoints import CheckpointError, Sidecars, load_checkpoint, save_checkpoint
from vlascope_server.commands import main
from vlascope_server.model import lora_frozen, sample_actions
from vlascope_server.options import CheckpointOptions
from vlascope_server.policies.contract import draw_noise
from vlascope_server.policies.options import PolicyOptions
from vlascope_server.policies.pi0.policy import Pi0Policy
from vlascope_server.training import data, train_state, trainer
from vlascope_server.training.options import TrainingError
from vlascope_server.training.run_folder import METRICS
from vlascope_server.training.trainer import train

from tests.datasets import foreign

from .conftest import EPISODES, TASKS, episode, write_dataset


def weights(folder):
    return {name: np.asarray(value) for name, value in load_checkpoint(folder, dtype="float32").params.items()}


def rows(run, key="loss"):
    lines = map(json.loads, (run / METRICS).read_text().splitlines())
    return {row["step"]: row[key] for row in lines if key in row}


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.fixture(scope="module")
def learnt(dataset, tmp_path_factory):
    """A run long enough to learn something."""
    output = tmp_path_factory.mktemp("learnt") / "run"
    arguments = {
        "dataset": dataset, "output": output, "init": "small", "steps": 500, "batch-size": 8, "learning-rate": 3e-3,
        "warmup": 10, "flow-samples": 2, "ema": 0.9, "validation": 0.25,
        "validate-every": 100, "log-every": 10, "save-every": 300,
    }  # fmt: skip
    told = [part for name, value in arguments.items() for part in (f"--{name}", str(value))]
    assert main(["train", *told, "--delta-actions", "False", "--trained-on", "render", "fast"]) == 0
    return output


def test_learns_and_says_so(learnt):
    losses = rows(learnt)
    assert np.mean(list(losses.values())[-5:]) < 0.6 * losses[10]
    held_out = rows(learnt, "validation_loss")
    assert list(held_out) == [100, 200, 300, 400, 500]
    assert held_out[500] < losses[10]
    assert (learnt / "loss.png").read_bytes().startswith(b"\x89PNG")
    facts = json.loads((learnt / "train.json").read_text())
    assert facts["options"]["batch_size"] == 8
    assert facts["provenance"]["versions"]["optax"]
    assert sorted([*facts["episodes"], *facts["held_out_episodes"]]) == list(range(EPISODES))
    assert len(facts["held_out_episodes"]) == 2
    assert facts["action_dimensions"] == [0, 1, 2, 6]


def test_serves_what_it_learnt(learnt, dataset):
    checkpoint = load_checkpoint(learnt / "500", dtype="float32")
    assert checkpoint.record.step == 500
    assert checkpoint.record.trained_on == {"dataset": dataset.name, "render": "fast"}
    facts = json.loads((learnt / "train.json").read_text())
    assert checkpoint.record.norm_stats_count == facts["record"]["norm_stats_count"] == 6 * 12
    assert checkpoint.norm_stats is not None
    policy = Pi0Policy.load(str(learnt / "500"), PolicyOptions(dtype="float32"))
    signs = []
    for number in facts["episodes"]:
        columns, images = episode(number)
        for frame in (0, 3, 8):
            prepared = policy.prepare(
                {
                    "observation/image": images["image"][frame],
                    "observation/wrist_image": images["wrist_image"][frame],
                    "observation/state": columns["state"][frame],
                    "prompt": TASKS[number % 2],
                }
            )
            noise = draw_noise(frame, policy.noise_shape)[None]
            raw, _ = sample_actions(policy.params, policy.config, policy.batch([prepared], 1), noise)
            actions = policy.robot_actions(np.asarray(raw[0]), prepared)
            signs.append(np.sign(actions[0, 2]) == np.sign(columns["actions"][frame, 2]))
            # what never moved comes back as the constant that it was, whatever the noise
            np.testing.assert_array_equal(actions[:, [3, 5]], 0.0)
            np.testing.assert_array_equal(actions[:, 4], np.float32(0.1))
    # only the instruction tells which way
    assert np.mean(signs) > 0.9


def test_begins_with_a_lerobot_policy(options, tmp_path):
    """Its normalisation and what it calls its statistics stay; the horizon may become another."""
    drawn = load_checkpoint("small", dtype="float32")
    record = dataclasses.replace(drawn.record, normalisation="lerobot_zscore", delta_actions=False)
    sidecars = Sidecars(norm_stats=drawn.norm_stats, asset_id="x", record=record, tokenizer=drawn.tokenizer)
    lerobot = save_checkpoint(tmp_path / "lerobot", drawn.params, drawn.config, sidecars, kind="lerobot")
    horizon = drawn.config.action_horizon + 1
    with pytest.raises(
        CheckpointError, match=f"chunk_size: it says {horizon - 1}, and action_horizon {horizon} was asked for"
    ):
        load_checkpoint(lerobot, CheckpointOptions(action_horizon=horizon))
    trained = train(options(init=str(lerobot), action_horizon=horizon, steps=1, norm_stats="dataset"))
    checkpoint = load_checkpoint(trained.checkpoint)
    assert checkpoint.config.action_horizon == horizon
    assert (checkpoint.record.normalisation, checkpoint.asset_id) == ("lerobot_zscore", "lerobot")


def test_resumed_is_unbroken(options, tmp_path):
    """Bit for bit: the state is saved as it is, and batches and noise follow from seed and step."""
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    train(options(output=whole, steps=6))
    # stopped in the middle, as a signal does it, and killed after a later line of metrics
    stopped = train(options(output=halves, steps=6, save_every=3, minutes=1e-9))
    assert (stopped.step, stopped.finished) == (1, False)
    with (halves / METRICS).open("a") as file:
        file.write('{"step": 2, "loss": 99}\n{"step": 3, "lo')
    finished = train(options(output=halves, steps=6, save_every=3, resume=True))
    assert finished.finished
    assert sorted(p.name for p in halves.iterdir() if p.name.isdigit()) == ["3", "6"]
    assert_equal(weights(halves / "6"), weights(whole / "6"))
    assert rows(halves) == rows(whole)
    assert rows(halves, "validation_loss") == rows(whole, "validation_loss")
    again = train(options(output=halves, steps=6, resume=True))
    assert (again.checkpoint, again.step) == (halves / "6", 6)


def test_resume_keeps_what_it_began_with(options):
    train(options(steps=1, validation=0.0))
    with pytest.raises(TrainingError, match="not empty; go on with --resume"):
        train(options(steps=1))
    with pytest.raises(TrainingError, match=r"batch_size: the run has 8, now 16"):
        train(options(steps=2, batch_size=16, validation=0.0, resume=True))
    described = options().output / "train.json"
    facts = json.loads(described.read_text())
    described.write_text(json.dumps({**facts, "episodes": facts["episodes"][1:]}))
    with pytest.raises(TrainingError, match="episodes: the run has 7, the dataset now gives 8: it was changed since"):
        train(options(steps=2, validation=0.0, resume=True))


def test_a_batch_in_parts_is_the_batch(options, tmp_path):
    """Within rounding, with labels that are masked in some parts and not in others."""
    train(options(output=tmp_path / "whole", steps=3, validation=0.0))
    train(options(output=tmp_path / "parts", steps=3, validation=0.0, accumulate=4))
    for key, bound in ("loss", 1e-5), ("grad_norm", 1e-4):
        whole, parts = (rows(tmp_path / run, key) for run in ("whole", "parts"))
        np.testing.assert_allclose(list(parts.values()), list(whole.values()), rtol=bound)
    with pytest.raises(TrainingError, match="accumulate: 3 parts of a batch of 8 are not equal"):
        options(accumulate=3)


def test_padding_of_the_text_is_not_computed(options, tmp_path, monkeypatch):
    """The longest instruction decides how much text there is, and the loss is what it is with all the padding."""
    train(options(output=tmp_path / "trimmed", steps=2))
    monkeypatch.setattr(data, "_longest", lambda config, *_: config.max_token_len)
    train(options(output=tmp_path / "padded", steps=2))
    for key in ("loss", "validation_loss"):
        trimmed, padded = (rows(tmp_path / run, key) for run in ("trimmed", "padded"))
        np.testing.assert_allclose(list(trimmed.values()), list(padded.values()), rtol=1e-5)


def test_averaged_weights(options, tmp_path, monkeypatch):
    """What is saved is the average of the weights after every step, with the decay that a short run has."""
    seen = []
    make = trainer.make_step

    def spying(*args, **kwargs):
        step = make(*args, **kwargs)

        def spy(*given):
            state, metrics = step(*given)
            seen.append({name: np.array(value) for name, value in state.params.items()})
            return state, metrics

        return spy

    monkeypatch.setattr(trainer, "make_step", spying)
    given = options(steps=4, validation=0.0)
    run = train(given)
    name = "action_out_proj/kernel"
    from vlascope_server.training.prepare import prepare

    average = np.asarray(prepare(given, None).params[name])
    for step, params in enumerate(seen):
        decay = min(0.9, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * params[name]
    np.testing.assert_allclose(weights(run.checkpoint)[name], average, rtol=1e-5, atol=1e-7)
    assert not np.allclose(average, seen[-1][name], rtol=1e-4)


@pytest.mark.slow
def test_lora(options, tmp_path):
    base = train(options(output=tmp_path / "base", steps=2))
    tuned = train(
        options(
            output=tmp_path / "lora", init=str(base.checkpoint), steps=3, lora=2, lora_alpha=4.0, learning_rate=1e-2
        )
    )
    before, after = weights(base.checkpoint), weights(tuned.checkpoint)
    config = load_checkpoint(tuned.checkpoint).config
    assert config.vlm.attn_lora is not None
    assert (config.vlm.attn_lora.rank, config.vlm.attn_lora.alpha) == (2, 4.0)
    frozen = [name for name in after if lora_frozen(name)]
    assert frozen
    for name in frozen:
        np.testing.assert_array_equal(after[name], before[name], err_msg=name)
    adapters = [name for name in after if "lora" in name]
    assert len(adapters) == len(after) - len(before)
    for name in adapters:
        # second factors begin at zero
        assert name.endswith("lora_a") or np.abs(after[name]).max() > 1e-4, name
    assert not np.array_equal(after["action_out_proj/kernel"], before["action_out_proj/kernel"])
    # the statistics that the weights were trained with stay theirs
    stats = [load_checkpoint(run.checkpoint).norm_stats for run in (base, tuned)]
    assert stats[0] is not None
    assert stats[1] is not None
    np.testing.assert_array_equal(stats[0]["state"].mean, stats[1]["state"].mean)
    # adapters that are there are trained on with the scale they have
    more = train(options(output=tmp_path / "more", init=str(tuned.checkpoint), steps=1, lora=2))
    again = load_checkpoint(more.checkpoint).config.vlm.attn_lora
    assert again == config.vlm.attn_lora
    with pytest.raises(TrainingError, match=r"lora_alpha: the adapters of .* have 4, not 2; give that"):
        train(options(output=tmp_path / "other", init=str(tuned.checkpoint), steps=1, lora=2, lora_alpha=2.0))
    facts = json.loads((tmp_path / "lora" / "train.json").read_text())
    trained = sum(after[name].size for name in after if name not in frozen)
    assert facts["trained_parameters"] == trained < facts["parameters"]


def test_masked_labels_have_no_influence(options, dataset, tmp_path):
    """Not even one that is no sensible number."""

    def spoil(number, columns):
        columns["actions"][~columns["label_mask"]] = 1e6

    spoilt = write_dataset(tmp_path / "spoilt" / dataset.name, spoil)
    clean = train(options(output=tmp_path / "a", steps=3))
    other = train(options(output=tmp_path / "b", steps=3, dataset=spoilt))
    assert_equal(weights(other.checkpoint), weights(clean.checkpoint))
    assert rows(tmp_path / "a", "validation_loss") == rows(tmp_path / "b", "validation_loss")


def test_a_loss_that_is_no_number_stops(options, monkeypatch):
    """The last good checkpoint stays, and nothing of the broken weights is saved."""
    make, run = trainer.make_step, options().output

    def breaking(*args, **kwargs):
        step = make(*args, **kwargs)

        def broken(state, frozen, batch, number, rate):
            return step(state, frozen, batch, number, rate if number < 3 else np.float32("nan"))

        return broken

    monkeypatch.setattr(trainer, "make_step", breaking)
    with pytest.raises(
        TrainingError, match=rf"step 4: weights of .* are not finite; {run / '2'} is whole.*lower --learning-rate"
    ) as error:
        train(options(steps=8, save_every=2, keep=0, validation=0.0))
    assert "\n" not in str(error.value)
    assert [p.name for p in run.iterdir() if p.name.isdigit()] == ["2"]
    assert all(np.isfinite(value).all() for value in weights(run / "2").values())


def test_a_full_disk_leaves_the_last_checkpoint(options, monkeypatch):
    run, write = options().output, train_state._write_tree

    def full(folder, tree):
        if int(tree["step"]) > 2:
            (folder.parent / "params" / "half").write_bytes(b"half")
            raise ValueError("RESOURCE_EXHAUSTED: Error writing: No space left on device")
        write(folder, tree)

    monkeypatch.setattr(train_state, "_write_tree", full)
    with pytest.raises(TrainingError, match=rf"{run}: the disk is full, step 4 was not saved; {run / '2'} is whole"):
        train(options(steps=6, save_every=2, validation=0.0))
    assert sorted(p.name for p in run.iterdir() if p.is_dir()) == ["2"]
    monkeypatch.undo()
    assert train(options(steps=6, save_every=2, validation=0.0, resume=True, keep=1)).finished
    assert sorted(p.name for p in run.iterdir() if p.is_dir()) == ["6"]


def test_what_left_no_checkpoint_begins_anew_with_other_options(options, monkeypatch):
    """So that the remedy that an error names can be taken."""

    def too_big(*args, **kwargs):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nmore lines")

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "make_step", lambda *args, **kwargs: too_big)
        with pytest.raises(
            TrainingError, match=r"Out of memory allocating 9 bytes\.; try a smaller --batch-size than 16"
        ) as e:
            train(options(steps=1, batch_size=16, validation=0.0))
    assert "\n" not in str(e.value)
    done = train(options(steps=1, batch_size=8, validation=0.0, resume=True))
    assert done.finished
    assert json.loads((done.checkpoint.parent / "train.json").read_text())["options"]["batch_size"] == 8


def test_a_damaged_description_is_said(options, monkeypatch):
    monkeypatch.setattr("vlascope_server.training.run_folder.steps_in", lambda _: [4])
    given = options(resume=True)
    given.output.mkdir()
    for content in ("", "[]", "{}"):
        (given.output / "train.json").write_text(content)
        with pytest.raises(TrainingError, match=r"train.json: damaged: .* --init \S+run/4$"):
            train(given)


def test_a_finished_run_is_described_and_needs_no_room(options, monkeypatch):
    done = train(options(steps=2, keep=1))
    file = done.checkpoint.parent / "train.json"
    said = json.loads(file.read_text())
    file.write_text(json.dumps(said | {"taken": 1}))  # killed between saving and saying so
    monkeypatch.setattr(trainer.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=0))
    for steps in (2, 1):
        assert train(options(steps=steps, keep=1, resume=True)).finished
        assert json.loads(file.read_text())["taken"] == 2
    with pytest.raises(TrainingError, match=r"1 more of 1\.\d+ MB each come, the disk has 0 B free"):
        train(options(steps=4, keep=1, resume=True))


def test_half_a_removal_leaves_no_half_checkpoint(options, monkeypatch):
    run = options().output
    train(options(steps=4, save_every=2, keep=0, validation=0.0))

    def killed(path, *args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train_state.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            train_state.prune(run, 1)
    assert [p.name for p in run.iterdir() if p.name.isdigit()] == ["4"]
    train_state.sweep(run)
    assert not (run / "saving").exists()


def test_the_rate_rises_and_falls(options):
    asked = options(warmup=10, final_share=0.1)
    rates = [trainer.learning_rate(asked, 2.0, step, 110) for step in (0, 9, 10, 60, 110, 200)]
    assert rates == pytest.approx([0.2, 2.0, 2.0, 1.1, 0.2, 0.2])


def test_minutes_alone_become_steps(monkeypatch):
    """Begun at second 0, slow while it compiles; 3 s a step leave 20 steps of the 4 minutes at second 180."""
    clock, now = trainer._Clock(0), 0.0
    monkeypatch.setattr(trainer.time, "monotonic", lambda: now)
    for step in range(1, 26):
        now = 120.0 + 3.0 * (step - 5)
        assert clock.steps(step, None, 0.0) is None
        found = clock.steps(step, 4.0, 0.0)
        assert (found is None) == (step < 25)
    assert found == 25 + 20


def test_sigterm_saves(options, monkeypatch):
    make, main_thread = trainer.make_step, threading.main_thread()

    def signalling(*args, **kwargs):
        step = make(*args, **kwargs)

        def signalled(state, frozen, batch, number, rate):
            if number == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return step(state, frozen, batch, number, rate)

        return signalled

    assert threading.current_thread() is main_thread
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(trainer, "make_step", signalling)
    stopped = train(options(steps=50, validation=0.0))
    assert (stopped.step, stopped.finished, stopped.checkpoint.name) == (3, False, "3")
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.slow
def test_two_devices_compute_what_one_does(options, dataset, tmp_path):
    """Within rounding: two halves of a sum are added in another order."""
    script = (
        "import sys, dataclasses, pathlib, jax\n"
        "from vlascope_server.presets import SEEDED\n"
        "from tests.server.training.conftest import SMALL\n"
        "from vlascope_server.training.options import TrainOptions\n"
        "from vlascope_server.training.trainer import train\n"
        "SEEDED['small'] = SMALL\n"
        "assert len(jax.devices()) == 2\n"
        "train(TrainOptions(dataset=pathlib.Path(sys.argv[1]), output=pathlib.Path(sys.argv[2]), init='small', steps=3,\n"
        "    batch_size=8, flow_samples=2, warmup=2, validation=0.0, log_every=1, delta_actions=False, ema=0.9))\n"
    )
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=1",
    }
    two = subprocess.Popen(
        [sys.executable, "-c", script, str(dataset), str(tmp_path / "two")], env=environment, stderr=subprocess.PIPE
    )
    train(options(output=tmp_path / "one", steps=3, validation=0.0))
    _, errors = two.communicate(timeout=120)
    assert two.returncode == 0, errors.decode()
    a, b = rows(tmp_path / "one"), rows(tmp_path / "two")
    np.testing.assert_allclose(list(b.values()), list(a.values()), rtol=1e-5)
    gradients = [rows(tmp_path / run, "grad_norm") for run in ("one", "two")]
    np.testing.assert_allclose(list(gradients[0].values()), list(gradients[1].values()), rtol=1e-4)
    # not parameter by parameter: where a gradient is all but zero, Adam steps by the learning rate in either direction
    after = weights(tmp_path / "two" / "3")
    for name, value in weights(tmp_path / "one" / "3").items():
        if name.endswith(("kernel", "/w", "linear", "gating_einsum")):
            np.testing.assert_allclose(after[name], value, atol=3e-4 + 1e-3 * np.abs(value).max(), err_msg=name)


def test_errors_are_one_line(dataset, tmp_path, capsys):
    def told(*arguments):
        capsys.readouterr()
        usual = ["--dataset", str(dataset), "--output", str(tmp_path / "run"), "--init", "small", "--steps", "1"]
        assert main(["train", *usual, *arguments]) == 2
        return capsys.readouterr().err.splitlines()[-1]

    def refused(*arguments):
        """What is said of options that contradict themselves."""
        capsys.readouterr()
        assert main(["train", "--dataset", str(dataset), "--output", str(tmp_path / "run"), *arguments]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "no dataset" in told("--dataset", str(tmp_path)) or "no LeRobot dataset" in told("--dataset", str(tmp_path))
    line = told("--robot", "aloha")
    assert "no camera for images/cam_high of robot aloha" in line
    assert "found image, wrist_image" in line
    line = told("--columns", "observation/image", "front")
    assert "front" in line
    assert "image, wrist_image" in line
    assert "no 'wipe'" in told("--tasks", "wipe")
    assert "no episode 8; it has 0 to 7" in told("--episodes", "6-8")
    # a word that cannot be read is tyro's to refuse, in a box
    with pytest.raises(SystemExit) as done:
        main(["train", "--dataset", str(dataset), "--output", str(tmp_path / "run"), "--episodes", "5-2"])
    assert done.value.code == 2
    said = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert "Error parsing --episodes" in said
    assert "'5-2': 5-2 runs backwards; write 2-5" in said
    assert "ema: expected at least 0 and less than 1, found 1.0" in refused("--steps", "1", "--ema", "1")
    assert "steps and minutes: neither was given; say how long to train" in refused()
    assert "small has none that could be kept; measure them" in told("--norm-stats", "checkpoint")
    line = told("--max-token-len", "2")
    assert "max_token_len: 2 tokens; 'open the drawer' takes" in line
    line = told("--init", "tiny-pi05", "--max-token-len", "16", "--tasks", TASKS[0])
    assert f"max_token_len: 16 tokens; {TASKS[0]!r} and the state takes" in line
    damaged = shutil.copytree(dataset, tmp_path / "damaged")
    lines = (damaged / "meta" / "tasks.jsonl").read_text().splitlines()
    (damaged / "meta" / "tasks.jsonl").write_text(lines[0] + "\n")
    foreign.info(damaged, total_tasks=1)
    assert "has no instruction among the dataset's tasks" in told("--dataset", str(damaged))
