"""An opening that is refused leaves nothing, and `verify` names arrays that belong to no frame or to no capture spec."""

from __future__ import annotations

import errno
import json
import os
import shutil

import pytest
import zarr
from vlascope_latents import CaptureSpec
from vlascope_latents.store import LatentStore, RunWriter, StoreError, verify
from vlascope_latents.store.durable import DurableStore

from tests.latents.store_fixtures import LAYOUT, frame, plan, values

TWO = CaptureSpec(components=("hidden_states", "post_attn_embedding"), layers=(0,))
ONE = CaptureSpec(experts=("vlm",), components=("mlp_activation",), layers=(1,), spans=("text",))


class FailingDisk(DurableStore):
    """Takes `takes` values and removes folders `removals` times, then refuses with `reason`."""

    takes = removals = 1 << 30
    reason = errno.ENOSPC

    def _set_durably(self, key, value):
        FailingDisk.takes -= 1
        if FailingDisk.takes < 0:
            raise OSError(FailingDisk.reason, os.strerror(FailingDisk.reason))
        super()._set_durably(key, value)

    async def delete_dir(self, prefix):
        FailingDisk.removals -= 1
        if FailingDisk.removals < 0:
            raise OSError(FailingDisk.reason, os.strerror(FailingDisk.reason))
        await super().delete_dir(prefix)


@pytest.fixture
def run(tmp_path):
    FailingDisk.takes = FailingDisk.removals = 1 << 30
    with RunWriter.create(tmp_path / "runs", "x", LAYOUT, open_store=FailingDisk) as writer:
        yield writer


def files(run) -> set[str]:
    return {str(path.relative_to(run.path)) for path in run.path.rglob("*")}


def write_one(run, spec: CaptureSpec, name: str = "a") -> None:
    capture = plan(spec)
    episode = run.open_episode(name, {}, capture)
    for n in range(3):
        episode.append(frame(capture, n), timestep=n, values=values(n))
    assert episode.seal(success=True) == 3


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EMFILE])
@pytest.mark.parametrize("takes", range(7))
def test_a_refused_opening_leaves_no_file_and_no_attempt(run, takes, reason):
    before = files(run)
    FailingDisk.takes, FailingDisk.reason = takes, reason
    with pytest.raises(StoreError, match="cannot open episode a "):
        run.open_episode("a", {}, plan(TWO))
    assert files(run) == before
    FailingDisk.takes = 1 << 30
    write_one(run, ONE)
    (episode,) = LatentStore(run.path).episodes(attempts="all")
    assert (episode.row.attempt, episode.frames, list(episode.tensors())) == (1, 3, ["vlm/mlp_activation"])
    group = zarr.open_group(episode.folder, mode="r")
    assert sorted(group) == ["actions", "annotations", "denoise_time", "prompt_mask", "timestep", "vlm"]
    assert [str(problem) for problem in verify([episode])] == []


def test_an_index_that_cannot_be_made_leaves_nothing(run, monkeypatch):
    before = files(run)

    def refused(path):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("vlascope_latents.store.index.sync", refused)
    with pytest.raises(StoreError, match="Too many open files"):
        run.open_episode("a", {}, plan(TWO))
    assert files(run) == before


def test_what_cannot_be_removed_yet_is_nobodys_next_attempt(run):
    FailingDisk.takes, FailingDisk.removals = 3, 0
    with pytest.raises(StoreError):
        run.open_episode("a", {}, plan(TWO))
    FailingDisk.takes = 1 << 30  # removing goes on failing
    write_one(run, ONE)
    (episode,) = LatentStore(run.path).episodes(attempts="all")
    assert (episode.row.folder, list(episode.tensors())) == ("a@2", ["vlm/mlp_activation"])
    assert (run.path / "latents.zarr/episodes/a").exists()
    FailingDisk.removals = 1 << 30
    write_one(run, ONE, "b")
    assert not (run.path / "latents.zarr/episodes/a").exists()
    assert [str(problem) for problem in verify(LatentStore(run.path).episodes(attempts="all"))] == []


def test_a_kill_while_opening_leaves_nothing_after_recovery(run):
    before = files(run)
    write_one(run, ONE)
    run.close()
    folder = run.path / "latents.zarr/episodes"
    shutil.copytree(folder / "a", folder / "killed")
    (folder / "killed/zarr.json").unlink()  # the attributes come last
    for name in ("killed", "alone"):
        (run.path / f"index/{name}.jsonl").touch()
    recovery = RunWriter.recover(run.path)
    assert sorted(recovery.swept) == ["episodes/killed", "index/alone.jsonl"]
    assert {name for name in files(run) if "killed" in name or "alone" in name} == set()
    assert before <= files(run)


@pytest.mark.parametrize("options", [{"workers": 0}, {"on_full": "wait"}])
def test_a_run_that_is_refused_leaves_no_folder(tmp_path, options):
    with pytest.raises(StoreError):
        RunWriter.create(tmp_path / "runs", "x", LAYOUT, **options)
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_run_on_a_full_disk_leaves_no_folder(tmp_path):
    FailingDisk.takes = 1
    with pytest.raises(StoreError, match="make room"):
        RunWriter.create(tmp_path / "runs", "x", LAYOUT, open_store=FailingDisk)
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_table_that_cannot_be_written_unseals_nothing(run, monkeypatch):
    def refused(path, rows):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr("vlascope_latents.store.run_writer.write_table", refused)
        write_one(run, ONE)
        assert not (run.path / "episodes.parquet").exists()
        assert [episode.status for episode in LatentStore(run.path).episodes()] == ["sealed"]
    run.close()
    assert (run.path / "episodes.parquet").exists()


@pytest.fixture
def sealed(run):
    write_one(run, TWO)
    return LatentStore(run.path).episode("a")


def problems(episode) -> str:
    return "\n".join(str(problem) for problem in verify([episode]))


def test_verify_names_an_array_that_no_spec_asked_for(sealed):
    assert problems(sealed) == ""
    shutil.copytree(sealed.folder / "vlm/hidden_states", sealed.folder / "vlm/mlp_activation")
    assert "vlm/mlp_activation: the array is not part of the capture spec" in problems(sealed)
    assert "frame 2: vlm/mlp_activation: the index has no checksum of it" in problems(sealed)


def test_verify_names_an_array_that_is_missing(sealed):
    shutil.rmtree(sealed.folder / "action/hidden_states")
    assert "action/hidden_states: the array is missing" in problems(sealed)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("shape", [4, 1, 80, 512], "the array has 4 frames, and the index 3"),
        ("shape", [3, 1, 64, 512], "shape: expected (1, 80, 512) by the capture spec, found (1, 64, 512)"),
        ("attributes", {"dtype": "float32"}, "dtype: expected bfloat16 by the capture spec, found float32"),
    ],
)
def test_verify_compares_an_array_with_spec_and_index(sealed, field, value, says):
    file = sealed.folder / "vlm/hidden_states/zarr.json"
    content = json.loads(file.read_bytes())
    content[field] = value if field == "shape" else content[field] | value
    file.write_text(json.dumps(content))
    assert says in problems(sealed)


def test_verify_names_shards_without_a_frame_and_frames_without_a_shard(sealed):
    folder = sealed.folder / "vlm/hidden_states"
    (folder / "c.2.0.0.0").rename(folder / "c.7.0.0.0")
    found = problems(sealed)
    assert "vlm/hidden_states: 1 file of no committed frame, such as c.7.0.0.0" in found
    assert "frame 2: " in found
    assert "c.2.0.0.0: cannot read the frame" in found


def attributes(episode, **changes):
    file = episode.folder / "zarr.json"
    content = json.loads(file.read_bytes())
    content["attributes"] |= changes
    file.write_text(json.dumps(content))


def flip(file):
    content = bytearray(file.read_bytes())
    content[0] ^= 0x55
    file.write_bytes(bytes(content))


DAMAGES = {
    "a column deleted": (lambda e: shutil.rmtree(e.folder / "actions"), "actions/zarr.json: the file is missing"),
    "a column changed": (lambda e: flip(e.folder / "actions/c.0.0.0"), "actions/c.0.0.0: is not what the index says"),
    "times changed": (lambda e: flip(e.folder / "timestep/c.0"), "timestep/c.0: is not what the index says"),
    "a group without its metadata": (lambda e: (e.folder / "vlm/zarr.json").unlink(), "vlm/zarr.json: the file is missing"),
    "a group that nobody asked for": (
        lambda e: shutil.copytree(e.folder / "vlm", e.folder / "other"), "of no part of the episode, such as other/",
    ),
    "a hidden array": (
        lambda e: shutil.copytree(e.folder / "vlm/hidden_states", e.folder / "vlm/.hidden"), "such as vlm/.hidden/",
    ),
    "another verdict": (lambda e: attributes(e, success=False), "success: the table says True, and the group's"),
    "another instruction": (lambda e: attributes(e, metadata={"instruction": "else"}), "metadata: the table says"),
    "another length": (lambda e: attributes(e, frames=99), "frames: the table says 3, and the group's attributes 99"),
    "open after all": (lambda e: attributes(e, status="open"), "status: the table says 'sealed'"),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "said"), DAMAGES.values(), ids=DAMAGES)
def test_verify_sees_what_other_readers_see(sealed, damage, said):
    """Columns, attributes and stray arrays are what every Zarr reader shows."""
    assert problems(sealed) == ""
    damage(sealed)
    assert said in problems(sealed)


def test_verify_sees_a_line_of_the_index_that_was_changed(run, sealed):
    file = run.path / "index/a.jsonl"
    file.write_text(file.read_text().replace('"timestep":1', '"timestep":7'))
    assert "timestep/c.0: is not what the index says" in problems(sealed)
    assert "verify the run" not in problems(sealed)


def test_verify_needs_a_spec_that_fits_the_run(sealed):
    file = sealed.folder / "zarr.json"
    content = json.loads(file.read_bytes())
    content["attributes"]["capture_spec"]["layers"] = [99]
    file.write_text(json.dumps(content))
    assert "expected a capture spec that fits the run's layout" in problems(sealed)
    assert len(problems(sealed).splitlines()) == 1
