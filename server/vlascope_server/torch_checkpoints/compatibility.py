"""Says whether the action heads of two checkpoints fit each other, and why.

Two heads are compatible when they have the same tensors under the same names, wrapper and adapters aside, each of the same
shape: then the weights of one load into the other. That says nothing of what the numbers mean; differences of the training
that change the meaning are listed as notes.
"""

from __future__ import annotations

import dataclasses

from vlascope_server.torch_checkpoints.components import Recurrent, component_of
from vlascope_server.torch_checkpoints.inspection import Inspection
from vlascope_server.torch_checkpoints.names import canonical

_NOTED = (
    "action_dim",
    "fwd_pred_next_n",
    "window_size",
    "norm_action",
    "norm_min",
    "norm_max",
    "use_hand_rgb",
    "history_type",
)
"""Options of the training that change what goes into a head of the same shapes, or what comes out."""


@dataclasses.dataclass(frozen=True)
class Compatibility:
    """Two action heads beside each other.

    Attributes:
        compatible: one loads into the other.
        reasons: sentences that say why, or why not.
        notes: what is not alike in other respects.
        same: names of tensors that both heads have in the same shape.
        only_first, only_second: names that one head alone has.
        unlike: name -> its shape in the one, and in the other.
        missing: names of the first checkpoint's weights, all components, that the second lacks.
        unexpected: names of the second's that the first lacks.
    """

    compatible: bool
    reasons: list[str]
    notes: list[str]
    same: list[str]
    only_first: list[str]
    only_second: list[str]
    unlike: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    missing: list[str]
    unexpected: list[str]


def compare_heads(first: Inspection, second: Inspection) -> Compatibility:
    """Compares two checkpoints' heads by the names and shapes of their tensors."""
    ours, theirs = _shapes(first), _shapes(second)
    a, b = (
        {name: shape for name, shape in shapes.items() if component_of(name) == "action_head"}
        for shapes in (ours, theirs)
    )
    both = [name for name in a if name in b]
    same = [name for name in both if a[name] == b[name]]
    only_first, only_second = [name for name in a if name not in b], [name for name in b if name not in a]
    unlike = {name: (a[name], b[name]) for name in both if a[name] != b[name]}
    compatible = bool(a) and len(same) == len(a) == len(b)
    reasons = list(_reasons(first, second, a, b, same, only_first, only_second, unlike))
    return Compatibility(
        compatible,
        reasons,
        list(_notes(first, second)),
        same,
        only_first,
        only_second,
        unlike,
        missing=[name for name in ours if name not in theirs],
        unexpected=[name for name in theirs if name not in ours],
    )


def _shapes(inspection: Inspection) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for name, tensor in inspection.checkpoint.tensors.items():
        short = canonical(name, inspection.wrapper)
        if short is not None:
            shapes.setdefault(short, tensor.shape)
    return shapes


def _reasons(first: Inspection, second: Inspection, a, b, same, only_first, only_second, unlike):
    for which, head in (("first", a), ("second", b)):
        if not head:
            yield f"The {which} checkpoint has no action head: no tensor has a name that is one's."
    if not a or not b:
        return
    if len(same) == len(a) == len(b):
        yield f"All {len(same)} tensors of the heads have the same names and shapes, so the weights of one load into the other."
        return
    yield f"The heads have {len(a)} and {len(b)} tensors, and {len(same)} of them are alike in name and shape."
    if only_first:
        yield f"Only the first has {_some(only_first, a)}."
    if only_second:
        yield f"Only the second has {_some(only_second, b)}."
    if unlike:
        parts = [f"{name} {_shape(x)} and {_shape(y)}" for name, (x, y) in list(unlike.items())[:3]]
        yield f"Of unlike shapes are {', '.join(parts)}{_more(len(unlike) - 3)}."
    yield from _networks(first.head_network, second.head_network)
    if first.outputs != second.outputs:
        yield f"They give out other numbers: {_outputs(first)} in the first, {_outputs(second)} in the second."
    if first.judged.model != second.judged.model and not same and not unlike:
        known, other = ("first", "second") if first.judged.model else ("second", "first")
        model = first.judged.model or second.judged.model
        tokens = " and no action token" if not _has_token(second if known == "first" else first) else ""
        yield (
            f"The {known} is a {model}; the {other} has other names throughout{tokens}: it belongs to another"
            " architecture, and is not"
            " another training of the same one."
        )


def _networks(a: Recurrent | None, b: Recurrent | None):
    if a is None or b is None:
        if a is not b:
            yield f"Only the {'first' if a else 'second'} head is recurrent."
        return
    facts = ("kind", "input_size", "hidden_size", "num_layers", "bidirectional")
    words = {
        "kind": "kind",
        "input_size": "input",
        "hidden_size": "hidden size",
        "num_layers": "layers",
        "bidirectional": "both ways",
    }
    unlike = [
        f"{words[fact]} {_said(getattr(a, fact))} and {_said(getattr(b, fact))}"
        for fact in facts
        if getattr(a, fact) != getattr(b, fact)
    ]
    if unlike:
        yield f"Their recurrent networks differ: {', '.join(unlike)}."
    else:
        yield (
            f"Their recurrent networks are of the same sizes: {a.kind}, input {_said(a.input_size)}, hidden size"
            f" {_said(a.hidden_size)},"
            f" layers {a.num_layers}."
        )


def _notes(first: Inspection, second: Inspection):
    ours, theirs = _options(first), _options(second)
    for key in _NOTED:
        if key in ours and key in theirs and ours[key] != theirs[key]:
            yield f"{key} is {ours[key]} in the first and {theirs[key]} in the second."
    for which, judged in (("first", first.judged), ("second", second.judged)):
        if judged.missing:
            lacks = ", ".join(judged.missing[:3]) + _more(len(judged.missing) - 3)
            yield f"The {which} checkpoint is not whole: it lacks {lacks}."


def _options(inspection: Inspection) -> dict[str, object]:
    head = inspection.configuration.get("act_head")
    inner = head if isinstance(head, dict) else {}
    # the policy's own value wins: RoboVLMs overwrites the head's window and chunk with it
    return {key: value for key, value in {**inner, **inspection.configuration}.items() if not isinstance(value, dict)}


def _has_token(inspection: Inspection) -> bool:
    return inspection.counts.components["action_token"].tensors_named > 0


def _outputs(inspection: Inspection) -> str:
    return ", ".join(f"{branch} {width}" for branch, width in inspection.outputs.items()) or "none that names tell"


def _some(names: list[str], shapes) -> str:
    return ", ".join(f"{name} {_shape(shapes[name])}" for name in names[:3]) + _more(len(names) - 3)


def _more(count: int) -> str:
    return f" and {count} more" if count > 0 else ""


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "a single value"


def _said(value: object) -> str:
    return "not known" if value is None else "yes" if value is True else "no" if value is False else str(value)
