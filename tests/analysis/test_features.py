"""What a frame's features are: valid tokens alone, the same however they were captured, and errors that list what exists."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from vlascope_analysis.data import features as features_module
from vlascope_analysis.data.episodes import choose_episodes
from vlascope_analysis.data.features import Slice, fault, load_features
from vlascope_analysis.errors import AnalysisError
from vlascope_analysis.options import EpisodeQuery
from vlascope_latents import CaptureSpec, Site
from vlascope_latents.store import LatentStore, NotCapturedError

from tests.analysis.stores import LAYOUT, SPEC, Moment, make_run, prompt_mask

EVERYTHING = dataclasses.replace(SPEC, components=("hidden_states", "pre_attn_norm_scales", "x_t"), layers=(0, 2))
SMALL = {"tasks": 2, "episodes": 2, "timesteps": (0, 10)}


def poison(path: str, array: np.ndarray, moment: Moment) -> None:
    """Padding of the prompt holds huge values."""
    if path.startswith("vlm/hidden"):
        array[:, 8:][:, ~prompt_mask(moment.task)] = 1e6


def tensors(store: LatentStore) -> dict[str, np.ndarray]:
    return {path: store.select(*path.split("/")).array() for path in store.components()}


def load(store: LatentStore, what: Slice, **options):
    return load_features(store, choose_episodes(store, EpisodeQuery())[0], what, **options)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs"), poison, spec=EVERYTHING, **SMALL)


@pytest.fixture(scope="module")
def masks():
    """[frames, tokens of the vlm] as the fixture wrote them."""
    return np.stack([np.r_[np.ones(8, bool), prompt_mask(task)] for task in (0, 0, 0, 0, 1, 1, 1, 1)])


@pytest.mark.parametrize("batch_bytes", [1, 1 << 30])
def test_padding_never_counts(store, masks, batch_bytes, monkeypatch):
    monkeypatch.setattr(features_module, "BATCH_BYTES", batch_bytes)
    raw = tensors(store)["vlm/hidden_states"]  # frame layer token feature
    found = load(store, Slice("vlm"))
    assert found.array.shape == (1, 2, 8, 24)
    assert (found.layers, found.denoise_steps) == ((0, 2), (None,))
    want = np.stack([frame[:, mask].mean(axis=1) for frame, mask in zip(raw, masks, strict=True)], axis=1)
    np.testing.assert_allclose(found.array[0], want, atol=1e-5)
    text = load(store, Slice("text_only", layers=(2,)))
    want = np.stack([frame[1, 8:][mask[8:]].mean(axis=0) for frame, mask in zip(raw, masks, strict=True)])
    np.testing.assert_allclose(text.array[0, 0], want, atol=1e-5)
    last = load(store, Slice("vlm", layers=(2,), pool="last"))
    want = np.stack([frame[1, mask][-1] for frame, mask in zip(raw, masks, strict=True)])
    np.testing.assert_allclose(last.array[0, 0], want, atol=1e-5)
    assert found.warnings == ()


def test_spans_steps_and_components(store):
    raw = tensors(store)
    wrist = load(store, Slice("vlm", layers=(0,), span="wrist"))
    np.testing.assert_allclose(wrist.array[0, 0], raw["vlm/hidden_states"][:, 0, 4:8].mean(axis=1), atol=1e-5)
    action = load(store, Slice("action", layers=(2,), denoise_steps=(3, 1)))
    want = raw["action/hidden_states"][:, [3, 1]][:, :, [1]].mean(axis=3)
    np.testing.assert_allclose(action.array, np.moveaxis(want, 0, 2), atol=1e-5)
    assert action.denoise_steps == (3, 1)
    scales = load(store, Slice("action", "pre_attn_norm_scales"))
    want = raw["action/pre_attn_norm_scales"].mean(axis=3)
    np.testing.assert_allclose(scales.array[..., 0], np.moveaxis(want, 0, 2), atol=1e-5)
    flow = load(store, Slice("action", "x_t"))
    assert flow.layers == (None,)
    np.testing.assert_array_equal(flow.array[2, 0], raw["action/x_t"][:, 2].reshape(8, -1))


def test_frames_are_described(store):
    frames = load(store, Slice("vlm"), timesteps=[10]).frames
    assert frames["task_id"].tolist() == [0, 0, 1, 1]
    assert frames["timestep"].tolist() == [10] * 4
    assert frames["episode_index"].tolist() == [0, 1, 0, 1]
    assert frames["success"].tolist() == [True, False] * 2
    assert (len(set(frames["init_state"])), len(set(frames["scene"]))) == (4, 2)
    assert frames["total_steps"].tolist() == [11] * 4
    assert frames["instruction"].iloc[0] == "open the drawer"


@pytest.mark.parametrize("spans", [("all",), ("image", "text"), ("base", "wrist", "text", "action", "state")])
def test_reduced_capture_is_the_same_mean(tmp_path, store, spans):
    """The mean over tokens, out of means of spans of different lengths."""
    whole = tensors(store)["vlm/hidden_states"]
    action = tensors(store)["action/hidden_states"]
    spec = CaptureSpec(layers=(0, 2), spans=spans, reduction="mean", dtype="float32")
    frame_of = {(t, e, s): 4 * t + 2 * e + s // 10 for t in range(2) for e in range(2) for s in (0, 10)}
    parts = {"all": slice(0, 14), "image": slice(0, 8), "base": slice(0, 4), "wrist": slice(4, 8), "text": slice(8, 14)}
    suffix = {"all": slice(0, 4), "state": slice(0, 1), "action": slice(1, 4)}

    def reduce(path: str, array: np.ndarray, moment: Moment) -> None:
        number = frame_of[moment.task, moment.episode, moment.timestep]
        if path.startswith("vlm"):
            valid = np.r_[np.ones(8, bool), prompt_mask(moment.task)]
            own = [parts[name] for name in spans if name in parts]
            array[:] = np.stack([whole[number][:, part][:, valid[part]].mean(axis=1) for part in own], axis=1)
        else:
            own = [suffix[name] for name in spans if name in suffix]
            array[:] = np.stack([action[number][:, :, part].mean(axis=2) for part in own], axis=2)

    if not any(name in suffix for name in spans):
        spec = dataclasses.replace(spec, experts=("vlm",))
    reduced = make_run(tmp_path, reduce, spec=spec, **SMALL)
    np.testing.assert_allclose(load(reduced, Slice("vlm")).array, load(store, Slice("vlm")).array, atol=1e-4)
    if "action" in spec.experts:
        np.testing.assert_allclose(load(reduced, Slice("action")).array, load(store, Slice("action")).array, atol=1e-4)
    if "text" in spans:
        np.testing.assert_allclose(
            load(reduced, Slice("text_only")).array, load(store, Slice("text_only")).array, atol=1e-4
        )
    with pytest.raises(AnalysisError, match="--pool mean"):
        load(reduced, Slice("vlm", pool="last"))


def test_overlapping_reduced_spans_need_a_name(tmp_path):
    spec = CaptureSpec(experts=("vlm",), layers=(0,), spans=("image", "wrist"), reduction="mean")
    reduced = make_run(tmp_path, spec=spec, tasks=1, episodes=1)
    with pytest.raises(AnalysisError, match="overlap: name one with --span: image, wrist"):
        load(reduced, Slice("vlm"))
    assert load(reduced, Slice("vlm", span="wrist")).array.shape == (1, 1, 2, 24)


def test_without_masks_there_is_a_warning(tmp_path):
    bare = make_run(tmp_path, masks=False, tasks=1, episodes=1)
    found = load(bare, Slice("vlm", layers=(0,)))
    assert "without prompt_mask" in found.warnings[0]
    raw = tensors(bare)["vlm/hidden_states"]
    np.testing.assert_allclose(found.array[0, 0], raw[:, 0].mean(axis=1), atol=1e-5)
    assert load(bare, Slice("vlm", layers=(0,), span="image")).warnings == ()
    assert load(bare, Slice("action")).warnings == ()


def test_what_is_not_finite_is_named(tmp_path):
    def fill(path: str, array: np.ndarray, moment: Moment) -> None:
        if moment == Moment(0, 1, 10):
            array[...] = np.nan

    broken = make_run(tmp_path, fill, tasks=1, episodes=2)
    found = load(broken, Slice("vlm"))
    assert fault(found.array[0, 0], found.frames) == "not finite in episode libero_goal-task0-ep1, timestep 10"
    whole = load(broken, Slice("vlm"), timesteps=[0])
    assert fault(whole.array[0, 0], whole.frames) is None
    assert fault(np.ones((3, 2)), whole.frames) == "the same in every frame"


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        (Slice("vlm", layers=(1,)), NotCapturedError, r"layer 1 was not captured; captured: \[0, 2\]"),
        (Slice("action", denoise_steps=(9,)), NotCapturedError, r"denoise_step 9 .*\[0, 1, 2, 3\]"),
        (Slice("vlm", denoise_steps=(0,)), AnalysisError, "the vlm runs once"),
        (
            Slice("vlm", "mlp_activation"),
            NotCapturedError,
            "vlm/mlp_activation was not captured; captured: .*action/x_t",
        ),
        (Slice("vlm", span="left"), NotCapturedError, "span 'left' .*image/base, image/wrist, text"),
    ],
)
def test_what_is_missing_is_listed(store, what, error, message):
    with pytest.raises(error, match=message):
        load(store, what)


def test_missing_steps_are_listed(store):
    with pytest.raises(AnalysisError, match="rollout step 7; found 0, 10"):
        load(store, Slice("vlm"), timesteps=[0, 7])


def test_layout_is_what_the_tests_assume():
    assert [span.name for span in LAYOUT.expert("vlm").spans] == ["image/base", "image/wrist", "text"]


def test_a_token_counted_from_the_prompts_end_is_taken_alone(tmp_path):
    for number, reduction in enumerate((None, "mean", "last")):
        spec = CaptureSpec(sites=(Site("vlm", "hidden_states", tokens=(-1,), reduction=reduction, dtype="float32"),))
        store = make_run(tmp_path / str(number), spec=spec, **SMALL)
        found = load(store, Slice("vlm", pool=reduction or "mean"))
        stored = tensors(store)["vlm/hidden_states"]
        np.testing.assert_array_equal(found.array[0], np.moveaxis(stored[:, :, 0], 0, 1))


@pytest.mark.parametrize("reduction", [None, "mean"])
def test_such_tokens_are_not_pooled_with_others(tmp_path, reduction):
    spec = CaptureSpec(sites=(Site("vlm", "hidden_states", tokens=("image", -1, -3), reduction=reduction),))
    store = make_run(tmp_path, spec=spec, **SMALL)
    with pytest.raises(AnalysisError, match=r"-1.* were counted back from the prompt's end, and cannot be pooled"):
        load(store, Slice("vlm"))


@pytest.fixture(scope="module")
def attention(tmp_path_factory):
    spec = CaptureSpec(components=("attention",), layers=(1,), dtype="float32")
    return make_run(tmp_path_factory.mktemp("attention"), spec=spec, **SMALL)


@pytest.mark.parametrize(
    ("what", "queries", "said"),
    [
        (Slice("text_only", "attention"), [2], "text_only, attention: pooled over the queries of text;"),
        (Slice("vlm", "attention", span="base"), [0], "vlm, attention: pooled over the queries of image/base;"),
        (
            Slice("vlm", "attention", span="image"), [0, 1],
            "vlm, attention: pooled over the queries of image/base, image/wrist;",
        ),
        (
            Slice("action", "attention", denoise_steps=(3,), span="action"), [1],
            "action, attention: pooled over the queries of action; by head, the keys of image/base, image/wrist, text, state,",
        ),
    ],
)  # fmt: skip
def test_of_attention_queries_are_pooled_and_keys_are_features(attention, what, queries, said):
    found = load(attention, what)
    whole = tensors(attention)[f"{what.stored_expert}/attention"]
    picked = whole[:, 3] if what.expert == "action" else whole
    expected = picked[:, 0][:, :, queries].mean(axis=2)  # spans of one length; [frame, head, key_span]
    np.testing.assert_allclose(found.array[0, 0], expected.reshape(len(expected), -1), atol=1e-6)
    assert said in found.warnings[-1]


def test_a_whole_attention_says_its_positions(tmp_path):
    spec = CaptureSpec(experts=("vlm",), components=("attention",), reduction="none", layers=(1,))
    found = load(make_run(tmp_path, spec=spec, **SMALL), Slice("text_only", "attention"))
    assert found.array.shape == (1, 1, 8, 2 * 14)
    assert found.warnings == ("text_only, attention: pooled over queries 8-13; by head, keys 0-13 are features",)


def test_keys_are_no_span_of_attention(attention):
    with pytest.raises(
        NotCapturedError, match=r"no queries of span 'text' were captured .*; captured queries: state, action"
    ):
        load(attention, Slice("action", "attention", span="text"))


def test_what_was_excluded_has_no_weight(tmp_path):
    """Two of eight image tokens and of a prompt of two to five tokens those behind the first: weighed by what is left."""
    exclude = (0, 1, 4, 5, 6, 7, 8)
    site = Site("vlm", "hidden_states", tokens=("image", "text"), exclude=exclude, reduction="mean", dtype="float32")
    store = make_run(tmp_path, spec=CaptureSpec(sites=(site,)), **SMALL)
    found, stored = load(store, Slice("vlm")), tensors(store)["vlm/hidden_states"]
    for n, task in enumerate(found.frames["task_id"]):
        text = int(prompt_mask(task).sum()) - 1
        expected = (2 * stored[n, :, 0] + text * stored[n, :, 1]) / (2 + text)
        np.testing.assert_allclose(found.array[0, :, n], expected, rtol=1e-5)
