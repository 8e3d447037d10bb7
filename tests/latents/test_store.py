"""What is written is what is read: by our reader, whole and in slices."""

from __future__ import annotations

import json
import stat
import threading

import ml_dtypes
import numpy as np
import pyarrow.parquet as pq
import pytest
from vlascope_latents import CaptureSpec
from vlascope_latents.commands import main
from vlascope_latents.store import LatentStore, RunWriter, verify
from vlascope_latents.store.errors import DamagedError, NotCapturedError, SchemaVersionError, StoreError
from vlascope_latents.store.tensors import stored_tensors

from tests.latents.store_fixtures import LAYOUT, frame, plan, values


def write(root, episodes=2, frames=4, capture=None, **options):
    capture = capture or plan()
    with RunWriter.create(root, "tiny", LAYOUT, {"fingerprint": "abc"}, **options) as run:
        for e in range(episodes):
            meta = {
                "suite": "s",
                "task_id": e,
                "task_name": f"task {e}",
                "instruction": "do it",
                "task_instruction": "own",
            }
            episode = run.open_episode(f"ep{e}", meta, capture)
            for n in range(frames):
                assert episode.append(frame(capture, 100 * e + n), timestep=5 * n, values=values(n)) == n
            assert episode.seal(success=e == 0, total_steps=5 * frames) == frames
        return run.path


@pytest.fixture(scope="module")
def sealed(tmp_path_factory):
    return write(tmp_path_factory.mktemp("sealed"))


def one_line(error, *parts):
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message, message


def test_every_number_comes_back(sealed):
    store = LatentStore(sealed.parent)
    for path in store.components():
        got = store.select(*path.split("/")).array()
        want = np.stack([frame(plan(), 100 * e + n)[path] for e in range(2) for n in range(4)])
        np.testing.assert_array_equal(got, want, err_msg=path)
    assert list(verify(store.episodes())) == []


def test_slices_and_labels(sealed):
    store = LatentStore(sealed)
    x = store.select(
        "action", "hidden_states", layers=[2], denoise_steps=(3, 1), span="action", episodes=["ep1"], timesteps=range(5, 20)
    )  # fmt: skip
    assert x.dims == ("frame", "denoise_step", "layer", "token", "feature")
    assert x.shape == (3, 2, 1, 5, 32)
    want = np.stack([frame(plan(), 100 + n)["action/hidden_states"][[3, 1]][:, [1], 1:6] for n in (1, 2, 3)])
    np.testing.assert_array_equal(x.array(), want)
    bits = x.array("bfloat16")
    assert bits.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(bits.astype(np.float32), want)
    assert x.labels["timestep"].tolist() == [5, 10, 15]
    assert x.labels["success"].tolist() == [False] * 3
    assert x.labels["task_id"].tolist() == [1] * 3
    assert x.labels["instruction"].tolist() == ["do it"] * 3
    assert x.labels["task_instruction"].tolist() == ["own"] * 3
    assert x.coordinates == {"denoise_step": [3, 1], "layer": [2], "token": [1, 2, 3, 4, 5]}
    np.testing.assert_array_equal(x.values("annotations/distance"), [1, 2, 3])
    np.testing.assert_array_equal(np.concatenate([part.array() for part in x.batches(2)]), want)
    np.testing.assert_array_equal(x[np.array([True, False, True])].array(), want[[0, 2]])


def test_a_camera_of_the_images(sealed):
    store = LatentStore(sealed)
    x = store.select("vlm", span="wrist", layers=0, episodes="ep0")
    want = np.stack([frame(plan(), n)["vlm/hidden_states"][[0], 32:64] for n in range(4)])
    np.testing.assert_array_equal(x.array(), want)
    assert x.coordinates["token"] == list(range(32, 64))


def test_only_the_needed_bytes_are_read(sealed):
    store = LatentStore(sealed)
    tensor = store.components()["vlm/hidden_states"]
    assert tensor.chunk == (1, 16, 512)  # 16 divides 32, 32 and 16
    x = store.select("vlm", layers=2, span="text")
    x.array("bfloat16")
    assert store.shards.bytes_read == len(x) * (16 * 512 * 2 + tensor.index_nbytes)


@pytest.mark.parametrize(("text", "tokens"), [(48, 16), (200, 8)])
def test_inner_chunks_divide_every_span(text, tokens):
    from vlascope_latents import Blocks, ModelLayout, Span, plan_capture, transformer

    spans = (Span("image/a", 0, 256), Span("text", 256, 256 + text))
    vlm = transformer("vlm", Blocks(18, 2048, 16384), spans)
    spans = (Span("state", 0, 1), Span("action", 1, 51))
    action = transformer("action", Blocks(18, 1024, 4096), spans, loop="denoise", steps=10)
    layout = ModelLayout((vlm, action))
    tensors = {t.path: t for t in stored_tensors(plan_capture(CaptureSpec(), layout), layout)}
    assert tensors["vlm/hidden_states"].chunk == (1, tokens, 2048)
    assert tensors["action/hidden_states"].chunk == (1, 1, 51, 1024)


def test_reduced_spans(tmp_path):
    capture = plan(CaptureSpec(spans=("image", "text", "action"), reduction="mean", dtype="float32"))
    store = LatentStore(write(tmp_path, episodes=1, frames=2, capture=capture))
    x = store.select("vlm", span="text")
    assert x.dims == ("frame", "layer", "span", "feature")
    want = np.stack([frame(capture, n)["vlm/hidden_states"][:, [1]] for n in range(2)])
    np.testing.assert_array_equal(x.array(), want)


def test_bits_and_floats_are_stored_alike(tmp_path):
    capture = plan(CaptureSpec(experts=("vlm",)))
    source = np.random.default_rng(0).standard_normal(capture.tensors[0].shape, np.float32) * 1e30
    rounded = source.astype(ml_dtypes.bfloat16)
    with RunWriter.create(tmp_path, "bits", LAYOUT) as run:
        episode = run.open_episode("e", None, capture)
        for form in (source, rounded, rounded.view(np.uint16)):
            episode.append({"vlm/hidden_states": form}, timestep=0)
        assert episode.seal() == 3
    got = LatentStore(tmp_path).select("vlm").array()
    np.testing.assert_array_equal(got, np.stack([rounded.astype(np.float32)] * 3))


def test_several_episodes_at_once_in_bounded_memory(tmp_path):
    capture = plan()
    limit = 3 * sum(t.nbytes + t.index_nbytes for t in stored_tensors(capture, LAYOUT))
    with RunWriter.create(tmp_path, "many", LAYOUT, memory_bytes=limit) as run:
        peaks = []

        def produce(e):
            episode = run.open_episode(f"ep{e}", None, capture)
            for n in range(12):
                episode.append(frame(capture, 100 * e + n), timestep=n)
                peaks.append(run.status()["queue_bytes"])
            assert episode.seal() == 12

        threads = [threading.Thread(target=produce, args=(e,)) for e in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert max(peaks) <= limit
        assert run._buffers.allocated <= limit
        assert run.status()["committed"] == 48
    store = LatentStore(tmp_path)
    for e in range(4):
        want = np.stack([frame(capture, 100 * e + n)["vlm/hidden_states"] for n in range(12)])
        np.testing.assert_array_equal(store.select("vlm", episodes=f"ep{e}").array(), want)


def test_drop_leaves_out_whole_frames_and_counts_them(tmp_path):
    capture = plan()
    one = sum(t.nbytes + t.index_nbytes for t in stored_tensors(capture, LAYOUT))
    with RunWriter.create(tmp_path, "drop", LAYOUT, memory_bytes=one, on_full="drop") as run:
        episode = run.open_episode("e", None, capture)
        tickets = [episode.append(frame(capture, n), timestep=n) for n in range(30)]
        kept = [n for n, ticket in enumerate(tickets) if ticket is not None]
        assert episode.seal() == len(kept) < 30
    store = LatentStore(tmp_path)
    row = store.episode("e").row
    assert row.dropped == 30 - len(kept)
    attributes = json.loads((store.episode("e").folder / "zarr.json").read_bytes())["attributes"]
    assert attributes["dropped_timesteps"] == [n for n in range(30) if n not in kept]
    want = np.stack([frame(capture, n)["vlm/hidden_states"] for n in kept])
    np.testing.assert_array_equal(store.select("vlm").array(), want)


def test_a_sealed_episode_never_reopens(tmp_path):
    capture = plan()
    with RunWriter.create(tmp_path, "again", LAYOUT) as run:
        first = run.open_episode("e", None, capture)
        first.append(frame(capture, 1), timestep=1)
        first.seal(success=False)
        with pytest.raises(StoreError, match="never reopens"):
            first.append(frame(capture, 1), timestep=2)
        second = run.open_episode("e", None, capture)
        with pytest.raises(StoreError, match="is open already"):
            run.open_episode("e", None, capture)
        second.append(frame(capture, 2), timestep=2)
        assert LatentStore(tmp_path).episode("e").row.attempt == 1  # the last sealed one
        second.seal(success=True)
        third = run.open_episode("e", None, capture)
        third.interrupt()
    store = LatentStore(tmp_path)
    assert [e.row.attempt for e in store.episodes()] == [2]
    assert [(e.row.attempt, e.status) for e in store.episodes(attempts="all")] == [
        (1, "sealed"),
        (2, "sealed"),
        (3, "interrupted"),
    ]
    assert store.episode("e", attempt=1).success is False


@pytest.fixture(scope="module")
def campaigns(tmp_path_factory):
    """Two campaigns and a client of none use one name; each has an attempt that counts, and the first an earlier one."""
    capture = plan(CaptureSpec(experts=("vlm",), layers=(0,), spans=("text",)))
    root = tmp_path_factory.mktemp("campaigns")
    with RunWriter.create(root, "tiny", LAYOUT) as run:
        for number, name in enumerate(("a+e", "a+e", "b+e", "e", "b+f")):
            episode = run.open_episode(name, {"instruction": f"text {number}"}, capture)
            episode.append(frame(capture, number), timestep=number)
            episode.seal()
        path = run.path
    with RunWriter.open(path) as run:  # attempts are counted on where another process goes on
        episode = run.open_episode("b+e", {"instruction": "text 5"}, capture)
        assert episode.attempt == 2
        episode.interrupt()
    return path


def test_attempts_of_different_campaigns_are_never_merged(campaigns):
    store = LatentStore(campaigns)
    found = [(e.id, e.campaign, e.row.name, e.row.attempt, e.metadata["instruction"]) for e in store.episodes()]
    assert found == [
        ("a+e", "a", "e", 2, "text 1"), ("b+e", "b", "e", 1, "text 2"), ("b+f", "b", "f", 1, "text 4"),
        ("e", None, "e", 1, "text 3"),
    ]  # fmt: skip
    assert len(store.episodes(attempts="all")) == 6
    everything = store.select("vlm")
    assert everything.labels["campaign"].tolist() == ["a", "b", "b", ""]
    assert everything.labels["timestep"].tolist() == [1, 2, 4, 3]
    table = pq.read_table(campaigns / "episodes.parquet").to_pydict()
    assert dict(zip(table["folder"], table["campaign"], strict=True)) == {
        "a+e": "a", "a+e@2": "a", "b+e": "b", "e": None, "b+f": "b", "b+e@2": "b",
    }  # fmt: skip
    attributes = json.loads((store.episode("b+f").folder / "zarr.json").read_bytes())["attributes"]
    assert (attributes["episode"], attributes["campaign"]) == ("b+f", "b")


def test_a_campaign_is_selected_by_its_id(campaigns):
    store = LatentStore(campaigns)
    assert [e.id for e in store.episodes(campaign="b")] == ["b+e", "b+f"]
    assert store.select("vlm", campaign="a").labels["episode"].tolist() == ["a+e"]
    assert store.select("vlm", episodes=["f", "e"], campaign="b").labels["episode"].tolist() == ["b+f", "b+e"]
    assert store.episode("f").id == "b+f"  # nobody else has that name
    assert store.episode("e").id == "e"  # an id before a name
    assert store.episode("e", campaign="a", attempt=1).metadata["instruction"] == "text 0"
    with pytest.raises(StoreError) as error:
        store.episodes(campaign="c")
    one_line(error, "no campaign 'c'; found a, b, episodes without one (--campaign none)")
    assert [e.id for e in store.episodes(campaign="none")] == ["e"]
    assert store.episode("e", campaign="none").id == "e"


def test_a_campaign_that_goes_on_in_another_run_counts_each_episode_once(tmp_path, capsys):
    capture = plan(CaptureSpec(experts=("vlm",), layers=(0,), spans=("text",)))
    ends = ({"C+x": "interrupt", "C+y": "seal", "z": "seal"}, {"C+x": "seal", "C+y": "interrupt", "z": "seal"})
    runs = []
    for number, end in enumerate(ends):
        with RunWriter.create(tmp_path, f"run{number}", LAYOUT) as run:
            for name, how in end.items():
                episode = run.open_episode(name, None, capture)
                for timestep in range(2 + number):
                    episode.append(frame(capture, timestep), timestep=timestep)
                getattr(episode, how)()
            runs.append(run.path.name)
    store = LatentStore(tmp_path)
    assert [(e.run, e.id) for e in store.episodes(campaign="C")] == [(runs[0], "C+y"), (runs[1], "C+x")]
    assert len(store.select("vlm", campaign="C")) == 2 + 3
    assert store.episode("C+x").run == runs[1]
    assert [e.id for e in store.episodes()] == ["C+y", "z", "C+x", "z"]
    assert len(store.episodes(attempts="all")) == 6
    assert store.episode("C+x", run=runs[0]).status == "interrupted"
    with RunWriter.create(tmp_path, "run2", LAYOUT) as run:
        run.open_episode("C+x", None, capture).seal()
    assert LatentStore(tmp_path).episode("C+x").run == run.path.name
    assert main(["ls", str(tmp_path), "--campaign", "C"]) == 0
    assert "interrupted" not in capsys.readouterr().out


def test_a_name_of_several_campaigns_is_not_guessed(tmp_path):
    capture = plan(CaptureSpec(experts=("vlm",), layers=(0,), spans=("text",)))
    with RunWriter.create(tmp_path, "two", LAYOUT) as run:
        for name in ("a+e", "b+e"):
            run.open_episode(name, None, capture).seal()
    with pytest.raises(StoreError) as error:
        LatentStore(tmp_path).episode("e")
    one_line(error, "episode 'e': several campaigns have it: name one of a+e, b+e")


def test_a_run_opens_while_it_is_written(tmp_path):
    capture = plan()
    with RunWriter.create(tmp_path, "live", LAYOUT) as run:
        episode = run.open_episode("e", {"task_id": 3}, capture)
        episode.append(frame(capture, 0), timestep=0)
        while episode.committed < 1:
            threading.Event().wait(0.005)
        index = run.path / "index" / "e.jsonl"
        with index.open("ab") as file:
            file.write(b'{"frame": 1, "torn')
        store = LatentStore(tmp_path)
        assert [e.status for e in store.episodes()] == ["open"]
        assert store.episodes()[0].frames == 1
        np.testing.assert_array_equal(store.select("vlm").array()[0], frame(capture, 0)["vlm/hidden_states"])
        with pytest.raises(StoreError, match="another process"):
            RunWriter.open(run.path)


def test_a_newer_schema_is_refused_by_name(tmp_path):
    path = write(tmp_path, episodes=1, frames=1)
    content = json.loads((path / "run.json").read_text())
    content["schema"]["version"] = 7
    (path / "run.json").write_text(json.dumps(content))
    with pytest.raises(SchemaVersionError) as error:
        LatentStore(tmp_path)
    one_line(error, path / "run.json", "version 7", "upgrade")


def test_a_run_of_another_schema_is_left_out_of_a_folder(tmp_path, caplog):
    old, new = write(tmp_path, episodes=1, frames=1), write(tmp_path, episodes=2, frames=1)
    content = json.loads((old / "run.json").read_text())
    content["schema"]["version"] = 1
    (old / "run.json").write_text(json.dumps(content))
    store = LatentStore(tmp_path)
    assert [run.name for run in store.runs] == [new.name]
    assert len(store.episodes()) == 2
    (record,) = caplog.records
    assert record.getMessage().startswith(f"left out: {old / 'run.json'}: schema vlascope-latents version 1 is older")
    with pytest.raises(SchemaVersionError):
        LatentStore(old)


@pytest.mark.parametrize("version", [1, 2])
def test_an_older_schema_is_refused_by_name(tmp_path, version):
    path = write(tmp_path, episodes=1, frames=1)
    content = json.loads((path / "run.json").read_text())
    content["schema"]["version"] = version
    (path / "run.json").write_text(json.dumps(content))
    for opens in (lambda: LatentStore(tmp_path), lambda: RunWriter.open(path)):
        with pytest.raises(SchemaVersionError) as error:
            opens()
        one_line(error, path / "run.json", f"version {version} is older than 3", "capture it again")


def test_told_nothing_is_not_unknown(tmp_path):
    capture = plan(CaptureSpec(experts=("vlm",), layers=(0,), spans=("text",)))
    with RunWriter.create(tmp_path, "told", LAYOUT) as run:
        for name, told in (("a", {"instruction": ""}), ("b", {}), ("c", {"instruction": "wave"})):
            episode = run.open_episode(name, told, capture)
            episode.append(frame(capture, 0), timestep=0)
            episode.seal()
    store = LatentStore(tmp_path)
    assert store.select("vlm").labels["instruction"].tolist() == ["", None, "wave"]
    table = pq.read_table(run.path / "episodes.parquet").to_pydict()
    assert dict(zip(table["episode"], table["instruction"], strict=True)) == {"a": "", "b": None, "c": "wave"}


@pytest.mark.parametrize(
    ("options", "mode"), [({}, 0o700), ({"readable_by": "group"}, 0o750), ({"readable_by": "everyone"}, 0o755)]
)
def test_a_run_is_its_owners_unless_told_otherwise(tmp_path, options, mode):
    path = write(tmp_path / "some" / "runs", episodes=1, frames=1, **options)
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in (path, path.parent)] == [mode, mode]
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o755)
    assert stat.S_IMODE(write(shared, episodes=1, frames=1, **options).stat().st_mode) == mode
    assert stat.S_IMODE(shared.stat().st_mode) == 0o755, "a folder that is there is its owner's business"


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError) as error:
        RunWriter.create(tmp_path / "file" / "runs", "x", LAYOUT)
    one_line(error, tmp_path / "file", "cannot create a run")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a/b",
        "..",
        ".",
        "a" * 97,
        "ü",
        "__x",
        "zarr.json",
        "x.partial",
        3,
        "+e",
        "a+",
        "a+b+c",
        "a+..",
        "none+e",
        "c" * 60 + "+" + "e" * 68,
    ],
)
def test_ids_that_are_no_ids(tmp_path, name):
    with RunWriter.create(tmp_path, "ids", LAYOUT) as run, pytest.raises(StoreError) as error:
        run.open_episode(name, None, plan())
    one_line(error, "episode", repr(name))


def test_a_slice_of_what_was_not_captured(sealed):
    store = LatentStore(sealed)
    for arguments, listed in [
        (("vlm", "post_attn_embedding"), "vlm/mlp_activation"),
        (("vlm", "hidden_states", [1]), "[0, 2]"),
        (("action", "hidden_states", None, [9]), "[0, 1, 2, 3]"),
        (("vlm", "hidden_states", None, [0]), "axes: layer, token"),
        (("vlm", "hidden_states", None, None, "state"), "image/base, image/wrist, text"),
        (("vlm", "hidden_states", None, None, None, "nobody"), "ep0, ep1"),
    ]:
        fields = dict(zip(("layers", "denoise_steps", "span", "episodes"), arguments[2:], strict=False))
        with pytest.raises(StoreError) as error:
            store.select(*arguments[:2], **fields)
        one_line(error, listed)
        assert isinstance(error.value, NotCapturedError) or fields.get("episodes")


def test_frames_that_do_not_fit(tmp_path):
    capture = plan()
    with RunWriter.create(tmp_path, "wrong", LAYOUT) as run:
        episode = run.open_episode("e", None, capture)
        good = frame(capture, 0)
        bad = [
            (good | {"vlm/hidden_states": np.zeros((2, 80, 511), np.float32)}, {}, "(2, 80, 512)", "(2, 80, 511)"),
            (good | {"vlm/hidden_states": np.zeros((2, 80, 512), np.float16)}, {}, "float16", "bfloat16"),
            ({"vlm/hidden_states": good["vlm/hidden_states"]}, {}, "action/x_t", "found vlm/hidden_states"),
            (good, {"note": "text"}, "value note", "numbers"),
            (good, {"a/b": 1}, "a/b", "no name"),
        ]
        for tensors, small, *parts in bad:
            with pytest.raises(StoreError) as error:
                episode.append(tensors, timestep=0, values=small)
            one_line(error, *parts)
        episode.append(good, timestep=0, values={"actions": np.zeros(3)})
        with pytest.raises(StoreError) as error:
            episode.append(good, timestep=1, values={"actions": np.zeros(4)})
        one_line(error, "value actions", "[3]", "[4]")
        assert episode.seal() == 1
    with (
        RunWriter.create(tmp_path, "small", LAYOUT, memory_bytes=1000) as run,
        pytest.raises(StoreError, match="raise it"),
    ):
        run.open_episode("e", None, capture)


@pytest.mark.parametrize("damage", ["payload", "index", "short", "missing"])
def test_a_damaged_shard_is_named(tmp_path, damage):
    path = write(tmp_path, episodes=1, frames=3)
    shard = path / "latents.zarr/episodes/ep0/vlm/hidden_states/c.1.0.0.0"
    content = bytearray(shard.read_bytes())
    if damage == "payload":
        content[100] ^= 1
    elif damage == "index":
        content[-10] ^= 1
    elif damage == "short":
        content = content[:-1000]
    shard.write_bytes(content)
    if damage == "missing":
        shard.unlink()
    store = LatentStore(tmp_path)
    problems = list(verify(store.episodes()))
    assert [(p.episode, p.frame) for p in problems] == [("ep0", 1)]
    assert str(shard) in str(problems[0])
    assert "\n" not in str(problems[0])
    if damage != "payload":
        with pytest.raises(DamagedError) as error:
            store.select("vlm").array()
        one_line(error, shard)


def test_an_episode_tells_what_was_captured_of_it(tmp_path):
    spec = CaptureSpec(components=("hidden_states", "x_t"), layers=(0, 2), denoise_steps=(1, 3), reduction="mean")
    episode = LatentStore(write(tmp_path, episodes=1, capture=plan(spec))).episodes()[0]
    assert episode.capture_spec() == spec
    assert episode.attributes()["capture_spec"] == spec.to_map()
    assert {path: tensor.numbers for path, tensor in episode.tensors().items()} == {
        "vlm/hidden_states": {"layer": [0, 2]},
        "action/hidden_states": {"denoise_step": [1, 3], "layer": [0, 2]},
        "action/x_t": {"denoise_step": [1, 3]},
    }


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "the attributes of an episode"),
        ("[]", "the attributes of an episode"),
        ('{"attributes": {}}', "a capture spec ('capture_spec')"),
        ('{"attributes": {"capture_spec": {"layers": []}}}', "a capture spec (capture spec, layers: selects nothing)"),
    ],
)
def test_an_episode_whose_capture_spec_is_damaged_says_so(tmp_path, content, expected):
    episode = LatentStore(write(tmp_path, episodes=1)).episodes()[0]
    (episode.folder / "zarr.json").write_text(content)
    with pytest.raises(DamagedError) as error:
        episode.capture_spec()
    one_line(error, episode.folder / "zarr.json", f"expected {expected}")
