"""An inspection as JSON and as a document in Markdown, and the two files that they become.

GiB are 2^30 bytes, GB are 10^9.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlascope_base.files import make_folders, replace_file, replace_json
from vlascope_base.provenance import now, provenance
from vlascope_base.text import counted, printable, readable_binary_bytes

from vlascope_server.torch_checkpoints.compatibility import Compatibility
from vlascope_server.torch_checkpoints.components import Count, Recurrent
from vlascope_server.torch_checkpoints.guide import LONGEST_NAME, guide
from vlascope_server.torch_checkpoints.inspection import Inspection
from vlascope_server.torch_checkpoints.lora import Lora

JSON, DOCUMENT = "checkpoint_structure_analysis.json", "CHECKPOINT_STRUCTURE.md"
_FIRST_NAMES = 5
_LONGEST_TEXT = 4000
"""Letters that are shown of one fact; the JSON has all."""
_PACKAGES = ("vlascope-server", "numpy", "ml-dtypes", "safetensors")


def write_report(folder: Path, inspections: list[Inspection], compatibility: Compatibility | None) -> list[Path]:
    """Writes both files, each whole or not at all; those of an earlier inspection are replaced.

    Args:
        folder: is made where it is missing.
        inspections: of one checkpoint, or of two.
        compatibility: of the two.
    """
    make_folders(folder)
    content = {**as_json(inspections, compatibility), "time": now(), **provenance(*_PACKAGES)}
    replace_json(folder / JSON, content)
    replace_file(folder / DOCUMENT, document(inspections, compatibility))
    return [folder / JSON, folder / DOCUMENT]


def as_json(inspections: list[Inspection], compatibility: Compatibility | None) -> dict[str, Any]:
    """Everything that was found; `checkpoints` has an entry for each file."""
    heads = None if compatibility is None else dataclasses.asdict(compatibility)
    return {"schema": 1, "checkpoints": [one_as_json(found) for found in inspections], "action_heads": heads}


def one_as_json(found: Inspection) -> dict[str, Any]:
    """One checkpoint."""
    checkpoint, counts = found.checkpoint, found.counts
    head = core(found)
    return {
        "path": str(checkpoint.path),
        "bytes": checkpoint.bytes,
        "kind": checkpoint.kind,
        "layout": checkpoint.layout,
        "keys": found.keys,
        "training": {**found.training, "framework": found.framework},
        "configuration": found.configuration,
        "model": found.judged.model,
        "missing": list(found.judged.missing),
        "unexpected": list(found.judged.unexpected),
        "wrapper": found.wrapper,
        "first_names": list(checkpoint.tensors)[:_FIRST_NAMES],
        **dataclasses.asdict(counts.total),
        "components": {name: dataclasses.asdict(entry) for name, entry in counts.components.items()},
        "dtypes": {name: dataclasses.asdict(entry) for name, entry in counts.dtypes.items()},
        "memory": {name: size for name, _, size in memory(found)},
        "shared_values": len(counts.shared),
        "beside_the_weights": {
            key: {"tensors": tensors, "bytes": size} for key, (tensors, size) in found.beside.items()
        },
        "lstm": dataclasses.asdict(head) if head else None,
        "head_outputs": found.outputs,
        "lora": dataclasses.asdict(found.lora) if found.lora else None,
        "hook_points": [dataclasses.asdict(hook) for hook in found.hooks],
        "unknown_classes": list(checkpoint.unknown),
        "harmless_classes": [name for name, verdict in checkpoint.names.items() if verdict == "harmless"],
        "refused_calls": [f"{name}{call}" for name, call in checkpoint.calls.items()],
        "not_read": found.not_read,
    }


def core(found: Inspection) -> Recurrent | None:
    """The recurrent network of the action head, or else the largest one."""
    return found.head_network or next(iter(found.recurrent), None)


def memory(found: Inspection) -> Iterator[tuple[str, str, int]]:
    """What the weights take in memory, every value once: a key, words, bytes."""
    total = found.counts.total
    yield "as_stored", "as they are stored", total.bytes_unique
    yield "float32", "all in float32", 4 * total.elements_unique
    yield "bfloat16", "all in bfloat16 or float16", 2 * total.elements_unique


def document(inspections: list[Inspection], compatibility: Compatibility | None) -> str:
    """The document in Markdown: the structure, where to hook, how to get what is missing."""
    lines = ["# Checkpoint structure", ""]
    for number, found in enumerate(inspections):
        which = "" if len(inspections) == 1 else ("First: ", "Second: ")[number]
        lines += [f"## {which}{_plain(found.checkpoint.path.name)}", ""]
        lines += [*_facts(found), "", *_components(found), ""]
    if compatibility is not None:
        lines += [
            "## Are the two action heads compatible?", "",
            "**Yes.**" if compatibility.compatible else "**No.**", "",
            *(f"- {_plain(sentence)}" for sentence in compatibility.reasons), "",
        ]  # fmt: skip
        if compatibility.notes:
            lines += ["What else differs:", "", *(f"- {_plain(note)}" for note in compatibility.notes), ""]
    for number, found in enumerate(inspections):
        of = "" if len(inspections) == 1 else f", {('first', 'second')[number]} checkpoint"
        lines += guide(found, of)
    return "\n".join(lines).rstrip("\n") + "\n"


def _facts(found: Inspection) -> Iterator[str]:
    yield "| | |"
    yield "| --- | --- |"
    for name, value in facts(found):
        yield f"| {_plain(name)} | {_plain(value)} |"


def facts(found: Inspection) -> Iterator[tuple[str, str]]:
    """What is told of one checkpoint: a name and a value each."""
    checkpoint, total = found.checkpoint, found.counts.total
    yield "path", str(checkpoint.path)
    yield "size of the file", f"{readable_binary_bytes(checkpoint.bytes)} ({checkpoint.bytes:,} bytes)"
    yield "format", f"{checkpoint.kind}, {checkpoint.layout}"
    yield "model", found.judged.model or "not known here"
    if found.keys:
        yield "keys at the top", ", ".join(f"{key} ({kind})" for key, kind in list(found.keys.items())[:20])
    if found.framework:
        yield "framework", found.framework
    for key, value in list(found.training.items())[:20]:
        yield key.replace("_", " "), str(value)
    yield "tensors", f"{total.tensors_named:,} names, {total.tensors_unique:,} tensors"
    yield "elements (parameters)", f"{total.elements_named:,} under all names, {total.elements_unique:,} of their own"
    for dtype, entry in found.counts.dtypes.items():
        yield f"in {dtype}", f"{entry.elements_unique:,} elements, {readable_binary_bytes(entry.bytes_unique)}"
    yield "memory", ", ".join(f"{words} {readable_binary_bytes(size)}" for _, words, size in memory(found))
    for key, (tensors, size) in found.beside.items():
        yield f"beside the weights: {key}", f"{counted(tensors, 'tensor')}, {readable_binary_bytes(size)}"
    if head := core(found):
        yield "recurrent network", network(head)
    if found.outputs:
        yield (
            "numbers that the head gives out",
            ", ".join(f"{branch} {width}" for branch, width in found.outputs.items()),
        )
    if found.lora:
        yield "LoRA", adapters(found.lora)
    for name, values in (("missing names", found.judged.missing), ("unexpected names", found.judged.unexpected)):
        if values:
            yield name, _listed(list(values))
    if found.not_read:
        yield "not read", _listed([f"{name} ({kind})" for name, kind in found.not_read.items()])
    if checkpoint.unknown:
        yield "unknown classes, not loaded", _listed(list(checkpoint.unknown))
    if checkpoint.calls:
        yield "REFUSED CALLS, not made", _listed([f"{name}{call}" for name, call in checkpoint.calls.items()])


def shortened(text: str) -> str:
    """A text from a file for people: printable, and cut where no honest file's is as long."""
    return printable(text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}…")


def network(head: Recurrent) -> str:
    """A recurrent network in a line."""
    sizes = [f"input {head.input_size}", f"hidden size {head.hidden_size}", f"layers {head.num_layers}"]
    known = [size for size in sizes if not size.endswith("None")]
    kind = head.kind or "kind not known, since tensors are missing"
    return f"{head.module}: {kind}, {', '.join(known)}; {counted(head.tensors, 'tensor')}, {head.elements:,} elements"


def adapters(lora: Lora) -> str:
    """LoRA's adapters in a line."""
    rank = ", ".join(map(str, lora.ranks)) or "not known"
    scale = "not known" if lora.scale is None else f"{lora.scale:g}"
    alpha = "not in the file" if lora.alpha is None else f"{lora.alpha:g} ({lora.alpha_from})"
    halves = f"; {len(lora.incomplete)} layers lack one of the two matrices" if lora.incomplete else ""
    return f"rank {rank}, alpha {alpha}, scale {scale}; {lora.layers} layers, {lora.tensors_named} tensor names{halves}"


def component_rows(found: Inspection) -> Iterator[tuple[str, Count]]:
    """The components, and their sum."""
    yield from found.counts.components.items()
    yield "total", found.counts.total


def _components(found: Inspection) -> Iterator[str]:
    yield "| component | tensor names | tensors | elements under all names | elements | size |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    for name, entry in component_rows(found):
        yield (
            f"| {name.replace('_', ' ')} | {entry.tensors_named:,} | {entry.tensors_unique:,} | {entry.elements_named:,}"
            f" | {entry.elements_unique:,} | {readable_binary_bytes(entry.bytes_unique)} |"
        )


def _listed(values: list[str], limit: int = 10) -> str:
    short = [value if len(value) <= LONGEST_NAME else f"{value[:LONGEST_NAME]}…" for value in values[:limit]]
    return ", ".join(short) + (f" and {len(values) - limit} more" if len(values) > limit else "")


def _plain(text: str) -> str:
    """A text from a file as Markdown shows it as it is: one line, no markup, no links, no cell's end."""
    shown = shortened(text)
    return "".join(f"\\{char}" if char in "\\`*[]<>|" else char for char in shown)
