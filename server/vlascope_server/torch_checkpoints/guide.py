"""The part of `CHECKPOINT_STRUCTURE.md` that says what to do with a checkpoint: hidden states out of it, and where to
download another.
"""

from __future__ import annotations

from collections.abc import Iterator

from vlascope_base.text import printable

from vlascope_server.torch_checkpoints.inspection import Inspection
from vlascope_server.torch_checkpoints.names import ROBOKOSMOS, HookPoint

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

_DOWNLOAD = """The pretrained checkpoint of RoboVLMs (`kosmos_ph_oxe-pretrain.pt`) lies on the Hugging Face hub, in the
repository `robovlms/RoboVLMs`:

```
hf download robovlms/RoboVLMs --include "checkpoints/*.pt" --local-dir checkpoints/RoboVLMs
vlascope-server inspect checkpoints/RoboVLMs/checkpoints/kosmos_ph_oxe-pretrain.pt
```

`hf` comes with the package `huggingface_hub`. A download that breaks off goes on where it stopped when the command is
repeated. What it leaves in `.cache/huggingface/download` meanwhile is no checkpoint: a `.lock` file holds nothing, and stays
behind; an `.incomplete` file holds the
bytes that came so far. `vlascope-server inspect` names each as what it is."""


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
            layers = f", N from 0 to {hook.layers - 1}" if hook.layers else ""
            yield f"| `{_code(hook.module)}`{layers} | {hook.read} | {width} | {hook.what} |"
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
    lead = "".join(f"[{_code(repr(key))}]" for key in checkpoint.place)
    strip = f".removeprefix({found.wrapper!r})" if found.wrapper else ""
    yield "Without torch, each tensor as a read-only view of the file:"
    yield from ("", "```python", "from vlascope_server.torch_checkpoints import open_torch_checkpoint", "")
    yield f"checkpoint = open_torch_checkpoint({_code(repr(str(checkpoint.path)))})"
    yield "shapes = {name: tensor.shape for name, tensor in checkpoint.tensors.items()}"
    if name := next(iter(checkpoint.tensors), None):
        yield f"array = checkpoint.array({_code(repr(name))})"
    yield from ("```", "")
    if checkpoint.kind == "safetensors":
        return
    yield "With torch:"
    yield from ("", "```python", "import torch", "")
    mapped = "mmap=True, " if checkpoint.kind == "torch zip" else ""
    yield f'content = torch.load({_code(repr(str(checkpoint.path)))}, map_location="cpu", {mapped}weights_only=True)'
    yield f"weights = {{name{strip}: tensor for name, tensor in content{lead}.items()}}"
    yield from ("```", "")
    if checkpoint.unknown:
        yield (
            "`weights_only=True` refuses this file, because it names classes that are not torch's"
            f" ({', '.join(f'`{_code(name)}`' for name in checkpoint.unknown[:5])}). `weights_only=False` runs"
            " whatever the file says: only for a file whose author you trust."
        )
    if found.counts.shared:
        yield (
            f"{len(found.counts.shared):,} names share their values with an earlier name. They are one parameter each,"
            " and count once; a sum over all names counts them twice."
        )


def _chosen(hooks: list[HookPoint]) -> list[HookPoint]:
    """One module whose input is read, and one whose output is."""
    found = {hook.read: hook for hook in reversed(hooks)}
    return [found[read] for read in ("input", "output") if read in found]


def _handle(hook: HookPoint) -> str:
    module = _code(repr(hook.module.replace(".N", ".0")))
    kind = "pre_hook(keep_input, with_kwargs=True)" if hook.read == "input" else "hook(keep_output)"
    return f"    policy.get_submodule({module}).register_forward_{kind},"


def _code(text: str) -> str:
    """A text that a code block or a code span shows and that does not end either."""
    return printable(text).replace("`", "'")
