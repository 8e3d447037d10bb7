"""A layout that contradicts itself is refused where it is made, in one line that says what and where."""

from __future__ import annotations

import dataclasses
import json

import pytest
from vlascope_base import VlascopeError
from vlascope_latents import CaptureSpec, Component, ExpertLayout, ModelLayout, Span, plan_capture
from vlascope_latents.layout import LayoutError

HIDDEN = Component("hidden_states", (("layer", 3), ("token", 6), ("feature", 8)), reach="stream")
ATTENTION = Component("scores", (("layer", 1), ("head", 2), ("token", 4), ("key", 10)))
READER = ExpertLayout("reader", 3, 8, (Span("image/front", 0, 1), Span("text", 1, 6)), (HIDDEN,), outputs=("text",))
MOVER = ExpertLayout(
    "mover", 1, 2, (Span("action", 0, 4),), (Component("x_t", (("horizon", 4),), "float32"), ATTENTION),
    "denoise", 2, sees=("reader",), outputs=("action",),
)  # fmt: skip


def reader(**fields):
    return ModelLayout((dataclasses.replace(READER, **fields), MOVER))


def mover(**fields):
    return ModelLayout((READER, dataclasses.replace(MOVER, **fields)))


def hidden(**fields):
    return reader(components=(dataclasses.replace(HIDDEN, **fields),))


WRONG = {
    "no experts": (lambda: ModelLayout(()), "experts: expected at least one"),
    "an expert twice": (lambda: ModelLayout((READER, READER)), "experts: expected names that differ, found 'reader' twice"),
    "a component twice": (lambda: reader(components=(HIDDEN, HIDDEN)), "found 'hidden_states' twice"),
    "an axis twice": (lambda: hidden(axes=(("layer", 3), ("feature", 8), ("feature", 8))), "found 'feature' twice"),
    "a span twice": (lambda: reader(spans=(Span("text", 0, 1), Span("text", 1, 6))), "found 'text' twice"),
    "no spans": (lambda: reader(spans=()), "expert 'reader', spans: expected at least one"),
    "a gap": (lambda: reader(spans=(Span("image/front", 0, 1), Span("text", 2, 6))), "span text: expected it to begin at 1"),
    "an overlap": (lambda: reader(spans=(Span("image/front", 0, 3), Span("text", 1, 6))), "expected it to begin at 3"),
    "an empty span": (lambda: reader(spans=(Span("image/front", 0, 0), Span("text", 0, 6))), "not to be empty"),
    "a span that is a path": (lambda: reader(spans=(Span("../../text", 0, 6),)), "'../../text' is no name"),
    "more layers than blocks": (lambda: reader(depth=2), "axis layer: expected at most 2, the expert's depth, found 3"),
    "more tokens than spans": (lambda: hidden(axes=(("layer", 3), ("token", 9))), "axis token: expected 6, where the spans"),
    "fewer keys than tokens": (lambda: mover(sees=()), "axis key: expected 4, the tokens of what it sees"),
    "an axis called frame": (lambda: hidden(axes=(("layer", 3), ("frame", 6))), "an axis 'frame' is given to every tensor"),
    "an axis of a loop": (lambda: hidden(axes=(("layer", 3), ("denoise_step", 6))), "an axis 'denoise_step' is given"),
    "an axis without entries": (lambda: hidden(axes=(("layer", 0),)), "axis layer: expected a whole number of at least 1"),
    "no axes": (lambda: hidden(axes=(), reach="always"), "axes: expected at least one, since the expert runs once"),
    "a stream without layers": (lambda: hidden(axes=(("token", 6),)), "reach: expected an axis layer where it is stream"),
    "a name of an axis": (lambda: hidden(name="feature"), "is, or begins with, the name of an axis, 'feature'"),
    "a component that is a path": (lambda: hidden(name="../../outside"), "'../../outside' is no name"),
    "an unknown dtype": (lambda: hidden(dtype="float64"), "dtype: expected one of spec, float32, int32, found 'float64'"),
    "an unknown reach": (lambda: hidden(reach="never"), "reach: expected one of always, stream, output, found 'never'"),
    "an unknown loop": (lambda: mover(loop="forever"), "loop: expected one of once, denoise, decode, found 'forever'"),
    "no steps": (lambda: mover(steps=0), "expert 'mover', steps: expected a whole number of at least 1, found 0"),
    "half a step": (lambda: mover(steps=2.5), "steps: expected a whole number of at least 1, found 2.5"),
    "steps of what runs once": (lambda: reader(steps=2), "steps: expected 1 where the loop is once, found 2"),
    "keys of nobody": (lambda: mover(sees=("nobody",)), "expert mover, sees: expected one of reader, found 'nobody'"),
    "keys of its own": (lambda: reader(sees=("reader",)), "expert reader, sees: expected one of none, found 'reader'"),
    "an output that is no span": (lambda: mover(outputs=("text",)), "outputs: expected one of all, action, found 'text'"),
    "an expert that is a path": (lambda: reader(name="a/b"), "expert 'a/b': 'a/b' is no name"),
    "an expert of dots": (lambda: reader(name=".."), "expert '..': '..' is reserved"),
}  # fmt: skip


@pytest.mark.parametrize(("made", "said"), WRONG.values(), ids=WRONG)
def test_it_is_refused_in_one_line(made, said):
    with pytest.raises(LayoutError) as refused:
        made()
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert isinstance(refused.value, VlascopeError)


@pytest.mark.parametrize(
    "name", ["timestep", "actions", "state", "noise_seed", "annotations", "decode_steps", "prompt_mask"]
)
def test_an_expert_has_no_name_of_what_is_kept_beside_it(name):
    with pytest.raises(LayoutError, match=f"expert '{name}': a store keeps {name} of every frame: choose another name"):
        dataclasses.replace(READER, name=name)


def test_what_was_written_by_hand_is_refused_too():
    kept = ModelLayout((READER, MOVER)).to_map()
    assert ModelLayout.from_map(json.loads(json.dumps(kept))) == ModelLayout((READER, MOVER))
    with pytest.raises(LayoutError, match="loop: expected one of"):
        ModelLayout.from_map({"experts": [{**kept["experts"][0], "loop": "forever"}]})


def test_an_expert_with_a_loop_may_have_a_component_without_axes():
    layout = mover(components=(Component("confidence", (), "float32"),))
    (tensor,) = plan_capture(CaptureSpec(experts=("mover",), components=("confidence",)), layout).tensors
    assert (tensor.dims, tensor.shape) == (("denoise_step",), (2,))
