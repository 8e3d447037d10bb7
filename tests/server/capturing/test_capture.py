"""Recorded frames go through a policy into a store that every reader and analysis takes; what does not fit is one line."""

from __future__ import annotations

import io
import json
import re
import shutil
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from vlascope_latents.store import LatentStore, RunWriter, verify
from vlascope_server.capturing.batches import batches_of
from vlascope_server.capturing.capture import opened_run, prepare_capture
from vlascope_server.capturing.options import CaptureError, CaptureOptions
from vlascope_server.checkpoints import load_checkpoint
from vlascope_server.policies.contract import PLAIN
from vlascope_server.policies.loading import load_policy
from vlascope_server.robots.images import resize_with_pad

from tests.latents.store_fixtures import LAYOUT
from tests.server.capturing.conftest import SPEC
from tests.server.capturing.saved import CAMPAIGN, INSTRUCTION, readings, save
from tests.server.capturing.stores import array, assert_same_episode, differing, only_run
from tests.server.training.conftest import EPISODES, LENGTH, TASKS, episode


def test_saved_observations_with_every_label(capture, seen, tmp_path):
    code, out, lines = capture("--observations", seen)
    assert (code, lines) == (0, [])
    assert "12 frames of 4 episodes" in out
    assert re.search(r"stored +12 frames of 4 episodes, [\d.]+ frames a second", out)
    assert "other than when the observations were saved: the policy (tiny 0123456789abcdef acted)" in out
    run = only_run(tmp_path / "runs")
    episodes = LatentStore(run).episodes()
    assert [str(problem) for problem in verify(episodes)] == []
    assert len({episode.campaign for episode in episodes}) == 1
    first = episodes[0]
    assert (first.campaign != CAMPAIGN, first.row.name) == (True, "libero_object-task03-episode000")
    assert (first.status, first.success, first.row.total_steps) == ("sealed", True, 23)
    assert list(first.tensors()) == ["vlm/hidden_states"]  # what the campaign kept
    table = LatentStore(run).frames()
    assert table["timestep"].tolist() == [0, 10, 20] * 4
    assert set(table["suite"]) == {"libero_object"}
    assert set(table["instruction"]) == set(table["task_instruction"]) == {INSTRUCTION}
    assert table["init_state"].tolist() == np.repeat(range(4), 3).tolist()
    assert table["success"].tolist() == np.repeat([True, False, True, False], 3).tolist()
    assert set(table["metadata.told_object"]) == {"milk_1"}
    assert table["metadata.inferences"].tolist() == [5] * 12
    values = LatentStore(run).select("vlm").values("noise_seed")
    assert values.tolist() == [1000 * e + n for e in range(4) for n in (0, 2, 4)]
    distance = LatentStore(run).select("vlm").values("annotations/goal_distance")
    np.testing.assert_allclose(distance[:3, 0], [0, 0.2, 0.4], rtol=1e-6)


def test_what_is_stored_is_what_the_policy_computes(capture, seen, tmp_path):
    """Of one frame, by the policy's own plain program: the actions do not depend on what else is in the batch."""
    assert capture("--observations", seen, "--batch-size", "1", "--capture", SPEC)[0] == 0
    policy = load_policy("tiny")
    saw = readings(2, 4)
    observation = {
        "observation/image": saw.image, "observation/wrist_image": saw.wrist_image, "observation/state": saw.state,
        "prompt": INSTRUCTION,
    }  # fmt: skip
    prepared = policy.prepare(observation)
    np.testing.assert_array_equal(prepared.images["base_0_rgb"], resize_with_pad(saw.image, 112))
    outcome = policy.compile(PLAIN, 1).run([prepared], [policy.draw(2004)])
    expected = policy.robot_actions(np.asarray(outcome.actions)[0], prepared)
    selection = LatentStore(tmp_path / "runs").select("vlm", episodes=["libero_object-task03-episode002"])
    np.testing.assert_array_equal(selection.values("actions")[2], expected)
    np.testing.assert_array_equal(selection.values("state")[2], saw.state.astype(np.float32))


def test_a_dataset_with_every_label(capture, dataset, tmp_path):
    code, out, lines = capture("--dataset", dataset, "--capture", SPEC, "--stride", "5", "--episodes", "1,4")
    assert (code, lines) == (0, []), lines
    assert "6 frames of 2 episodes" in out
    run = only_run(tmp_path / "runs")
    table = LatentStore(run).frames()
    assert table["timestep"].tolist() == [0, 5, 10] * 2
    assert table["episode_index"].tolist() == [1] * 3 + [4] * 3
    for told in ("instruction", "task_instruction"):
        assert table[told].tolist() == [TASKS[1]] * 3 + [TASKS[0]] * 3
    assert table["total_steps"].tolist() == [LENGTH] * 6
    assert table["success"].isna().tolist() == [True] * 6  # the dataset does not say
    model = json.loads((run / "run.json").read_text())["model"]
    recording = model["offline_capture"]["recording"]
    assert (recording["kind"], recording["name"]) == ("dataset", dataset.name)
    assert recording["columns"]["observation/wrist_image"] == "wrist_image"
    source = LatentStore(run).episode("episode-000004").metadata["captured_from"]
    assert source == {"kind": "dataset", "dataset": dataset.name, "episode": 4}
    # and the frames are those of the dataset
    columns, images = episode(4)
    policy = load_policy("tiny")
    seed = int(LatentStore(run).select("vlm", episodes=["episode-000004"]).values("noise_seed")[1])
    observation = {
        "observation/image": images["image"][5], "observation/wrist_image": images["wrist_image"][5],
        "observation/state": columns["state"][5], "prompt": TASKS[0],
    }  # fmt: skip
    prepared = policy.prepare(observation)
    outcome = policy.compile(PLAIN, 4).run([prepared] * 4, [policy.draw(seed)] * 4)
    expected = policy.robot_actions(np.asarray(outcome.actions)[0], prepared)
    stored = LatentStore(run).select("vlm", episodes=["episode-000004"]).values("actions")[1]
    np.testing.assert_allclose(stored, expected, atol=1e-5)


def test_a_dataset_that_says_how_episodes_ended(capture, tmp_path):
    from vlascope_datasets import DatasetWriter

    from tests.server.training.conftest import FEATURES

    features = {**FEATURES, "next.success": {"dtype": "bool", "shape": (1,)}}
    with DatasetWriter.create(tmp_path / "demos", 10, features, "panda") as writer:
        for number in range(2):
            columns, images = episode(number)
            ended = np.arange(LENGTH) >= (LENGTH - 1 if number else LENGTH)
            writer.add_episode({**columns, "next.success": ended}, images, TASKS[0])
    assert capture("--dataset", tmp_path / "demos", "--stride", "12", "--capture", SPEC)[0] == 0
    assert [e.success for e in LatentStore(tmp_path / "runs").episodes()] == [False, True]


def test_seeds_and_frames_do_not_depend_on_order_or_batches(capture, dataset, tmp_path):
    options = ("--dataset", dataset, "--capture", SPEC, "--stride", "5", "--noise-seed", "9")
    for name, more in (("few", ("--episodes", "4,2", "--batch-size", "2")), ("all", ("--batch-size", "3"))):
        assert capture(*options, *more, store=tmp_path / name)[0] == 0
    few, every = LatentStore(tmp_path / "few"), LatentStore(tmp_path / "all")
    assert len(every.episodes()) == EPISODES
    for name in ("episode-000002", "episode-000004"):
        seeds = [store.select("vlm", episodes=[name]).values("noise_seed").tolist() for store in (few, every)]
        assert seeds[0] == seeds[1]
        np.testing.assert_allclose(
            array(only_run(tmp_path / "few"), "action", "x_t", name),
            array(only_run(tmp_path / "all"), "action", "x_t", name), atol=1e-4,
        )  # fmt: skip
    assert len(set(every.select("vlm").values("noise_seed").tolist())) == EPISODES * 3


def test_another_prompt_and_other_noise_change_what_they_should(capture, seen, tmp_path):
    usual = ("--observations", seen, "--capture", SPEC)
    for name, options in (("plain", ()), ("told", ("--prompt", "wave")), ("noisy", ("--noise-seed", "4"))):
        code, out, _ = capture(*usual, *options, store=tmp_path / name)
        assert code == 0
        said = {"plain": "acted)\n", "told": ", the prompt\n", "noisy": ", the noise\n"}[name]
        assert said in out
    plain, told, noisy = (LatentStore(tmp_path / name).episodes() for name in ("plain", "told", "noisy"))
    assert len({episodes[0].campaign for episodes in (plain, told, noisy)}) == 3
    for one, other, noise in zip(plain, told, noisy, strict=True):
        assert differing(one, other) == {"vlm/hidden_states", "action/hidden_states", "action/x_t"}
        # the vlm sees no noise
        assert differing(one, noise) == {"action/hidden_states", "action/x_t"}
        assert (one.metadata["instruction"], other.metadata["instruction"]) == (INSTRUCTION, "wave")
        assert other.metadata["prompt_mode"] == "given"
        assert (one.success, one.metadata["task_id"]) == (other.success, other.metadata["task_id"])


def test_drawn_weights_say_what_they_are(capture, seen, tmp_path):
    usual = ("--observations", seen, "--capture", SPEC, "--episodes", "0")
    assert capture(*usual, "--checkpoint", "drawn:3", "--like", "tiny")[0] == 0
    assert capture(*usual, "--checkpoint", "drawn:4", "--like", "tiny", store=tmp_path / "other")[0] == 0
    assert capture(*usual, store=tmp_path / "trained")[0] == 0
    run = only_run(tmp_path / "runs")
    assert run.name.endswith("-drawn-3-like-tiny")
    models = [
        json.loads((only_run(tmp_path / name) / "run.json").read_text())["model"]
        for name in ("runs", "other", "trained")
    ]
    assert models[0]["checkpoint"] == "drawn:3 like tiny"
    assert len({model["fingerprint"] for model in models}) == 3
    assert models[0]["configuration"] == models[2]["configuration"]
    drawn, other, trained = (LatentStore(tmp_path / name).episodes()[0] for name in ("runs", "other", "trained"))
    everything = {"vlm/hidden_states", "action/hidden_states", "action/x_t"}
    assert differing(drawn, other) == differing(drawn, trained) == everything


def test_a_dry_run_says_what_would_be_stored_and_stores_nothing(capture, seen, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    code, out, _ = capture("--observations", seen, "--dry-run")
    assert code == 0
    assert "to store   12 frames, 4.608 kB" in out
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_there_already_is_not_captured_twice(capture, refused, seen, tmp_path):
    assert capture("--observations", seen)[0] == 0
    run = only_run(tmp_path / "runs")
    line = refused("--observations", seen)
    assert f"{run} holds this capture already" in line
    assert f"--resume {run}" in line
    assert f"--store: {run} is a run" in refused("--observations", seen, store=run).replace("store:", "--store:")
    # under other words it is another capture
    assert capture("--observations", seen, "--prompt", "wave")[0] == 0
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_a_finished_capture_has_nothing_to_go_on_with(capture, seen, tmp_path):
    assert capture("--observations", seen)[0] == 0
    run = only_run(tmp_path / "runs")
    before = LatentStore(run).episodes()
    code, out, _ = capture("--resume", run)
    assert code == 0
    assert "stored     no frames of no episodes" in out
    for one, other in zip(before, LatentStore(run).episodes(attempts="all"), strict=True):
        assert_same_episode(one, other)


def test_a_run_goes_on_with_its_own_options_alone(capture, refused, seen, tmp_path):
    run = _begun(seen, tmp_path, capture)
    for options, parts in (
        (("--prompt", "wave"), ["--prompt wave (the run has none)"]),
        (("--noise-seed", "3"), ["--noise-seed 3 (the run has none)"]),
        (("--checkpoint", "tiny-half-0"), ["--checkpoint tiny-half-0 (the run has tiny)"]),
        (("--capture", '{"layers": [1]}'), ["--capture", "(the run has none)"]),
        (
            ("--batch-size", "2", "--stride", "5"),
            ["--batch-size 2 (the run has none)", "--stride 5 (the run has none)"],
        ),
        (("--episodes", "0-2"), ["--episodes 0-2 (the run has none)"]),
        (("--num-steps", "5"), ["--num-steps 5 (the run has 10)"]),
        (("--label", "mine"), ["--label mine (the run has '')"]),
    ):
        line = refused("--resume", run, *options)
        for part in [*parts, f"contradicts the capture in {run}", "leave"]:
            assert part in line, line
    # what decides only how it is written may be another
    assert capture("--resume", run, "--writers", "2", "--queue-bytes", "10MB", "--log-level", "warning")[0] == 0


def _begun(seen, tmp_path, capture) -> Path:
    assert capture("--observations", seen)[0] == 0
    return only_run(tmp_path / "runs")


def test_a_run_goes_on_with_its_own_weights_alone(capture, refused, seen, tmp_path):
    """The folder is the same, and another checkpoint lies in it."""
    folder = tmp_path / "policy"
    shutil.copytree(load_checkpoint("tiny").path, folder)
    assert capture("--observations", seen, "--checkpoint", folder)[0] == 0
    run = only_run(tmp_path / "runs")
    shutil.rmtree(folder)
    shutil.copytree(load_checkpoint("tiny-half-0").path, folder)
    line = refused("--resume", run)
    fingerprints = [load_policy(name).fingerprint for name in ("tiny-half-0", "tiny")]
    assert "--checkpoint: fingerprint {}, the run has {}".format(*fingerprints) in line


def test_a_run_goes_on_with_its_own_frames_alone(capture, refused, seen, tmp_path):
    run = _begun(seen, tmp_path, capture)
    save(seen, 3, prompt="wave")
    line = refused("--resume", run)
    assert "the frames of the recording" in line
    assert f"contradicts the capture in {run}" in line
    save(seen, 4)
    assert "the recording: episodes 5, the run has 4" in refused("--resume", run)


def test_what_is_no_capture_cannot_be_gone_on_with(refused, tmp_path):
    assert f"{tmp_path}" in refused("--resume", tmp_path)
    with RunWriter.create(tmp_path / "served", "tiny", LAYOUT, {"options": {}}) as run:
        pass
    assert "a run of served rollouts" in refused("--resume", run.path)


def test_recordings_that_do_not_fit(refused, seen, dataset, tmp_path):
    one_of = "expected one of --dataset and --observations"
    assert f"{one_of}, found none" in refused()
    assert f"{one_of}, found both" in refused("--dataset", dataset, "--observations", seen)
    assert "stride: expected at least 1, found 0" in refused("--observations", seen, "--stride", "0")
    assert "batch_size: expected at least 1, found 0" in refused("--observations", seen, "--batch-size", "0")
    assert "label 'a b': expected at most 48" in refused("--observations", seen, "--label", "a b")
    assert "columns: only for --dataset" in refused("--observations", seen, "--columns", "a", "b")
    assert "no episode 9; it has 0 to 7" in refused("--dataset", dataset, "--episodes", "9")
    assert "has no 9; it has 0-3" in refused("--observations", seen, "--episodes", "9")
    assert f"{tmp_path / 'none'}" in refused("--dataset", tmp_path / "none")
    assert f"{tmp_path / 'none'}" in refused("--observations", tmp_path / "none")
    save(seen, 5, prompt="wave")
    assert "nothing is left of its observations" in refused(
        "--observations", seen, "--episodes", "1", "--tasks", "wave"
    )
    assert "no episode is left" in refused("--dataset", dataset, "--episodes", "1", "--tasks", TASKS[0])
    assert "99 is out of range" in refused("--observations", seen, "--capture", '{"layers": [99]}')
    assert "is a file, expected a folder" in refused("--observations", seen, store=dataset / "meta/info.json")
    assert "queue_bytes: one frame takes" in refused("--observations", seen, "--queue-bytes", "10")
    line = refused("--observations", seen, "--min-free", "1000TB", "--episodes", "0-3")
    assert "12 frames take 4.608 kB" in line
    assert "free" in line


def test_another_robots_recordings(refused, seen, dataset, tmp_path):
    assert "for aloha" in refused("--dataset", dataset, "--robot", "aloha")
    wide = tmp_path / "wide"
    save(wide, 0, width=9)
    line = refused("--observations", wide)
    assert str(wide) in line
    assert "observation/state: expected shape (8,), found (9,)" in line
    path = save(tmp_path / "one-eyed", 0)
    with np.load(path) as found:
        arrays = dict(found)
    about = json.loads(str(arrays["about"]))
    del about["observation"]["wrist_image"]
    np.savez_compressed(path, **{**arrays, "about": np.array(json.dumps(about))})
    line = refused("--observations", tmp_path / "one-eyed")
    assert f"{path}: timestep 0: observation/wrist_image: missing" in line
    save(tmp_path / "droid", 0, robot="droid")
    assert "holds observations of robot droid, and the policy reads libero's" in refused(
        "--observations", tmp_path / "droid"
    )
    from vlascope_datasets import DatasetWriter

    from tests.server.training.conftest import FEATURES

    features = {name: feature for name, feature in FEATURES.items() if name != "wrist_image"}
    with DatasetWriter.create(tmp_path / "blind", 10, features, "panda") as writer:
        columns, images = episode(0)
        writer.add_episode(columns, {"image": images["image"]}, TASKS[0])
    line = refused("--dataset", tmp_path / "blind")
    assert "no camera for observation/wrist_image of robot libero" in line
    assert "--columns" in line


@pytest.mark.parametrize("share", [0.4, 0.95])
def test_damaged_files_are_found_before_anything_is_stored(refused, seen, share):
    path = sorted((seen / "observations").iterdir())[2]
    content = bytearray(path.read_bytes())
    if share > 0.5:
        path.write_bytes(content[: int(share * len(content))])
    else:
        content[int(share * len(content))] ^= 0xFF
        path.write_bytes(content)
    line = refused("--observations", seen)
    assert str(path) in line
    assert "damaged or cut short" in line


def _rewritten(data: Path, copy: Path, column: str, change) -> tuple[Path, Path]:
    """A copy of a dataset in whose last file `change` was made to the rows of a column; that file, and the one that was."""
    shutil.copytree(data, copy)
    whole, file = (sorted((folder / "data").rglob("*.parquet"))[-1] for folder in (data, copy))
    table = pq.read_table(file)
    rows, place = table.column(column).to_pylist(), table.column_names.index(column)
    change(rows)
    pq.write_table(table.set_column(place, table.field(column), pa.array(rows, table.field(column).type)), file)
    return file, whole


def test_a_state_of_a_dataset_that_is_no_number(refused, dataset, tmp_path):
    def spoil(rows):
        rows[-8][1] = float("nan")

    _rewritten(dataset, tmp_path / "nan", "state", spoil)
    line = refused("--dataset", tmp_path / "nan", "--stride", "2")
    assert "episode 7, frame 4: state: holds a value that is no finite number" in line


def test_an_episode_of_two_instructions(capture, refused, dataset, tmp_path):
    def tell_otherwise(rows):
        rows[-1] = 1 - rows[-1]

    _rewritten(dataset, tmp_path / "two", "task_index", tell_otherwise)
    line = refused("--dataset", tmp_path / "two")
    assert "episode 7: its frames are of 2 instructions" in line
    assert capture("--dataset", tmp_path / "two", "--stride", "6", "--capture", SPEC)[0] == 0


def test_a_state_of_a_dataset_that_float32_cannot_hold(refused, tmp_path):
    from tests.server.training.conftest import write_dataset

    def grow(number, columns):
        if number == 3:
            columns["state"][0, 2] = 3e38

    data = write_dataset(tmp_path / "huge", grow)
    line = refused("--dataset", data, "--episodes", "3", "--stride", "7")
    assert "episode 3, frame 0: state: number 2 is 3e+38; expected numbers that float32 holds" in line


def test_a_damaged_image_of_a_dataset_is_found_before_anything_is_stored(refused, dataset, tmp_path):
    def damage(rows):
        content = bytearray(rows[-1]["bytes"])
        content[len(content) // 2] ^= 0xFF
        rows[-1] = {**rows[-1], "bytes": bytes(content)}

    _rewritten(dataset, tmp_path / "broken", "image", damage)
    line = refused("--dataset", tmp_path / "broken", "--stride", "11", "--capture", SPEC)
    assert "episode 7, frame 11, image: no image" in line


def _as_jpeg(content: bytes) -> bytes:
    out = io.BytesIO()
    Image.open(io.BytesIO(content)).save(out, "JPEG")
    return out.getvalue()


def test_an_image_that_cannot_be_decoded_keeps_what_was_sealed(capture, dataset, tmp_path):
    """One without checksums of its own shows when it is decoded; the run goes on once it is what it was begun with."""

    def damage(rows):
        rows[-1] = {**rows[-1], "bytes": _as_jpeg(rows[-1]["bytes"])[:-4]}

    file, whole = _rewritten(dataset, tmp_path / "broken", "image", damage)
    code, _, lines = capture("--dataset", tmp_path / "broken", "--stride", "11", "--capture", SPEC)
    assert code == 2
    assert "goes on" in lines[-2]
    assert "image" in lines[-1]
    run = only_run(tmp_path / "runs")
    sealed = [e.id for e in LatentStore(run).episodes() if e.status == "sealed"]
    assert 0 < len(sealed) < EPISODES
    shutil.copyfile(whole, file)
    code, _, lines = capture("--resume", run)
    assert code == 2
    assert "the frames of the recording" in lines[-1]
    assert [e.id for e in LatentStore(run).episodes() if e.status == "sealed"] == sealed


def test_other_pixels_are_another_recording(capture, refused, dataset, tmp_path):
    """States, instructions and lengths alone do not say which frames these are."""
    assert capture("--dataset", dataset, "--stride", "11", "--capture", SPEC)[0] == 0
    run = only_run(tmp_path / "runs")

    def swap(rows):
        rows[-1] = {**rows[-1], "bytes": rows[-2]["bytes"]}

    _rewritten(dataset, tmp_path / "other", "wrist_image", swap)
    code, _, _ = capture("--dataset", tmp_path / "other", "--stride", "11", "--capture", SPEC)
    assert code == 0  # no capture that is there already
    campaigns = {e.campaign for e in LatentStore(tmp_path / "runs").episodes()}
    assert len(campaigns) == 2
    # the run's own dataset becomes the other
    place = tmp_path / "mine"
    shutil.copytree(dataset, place)
    assert capture("--dataset", place, "--stride", "11", "--capture", SPEC, store=tmp_path / "mixed")[0] == 0
    shutil.rmtree(place)
    shutil.copytree(tmp_path / "other", place)
    line = refused("--resume", only_run(tmp_path / "mixed"))
    assert "the frames of the recording" in line
    assert run.is_dir()


def test_the_default_of_noise_seed_is_the_same_capture(capture, refused, dataset, tmp_path):
    assert capture("--dataset", dataset, "--stride", "11", "--capture", SPEC)[0] == 0
    run = only_run(tmp_path / "runs")
    line = refused("--dataset", dataset, "--stride", "11", "--capture", SPEC, "--noise-seed", "0")
    assert f"{run} holds this capture already" in line
    assert capture("--resume", run, "--noise-seed", "0")[0] == 0
    assert capture("--dataset", dataset, "--stride", "11", "--capture", SPEC, "--noise-seed", "1")[0] == 0


def test_options_that_no_capture_can_have(capture, refused, seen, tmp_path):
    assert "prompt: 4097 characters; expected at most 4096" in refused("--observations", seen, "--prompt", "x" * 4097)
    assert "found '\\udcff' at character 2; write it in UTF-8" in refused(
        "--observations", seen, "--prompt", "a\udcffb"
    )
    assert "batch_size: expected at most 4096" in refused("--observations", seen, "--batch-size", "100000000")
    for option in ("--store", "--observations", "--dataset"):
        assert f"{option}: expected a path, found nothing" in refused(option, "")
    assert "checkpoint: expected a path" in refused("--observations", seen, "--checkpoint", "")
    code, out, _ = capture("--observations", seen, "--episodes", "0", "--batch-size", "4096", "--dry-run")
    assert (code, "batches of 3\n" in out) == (0, True)


def test_one_warning_of_all_prompts_that_are_too_long(capture, seen, tmp_path, caplog):
    for options, said in (((), "12 of 12 frames"), (("--dry-run",), "4 of 4 frames")):
        caplog.clear()
        assert capture("--observations", seen, "--max-token-len", "8", *options, store=tmp_path / said)[0] == 0
        (record,) = [record for record in caplog.records if record.levelname == "WARNING"]
        assert said in record.getMessage()
        assert "tokens did not fit into 8" in record.getMessage()


def test_a_run_keeps_its_spec_and_its_readers(capture, refused, seen, tmp_path):
    assert capture("--observations", seen, "--capture", SPEC)[0] == 0
    run = only_run(tmp_path / "runs")
    assert "--readable-by everyone (the run has owner)" in refused("--resume", run, "--readable-by", "everyone")
    assert '--capture {"' in refused("--resume", run, "--capture", '{"layers": [1]}')


def test_of_two_that_begin_at_once_one_makes_the_run(seen, tmp_path):
    """Both were prepared while there was none."""
    options = CaptureOptions(
        checkpoint="tiny", store=tmp_path / "runs", observations=seen, min_free=10**6, episodes=(0,)
    )
    policy = load_policy("tiny")
    first, second = (prepare_capture(lambda: policy, options, lambda *_: None) for _ in range(2))
    made, refusals = [], []
    ready = threading.Barrier(2)

    def begin(prepared):
        ready.wait()
        try:
            with opened_run(prepared) as run:
                made.append(run.path)
        except CaptureError as error:
            refusals.append(str(error))

    threads = [threading.Thread(target=begin, args=(prepared,)) for prepared in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list((tmp_path / "runs").iterdir()) == made
    (refusal,) = refusals
    assert f"{made[0]} holds this capture already" in refusal


def test_batches_follow_from_the_frames_alone():
    every = batches_of([3, 1, 4], 3, set())
    assert every == [((0, 0), (0, 1), (0, 2)), ((1, 0), (2, 0), (2, 1)), ((2, 2), (2, 3))]
    assert batches_of([3, 1, 4], 3, {0}) == every[1:]
    assert batches_of([3, 1, 4], 3, {2}) == every[:2]
    assert batches_of([3, 1, 4], 3, {0, 1, 2}) == []
