"""What rollouts save is what captures read; what is not whole, or of another version, is one line that names the file."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from vlascope_base import VlascopeError
from vlascope_latents import CaptureSpec
from vlascope_server.capturing import observation_file
from vlascope_server.capturing.campaign_observations import CampaignObservations
from vlascope_server.capturing.observation_file import ObservationFile
from vlascope_server.capturing.options import CaptureError, CaptureOptions
from vlascope_server.robots import ROBOTS
from vlascope_sim.rollout import observations

from tests.server.capturing.saved import CAMPAIGN, INSTRUCTION, SPEC, about, readings, save


def opened(folder: Path, **options) -> CampaignObservations:
    return CampaignObservations.open(
        CaptureOptions(checkpoint="tiny", store=folder / "runs", observations=folder, **options)
    )


def refused(call, *parts: str) -> str:
    with pytest.raises(VlascopeError) as error:
        call()
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message
    return message


def rewritten(path: Path, change) -> None:
    """The file with its arrays changed in place by `change`."""
    with np.load(path) as found:
        arrays = dict(found)
    change(arrays)
    np.savez_compressed(path, **arrays)


def test_both_sides_speak_of_the_same_version():
    assert observation_file.VERSION == observations.VERSION


def test_every_array_reads_without_pickles_and_comes_back(tmp_path):
    path = save(tmp_path, 4)
    with np.load(path, allow_pickle=False) as found:
        arrays = {name: found[name] for name in found}
    assert json.loads(str(arrays["about"]))["prompt"] == INSTRUCTION
    assert arrays["actions"].shape == (5, 7)
    file = ObservationFile.open(path)
    held = {name: [array.dtype.str, list(array.shape)] for name, array in arrays.items() if name != "about"}
    assert {**file.about} == {**about(4), "observation": observations._KEYS, "arrays": held}
    assert file.timestep.tolist() == [0, 5, 10, 15, 20]
    assert file.seed.tolist() == [4000, 4001, 4002, 4003, 4004]
    assert file.captured.tolist() == [True, False, True, False, True]
    read = file.read()
    for number in range(5):
        seen = readings(4, number)
        np.testing.assert_array_equal(read["image"][number], seen.image)
        np.testing.assert_array_equal(read["wrist_image"][number], seen.wrist_image)
        np.testing.assert_array_equal(read["state"][number], seen.state)
    assert read["state"].dtype == np.float64
    assert read["annotations/goal_distance"].shape == (5, 1)
    assert file.keys() == {
        "image": "observation/image", "wrist_image": "observation/wrist_image", "state": "observation/state"
    }  # fmt: skip


def test_a_recording_is_what_the_rollouts_captured(tmp_path):
    for episode in (0, 1, 2):
        save(tmp_path, episode)
    recording = opened(tmp_path)
    first = recording.episodes[0]
    assert [e.name for e in recording.episodes] == [f"libero_object-task03-episode{n:03d}" for n in (0, 1, 2)]
    assert (first.timesteps, first.seeds, first.rows) == ((0, 10, 20), (0, 2, 4), (0, 2, 4))
    assert (first.instruction, first.success, first.total_steps) == (INSTRUCTION, True, 23)
    assert first.ended == {"lifted_first": None, "inferences": 5}
    kept = {
        name: first.metadata[name] for name in ("suite", "task_id", "episode_index", "seed", "told_object", "versions")
    }
    assert kept == {
        "suite": "libero_object", "task_id": 3, "episode_index": 0, "seed": 77, "told_object": "milk_1",
        "versions": {"numpy": "2"},
    }  # fmt: skip
    assert "id" not in first.metadata
    source = first.metadata["captured_from"]
    assert (source["kind"], source["campaign"], source["file"]) == ("observations", CAMPAIGN, f"{first.name}.npz")
    assert source["policy"]["fingerprint"] == "0123456789abcdef"
    assert recording.capture_spec == CaptureSpec.from_map(SPEC)
    assert recording.policies == {"0123456789abcdef": "tiny"}
    moments = recording.moments(1, 1, 3)
    seen = readings(1, 4)
    np.testing.assert_array_equal(moments[1].observation["observation/image"], seen.image)
    np.testing.assert_array_equal(moments[1].observation["observation/state"], seen.state)
    assert moments[1].observation["prompt"] == INSTRUCTION
    assert moments[1].annotations["goal_distance"].dtype == np.float32
    np.testing.assert_array_equal(moments[1].annotations["goal_distance"], np.float32([0.1 * 4]))
    assert "timestep 20" in recording.place(1, 2)


def test_what_is_chosen(tmp_path):
    for episode in (0, 1, 2):
        save(tmp_path, episode)
    assert [e.metadata["episode_index"] for e in opened(tmp_path, episodes=(2, 0)).episodes] == [0, 2]
    assert opened(tmp_path, stride=5).episodes[0].timesteps == (0, 5, 10, 15, 20)
    assert opened(tmp_path, stride=20).episodes[0].timesteps == (0, 20)
    assert len(opened(tmp_path, tasks=(INSTRUCTION,)).episodes) == 3
    refused(lambda: opened(tmp_path, episodes=(0, 7)), "episodes:", "has no 7; it has 0-2")
    refused(lambda: opened(tmp_path, tasks=("wave",)), "tasks:", "'wave'", INSTRUCTION)
    save(tmp_path / "never", 0, captured=False, capture_spec=None)
    uncaptured = opened(tmp_path / "never")
    assert uncaptured.episodes[0].timesteps == (0, 5, 10, 15, 20)
    assert uncaptured.capture_spec is None


def test_another_prompt_and_other_noise(tmp_path):
    save(tmp_path, 1)
    plain, told, noisy, other = (
        opened(tmp_path, **options).episodes[0]
        for options in ({}, {"prompt": "wave"}, {"noise_seed": 5}, {"noise_seed": 6})
    )
    assert told.instruction == "wave"
    assert told.seeds == plain.seeds
    assert told.metadata["task_instruction"] == INSTRUCTION
    assert (told.metadata["prompt_mode"], told.metadata["told_object"]) == ("given", None)
    assert told.metadata["captured_from"]["instruction"] == INSTRUCTION
    assert len({plain.seeds, noisy.seeds, other.seeds}) == 3
    assert (plain.metadata["seed"], noisy.metadata["seed"]) == (77, 5)
    # a seed follows from episode and timestep, whatever else is captured
    few = opened(tmp_path, noise_seed=5, stride=20).episodes[0]
    assert few.seeds == (noisy.seeds[0], noisy.seeds[2])


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_file_that_was_cut_short(tmp_path, share):
    path = save(tmp_path, 0)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(lambda: opened(tmp_path), str(path), "damaged or cut short", "move it away")


def test_a_damaged_byte_in_an_image_shows_when_it_is_read(tmp_path):
    path = save(tmp_path, 0)
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("wrist_image.npy")
    content = bytearray(path.read_bytes())
    content[info.header_offset + info.compress_size // 2] ^= 0xFF
    path.write_bytes(content)
    recording = opened(tmp_path)
    refused(lambda: recording.moments(0, 0, 1), str(path), "damaged or cut short")


def test_a_damaged_name_in_the_archives_directory_loses_no_array(tmp_path):
    """The directory has no checksum: `annotations/goal_distance` would be another array, and no annotation any more."""
    path = save(tmp_path, 0)
    content = path.read_bytes()
    name = b"annotations/goal_distance.npy"
    assert content.count(name) == 2
    for place, other in ((content.rindex(name), b"!"), (content.rindex(name) + 14, b"o")):
        path.write_bytes(content[:place] + other + content[place + 1 :])
        refused(lambda: opened(tmp_path), str(path), "damaged or cut short")
    path.write_bytes(
        content.replace(name, b"elsewhere:0/goal_distance.npy")
    )  # whole, by both names that the archive has
    refused(lambda: opened(tmp_path), str(path), "annotations/goal_distance: is missing")


def test_no_archive_at_all(tmp_path):
    path = save(tmp_path, 0)
    path.write_bytes(b"\x80\x04K\x01.")
    refused(lambda: opened(tmp_path), str(path), "damaged")


def test_an_older_version_says_what_to_do(tmp_path):
    path = save(tmp_path, 0)

    def as_version_1(arrays):
        for name in set(arrays) - {"timestep", "image", "wrist_image", "state", "actions"}:
            del arrays[name]

    rewritten(path, as_version_1)
    refused(
        lambda: opened(tmp_path),
        str(path),
        "neither prompts nor seeds",
        "run the rollout again with --save-observations",
    )


def test_a_newer_version_says_what_to_do(tmp_path):
    path = save(tmp_path, 0)
    rewritten(path, lambda arrays: arrays.update(version=np.int64(3)))
    refused(lambda: opened(tmp_path), str(path), "version 3", "reads 2", "upgrade")
    rewritten(path, lambda arrays: arrays.update(version=np.int64(1)))
    refused(lambda: opened(tmp_path), str(path), "version 1", "run the campaign again with --save-observations")


def _about_with(**changed):
    """What is said, other than a rollout says it; a map is changed where there is one."""

    def change(arrays):
        said = json.loads(str(arrays["about"]))
        for name, value in changed.items():
            said[name] = {**said[name], **value} if isinstance(said.get(name), dict) else value
        said.pop("arrays")
        arrays["about"] = np.array(json.dumps(said))

    return change


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"ended": {"metadata": {"success": True}}}, "metadata.success: is taken"),
        ({"ended": {"metadata": {"prompt_mode": "x"}}}, "'prompt_mode' is taken"),
        ({"ended": {"metadata": {"moved": float("nan")}}}, "expected finite numbers, found NaN"),
        ({"ended": {"metadata": {"long": "y" * 17000}}}, "more than 16384 bytes"),
        ({"ended": {"total_steps": -1}}, "total_steps: expected a whole number from 0 to 2^63-1"),
        ({"ended": {"total_steps": 10**30}}, "about"),
        ({"episode": {"episode_index": [1]}}, "episode.episode_index: expected a whole number"),
        ({"episode": {"id": "../../x"}}, "episode.id"),
        ({"episode": {"task_id": "zero"}}, "episode.task_id"),
        ({"episode": {"metadata": {"instruction": "lie"}}}, "episode.metadata.instruction: is taken"),
        ({"episode": {"metadata": {"torn": "\udcff"}}}, "about"),
        ({"prompt": "x" * 4097}, "4097 characters; expected at most 4096"),
        ({"prompt": "a\0b"}, "without NUL"),
    ],
)
def test_what_no_server_would_have_taken(tmp_path, changed, said):
    path = save(tmp_path, 0)
    rewritten(path, _about_with(**changed))
    refused(lambda: opened(tmp_path), str(path), said)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda a: a.update({"annotations/a b": np.zeros((5, 1))}), "'a b' is no name"),
        (lambda a: a.update({"annotations/great": np.zeros((5, 5000))}), "expected at most 64 and 4096"),
        (lambda a: a.update(timestep=np.zeros(5, int)), "timestep: expected each to be later"),
        (lambda a: a.update(about=np.array("[" * 100_000)), "damaged"),
    ],
)
def test_arrays_that_no_store_would_take(tmp_path, change, said):
    path = save(tmp_path, 0)

    def without_list(arrays):
        _about_with()(arrays)
        change(arrays)

    rewritten(path, without_list)
    refused(lambda: opened(tmp_path), str(path), said)


def test_an_archive_that_claims_to_be_encrypted(tmp_path):
    path = save(tmp_path, 0)
    content = bytearray(path.read_bytes())
    for mark, flags in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        place = content.find(mark)
        while place >= 0:
            content[place + flags] |= 1
            place = content.find(mark, place + 4)
    path.write_bytes(content)
    refused(lambda: opened(tmp_path), str(path), "damaged", "encrypted")


def test_an_array_that_claims_more_than_its_bytes(tmp_path):
    path = save(tmp_path, 0)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    claimed = io.BytesIO()
    np.lib.format.write_array_header_1_0(claimed, {"descr": "<i8", "fortran_order": False, "shape": (10**15,)})
    with zipfile.ZipFile(path, "w") as archive:
        for name, member in {**members, "seed.npy": claimed.getvalue()}.items():
            archive.writestr(name, member)
    refused(lambda: opened(tmp_path), str(path), "does not fit its bytes")


def test_a_stride_that_meets_no_inference(tmp_path):
    path = save(tmp_path, 0)
    refused(lambda: opened(tmp_path, stride=7), "stride 7:", str(path), "every 5 steps", "5 or 10")


def _about_without(name):
    def change(arrays):
        said = json.loads(str(arrays["about"]))
        del said[name]
        arrays["about"] = np.array(json.dumps(said))

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda a: a.update(seed=a["seed"][:-1]), "seed: expected 5 values"),
        (lambda a: a.update(image=a["image"][:-1]), "image: expected numbers of 5 inferences"),
        (lambda a: a.update(seed=a["seed"] - 1), "no negative"),
        (lambda a: a.update(about=np.array("{")), "damaged"),
        (lambda a: a.update(captured=a["seed"]), "captured: expected 5 values"),
        (lambda a: a.pop("state"), "state"),
        (_about_without("prompt"), "about: prompt: expected str"),
        (_about_without("episode"), "about: episode: expected dict"),
    ],
)
def test_arrays_that_do_not_fit_each_other(tmp_path, change, said):
    path = save(tmp_path, 0)
    rewritten(path, change)
    refused(lambda: opened(tmp_path), str(path), said)


def test_a_state_that_is_no_number_shows_when_it_is_read(tmp_path):
    path = save(tmp_path, 0)

    def spoil(arrays):
        arrays["state"][3, 2] = np.nan

    rewritten(path, spoil)
    recording = opened(tmp_path)
    refused(lambda: recording.moments(0, 0, 1), str(path), "state: holds a value that is no finite number")


def test_a_state_that_float32_cannot_hold(tmp_path):
    path = save(tmp_path, 0)
    rewritten(path, lambda arrays: arrays.update(state=arrays["state"] * 1e300))
    recording = opened(tmp_path)
    refused(lambda: recording.moments(0, 0, 1), str(path), "state: holds a value that is no finite number in float32")


def test_pickles_are_never_read(tmp_path):
    path = save(tmp_path, 0)

    class Harmful:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    content = io.BytesIO()
    np.save(content, np.array([Harmful()] * 5, object), allow_pickle=True)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, member in {**members, "seed.npy": content.getvalue()}.items():
            archive.writestr(name, member)
    refused(lambda: opened(tmp_path), str(path), "damaged")
    assert not (tmp_path / "ran").exists()


def test_folders_and_robots_that_do_not_fit(tmp_path):
    refused(lambda: opened(tmp_path), str(tmp_path), "found no observations/*.npz", "--save-observations")
    save(tmp_path, 0, robot="droid")
    recording = opened(tmp_path)
    with pytest.raises(CaptureError, match="holds observations of robot droid, and the policy reads libero's"):
        recording.check(ROBOTS["libero"].spec)
    twin = tmp_path / "observations" / "twin.npz"
    twin.write_bytes((tmp_path / "observations" / "libero_object-task03-episode000.npz").read_bytes())
    refused(lambda: opened(tmp_path), "holds too", "move one of them away")
