"""Ways to write the same inference for the compiler, to be measured side by side on one card.

A variant changes how the program is traced, or the options it is compiled with, and never what is computed: its actions are
compared with the plain program's. What a measurement shows to be better moves into the model; until then it stays here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from vlascope_server.model import gemma, sites

GRAPHS = "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN"
"""XLA's command buffers: kinds of kernels that are recorded into a CUDA graph, and replayed with one launch."""
Option = str | bool


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way.

    Attributes:
        name: short, for the table.
        says: what differs, and what is expected of it.
        options: XLA's options of this program alone.
        traced: what holds while the program is traced.
        device: `gpu` where it cannot be compiled for a CPU.
    """

    name: str
    says: str
    options: Mapping[str, Option] = dataclasses.field(default_factory=dict)
    traced: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    device: str = "any"


def unrolled(vision: int = 1, layers: int = 1, steps: int = 1, *, depths: tuple[int, int, int]) -> Any:
    """While tracing: so many iterations of each loop are written out, told apart by their lengths.

    Args:
        vision: blocks of the vision tower in one iteration.
        layers: blocks of either expert.
        steps: denoise steps.
        depths: how long the three loops are.
    """
    chosen = dict(zip(depths, (vision, layers, steps), strict=True))
    scan = jax.lax.scan

    def written(f: Any, init: Any, xs: Any = None, length: int | None = None, **options: Any) -> Any:
        n = length if length is not None else len(jax.tree.leaves(xs)[0])
        return scan(f, init, xs, length, **{"unroll": min(n, chosen.get(n, 1)), **options})

    return mock.patch.object(jax.lax, "scan", written)


def attended_by(implementation: str) -> Any:
    """While tracing: both experts attend by `jax.nn.dot_product_attention` instead of our own products."""

    def attend(
        q: Float[Array, "B T N H"], kv: gemma.KeysValues, bias: Float[Array, "B T S"], site: object
    ) -> Float[Array, "B T N H"]:
        k, v = kv.k.transpose(0, 3, 1, 2), kv.v.transpose(0, 2, 1, 3)
        mask = (bias == 0)[:, None]
        # ours scales the queries before; a product that scales them again would attend otherwise
        chosen: Any = implementation
        return jax.nn.dot_product_attention(q, k, v, mask=mask, scale=1.0, implementation=chosen)

    return mock.patch.object(gemma, "attend", attend)


def without_barriers() -> Any:
    """While tracing: the compiler may fuse across what could be captured. Capture may then move the actions by a rounding."""
    return mock.patch.object(sites, "fence", lambda value: value)


@contextlib.contextmanager
def _all(*contexts: Any) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context)
        yield


def variants(depths: tuple[int, int, int]) -> list[Variant]:
    """Every variant, the most promising ones first: a measurement may run out of time.

    Args:
        depths: of the vision tower, of the experts, and the number of denoise steps; three different numbers.
    """

    def loops(**chosen: int) -> Callable[[], Any]:
        return lambda: unrolled(**chosen, depths=depths)

    _, layers, steps = depths
    graph = {"xla_gpu_graph_min_graph_size": "1"}
    whole = {"xla_gpu_enable_command_buffer": f"{GRAPHS},WHILE,CONDITIONAL", **graph}
    cudnn = "cudnn" if jax.default_backend() == "gpu" else "xla"
    return [
        Variant("plain", "as the model is today"),
        Variant("graphs", "kernels recorded into CUDA graphs, from one kernel on: fewer launches",
                {"xla_gpu_enable_command_buffer": GRAPHS, **graph}),
        Variant("graphs+loops", "the loops themselves in the graph: one launch an inference", whole),
        Variant("steps unrolled", "denoise steps written out: launches overlap, compiling takes longer",
                traced=loops(steps=steps)),
        Variant("steps unrolled, graphs", "both", whole, loops(steps=steps)),
        Variant("layers by 2", "two blocks an iteration", traced=loops(vision=3, layers=2)),
        Variant("layers unrolled", "no loop over blocks", traced=loops(layers=layers)),
        Variant("cudnn", "fused attention of cuDNN", traced=lambda: attended_by(cudnn)),
        Variant("cudnn, graphs", "both", whole, lambda: attended_by(cudnn)),
        Variant("no barriers", "free to fuse across taps: is the barrier needed, and what does it cost",
                traced=without_barriers),
        Variant("triton gemm", "Triton may take every matrix product", {"xla_gpu_triton_gemm_any": True}),
        Variant("cublas only", "no product by Triton", {"xla_gpu_enable_triton_gemm": False}),
        Variant("latency hiding", "the scheduler that overlaps copies", {"xla_gpu_enable_latency_hiding_scheduler": True}),
        Variant("no autotuning", "what autotuning is worth", {"xla_gpu_autotune_level": "0"}),
        Variant("everything written out", "no loop at all, in graphs, cuDNN",
                whole, lambda: _all(unrolled(layers=layers, steps=steps, depths=depths), attended_by(cudnn))),
    ]  # fmt: skip


def compiled(call: Callable[..., Any], arguments: tuple[Any, ...], variant: Variant) -> Any:
    """The program of `call(*arguments)` in this variant: traced anew, compiled with its options."""
    # unwrapped, and a function of its own: JAX would hand out what it traced for another variant
    plain = inspect.unwrap(call)
    with variant.traced():
        lowered = jax.jit(lambda *given: plain(*given)).lower(*arguments)
    return lowered.compile(compiler_options=dict(variant.options))


def difference(ours: jax.Array, plain: jax.Array) -> float:
    """The largest difference between two action chunks; 0 is equality to the bit."""
    return float(jnp.max(jnp.abs(ours.astype(jnp.float32) - plain.astype(jnp.float32))))
