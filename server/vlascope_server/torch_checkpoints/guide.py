"""The part of `CHECKPOINT_STRUCTURE.md` that says what to do with a checkpoint: hidden states out of it, and where to
download another.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from vlascope_base.text import printable

from vlascope_server.torch_checkpoints.classes import taken_by_torch
from vlascope_server.torch_checkpoints.downloads import PRETRAINED
from vlascope_server.torch_checkpoints.inspection import Inspection
from vlascope_server.torch_checkpoints.names import ROBOKOSMOS, HookPoint

LONGEST_NAME = 200
"""Letters of a tensor's or a class's name that are shown; an example needs a name that is whole, and takes a shorter one."""

_HOOKS = """```python
import torch

captured = {{}}

def keep_input(module, args, kwargs):
    # the head's first argument, by whatever name it is given
    captured["context"] = (args[0] if args else next(iter(kwargs.values()))).detach().float().cpu()

def keep_output(module, args, output):
    captured["hidden"] = (output[0] if isinstance(output, tuple) else output).detach().float().cpu()

handles = [
{handles}
]
with torch.inference_mode():
    ...  # one inference of `policy`
for handle in handles:
    handle.remove()
```"""

_DOWNLOAD = f"""The pretrained checkpoint of RoboVLMs (`{Path(PRETRAINED[1]).name}`) lies on the Hugging Face hub, in the
repository `{PRETRAINED[0]}`:

```
hf download {PRETRAINED[0]} {PRETRAINED[1]} --local-dir checkpoints/RoboVLMs
vlascope-server inspect checkpoints/RoboVLMs/{PRETRAINED[1]}
```

`hf` comes with the package `huggingface_hub`. A download that breaks off goes on where it stopped when the command is
repeated. What it leaves in `.cache/huggingface/download` meanwhile is no checkpoint: a `.lock` file holds nothing, and stays
behind; an `.incomplete` file holds the bytes that came so far. `vlascope-server inspect` names each as what it is."""


def guide(found: Inspection, of: str) -> Iterator[str]:
    """Lines of Markdown.

    Args:
        found: the checkpoint.
        of: what follows a heading, to tell two checkpoints apart.
    """
    yield from (f"## Loading it{of}", "", *_loading(found), "")
    if found.hooks:
        yield from (f"## Where hidden states can be read{of}", "")
        yield "The names of the tensors suggest these modules of the policy (what a wrapper puts before names is left away)."
        yield from ("", "| module | read | width | what it is |", "| --- | --- | ---: | --- |")
        for hook in found.hooks:
            width = "not known" if hook.width is None else str(hook.width)
            last = (hook.layers or 0) - 1
            layers = "" if last < 0 else f", N from 0 to {last}" if last else ", N is 0"
            module = _span(hook.module).replace("|", "\\|")  # a table's cell ends at a bar, in code too
            yield f"| {module}{layers} | {hook.read} | {width} | {hook.what} |"
        yield from ("", "With PyTorch, where `policy` is the loaded model:", "")
        yield from _HOOKS.format(handles="\n".join(_handle(hook) for hook in _chosen(found.hooks))).split("\n")
        yield ""
        if found.judged.model == ROBOKOSMOS:
            width = found.hooks[0].width
            yield (
                "The context vector is the last hidden state of the language model at the action token"
                f"{f', {width} numbers' if width else ''}. It is not made of vision features beside language features: each of"
                " its numbers may depend on both."
            )
            yield ""
    if found.judged.model == ROBOKOSMOS:
        yield from (f"## Getting the pretrained checkpoint{of}", "", *_DOWNLOAD.split("\n"), "")


def _loading(found: Inspection) -> Iterator[str]:
    checkpoint = found.checkpoint
    yield "Without torch, each tensor as a read-only view of the file:"
    yield from ("", "```python", "from vlascope_server.torch_checkpoints import open_torch_checkpoint", "")
    trust = ", trust=True" if checkpoint.calls else ""
    yield f"checkpoint = open_torch_checkpoint({_code(repr(str(checkpoint.path)))}{trust})"
    yield "shapes = {name: tensor.shape for name, tensor in checkpoint.tensors.items()}"
    if name := next((name for name in checkpoint.tensors if len(name) <= LONGEST_NAME), None):
        yield f"array = checkpoint.array({_code(repr(name))})"
    yield from ("```", "")
    if checkpoint.kind == "safetensors":
        return
    if checkpoint.calls:
        made = ", ".join(_span(f"{name}{call}") for name, call in list(checkpoint.calls.items())[:5])
        yield (
            f"**Do not load this file with torch.** `torch.load` with `weights_only=True` refuses it; with `weights_only=False`"
            f" it would run what the file names: {made}."
        )
    else:
        yield from _with_torch(found)
    if shared := len(found.counts.shared):
        yield ""
        yield (
            "1 name has the values of an earlier name. The two are one parameter, which counts once; a sum over all names"
            " counts it twice."
            if shared == 1
            else f"{shared:,} names have the values of an earlier name. Each such pair is one parameter, which counts once; a"
            " sum over all names counts it twice."
        )


def _with_torch(found: Inspection) -> Iterator[str]:
    """How torch loads a file that calls nothing; with a warning where it names classes that torch refuses."""
    checkpoint = found.checkpoint
    lead = "".join(f"[{_code(repr(key))}]" for key in checkpoint.place)
    strip = f".removeprefix({_code(repr(found.wrapper))})" if found.wrapper else ""
    others = [name for name in checkpoint.names if not taken_by_torch(name)]
    if others:
        more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        yield (
            "With torch, this file needs care: `weights_only=True` refuses it, because it names what is not on torch's list"
            f" ({', '.join(map(_span, others[:5]))}{more}). Allow these with"
            " `torch.serialization.add_safe_globals`, where they are installed, or save the weights alone."
            " `weights_only=False` runs whatever the file says: only for a file whose author you trust."
        )
    else:
        yield "With torch:"
    yield from ("", "```python", "import torch", "")
    if others:
        yield "# raises an error unless the names above are allowed first"
    mapped = "mmap=True, " if checkpoint.kind == "torch zip" else ""
    yield f'content = torch.load({_code(repr(str(checkpoint.path)))}, map_location="cpu", {mapped}weights_only=True)'
    yield f"weights = {{name{strip}: tensor for name, tensor in content{lead}.items()}}"
    yield "```"


def _chosen(hooks: list[HookPoint]) -> list[HookPoint]:
    """One module whose input is read, and one whose output is."""
    found = {hook.read: hook for hook in reversed(hooks) if len(hook.module) <= LONGEST_NAME}
    return [found[read] for read in ("input", "output") if read in found]


def _handle(hook: HookPoint) -> str:
    module = _code(repr(hook.module.replace(".N", ".0")))
    kind = "pre_hook(keep_input, with_kwargs=True)" if hook.read == "input" else "hook(keep_output)"
    return f"    policy.get_submodule({module}).register_forward_{kind},"


def _code(text: str) -> str:
    """A text for a line of a code block: it cannot end the block, whose end has a line of its own."""
    return printable(text)


def _span(text: str) -> str:
    """A text as a code span of Markdown, whatever backticks it holds."""
    shown = printable(text)
    shown = shown if len(shown) <= LONGEST_NAME else f"{shown[:LONGEST_NAME]}…"
    if "`" not in shown:
        return f"`{shown}`"
    fence = "`" * (1 + max(map(len, re.findall("`+", shown))))
    return f"{fence} {shown} {fence}"
