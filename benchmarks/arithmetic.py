"""What one iteration of looking for mixing weights costs beside the gradient that it cannot do without.

Three things take turns on the same checkpoints, frames and draws, and the best of each counts:

- **bare**: the loss and its gradient in the parameters that differ, all of them on the device already;
- **ours**: the mix of all checkpoints on the device, the same gradient, and its products with every checkpoint;
- **the reference's way**: the mix in host memory, moved to the device, the gradient of every parameter, moved back, and its
  products with every checkpoint in host memory.

The overhead of a way is its time less the bare one's. Bound: ours is at most 1/5 of the reference's where adapters differ,
and 2/3 where every parameter does. Mixing costs the same whatever the model sees, so the pictures are small ones: an overhead
is then not the small difference of two long times.

    python benchmarks/arithmetic.py [--gigabytes 0.2] [--checkpoints 3] [--turns 5] [--out FILE]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from common import options_of, report, verdict
from models import device, interleaved, random_noise, random_observation
from restore_memory import scaled
from vlascope_server.mixing.descent import logits_gradient
from vlascope_server.mixing.weighting import Groups
from vlascope_server.model import Lora, Pi0Config, flow_loss, init_params

LIMITS = {"full": 2 / 3, "lora": 1 / 5}
RANK = 16
"""Of the adapters: the reference's for the language model."""


def main() -> None:
    """Measures both cases, prints a table and the JSON line."""
    parser = options_of(__doc__)
    parser.add_argument("--gigabytes", type=float, default=0.2, help="of one float32 checkpoint")
    parser.add_argument("--checkpoints", type=int, default=3)
    parser.add_argument("--turns", type=int, default=9, help="of each")
    args = parser.parse_args()
    results = {}
    print(f"{'':<6} {'bare':>10} {'ours':>10} {'reference':>10} {'overheads':>22} {'ratio':>6}")
    for case, limit in LIMITS.items():
        seconds = measure(case, args.gigabytes, args.checkpoints, args.turns)
        overheads = {way: seconds[way] - seconds["bare"] for way in ("ours", "reference")}
        ratio = overheads["ours"] / overheads["reference"]
        results[case] = {**seconds, "overhead_ratio": ratio}
        shown = " ".join(f"{seconds[way] * 1e3:7.0f} ms" for way in ("bare", "ours", "reference"))
        both = " and ".join(f"{overheads[way] * 1e3:.0f} ms" for way in overheads)
        print(f"{case:<6} {shown} {both:>22} {ratio:6.2f}, bound {limit:.2f}: {verdict(ratio <= limit)}")
    config = {"gigabytes": args.gigabytes, "checkpoints": args.checkpoints, "turns": args.turns, "limits": LIMITS}
    report("arithmetic", config, results, args.out, device())


def measure(case: str, gigabytes: float, count: int, turns: int) -> dict[str, float]:
    """Seconds of each way, of its best turn."""
    config = scaled(gigabytes)
    small = dataclasses.replace(config.vision, image_size=2 * config.vision.patch_size)
    config = dataclasses.replace(config, vision=small, max_token_len=8, action_horizon=8)
    if case == "lora":
        lora = Lora(RANK, float(RANK))
        experts = (dataclasses.replace(g, attn_lora=lora, ffn_lora=lora) for g in (config.vlm, config.action))
        config = dataclasses.replace(config, **dict(zip(("vlm", "action"), experts, strict=True)))
    params = init_params(config)
    differing = [name for name in params if case == "full" or "lora_" in name]
    rng = np.random.default_rng(0)
    theirs = tuple(
        {n: params[n] + 0.01 * jnp.asarray(rng.standard_normal(params[n].shape, np.float32)) for n in differing}
        for _ in range(count)
    )
    shared = {name: value for name, value in params.items() if name not in differing}
    loss_of, batch, key = objective(config)
    groups = Groups.of({name: tuple(params[name].shape) for name in differing}, "checkpoint")
    logits = jnp.zeros((1, count))
    bare = jax.jit(lambda own, rest: jax.value_and_grad(lambda own: loss_of({**rest, **own}, batch, key))(own))
    ours = jax.jit(lambda z, own, rest: logits_gradient(loss_of, groups, z, own, rest, batch, key))
    everything = jax.jit(lambda params: jax.value_and_grad(lambda params: loss_of(params, batch, key))(params))
    on_host = [{name: np.asarray(value) for name, value in {**shared, **own}.items()} for own in theirs]

    def reference() -> object:
        weights = np.asarray(jax.nn.softmax(logits))[0]
        mixed = {name: sum(w * c[name] for w, c in zip(weights, on_host, strict=True)) for name in on_host[0]}
        _, gradient = everything({name: jnp.asarray(value) for name, value in mixed.items()})
        back = {name: np.asarray(value) for name, value in gradient.items()}
        return [sum(float(np.vdot(back[name], c[name])) for name in back) for c in on_host]

    ways: dict[str, Callable[[], object]] = {
        "bare": lambda: jax.block_until_ready(bare(theirs[0], shared)),
        "ours": lambda: jax.block_until_ready(ours(logits, theirs, shared)),
        "reference": reference,
    }
    return {way: min(seconds) for way, seconds in interleaved(ways, turns).items()}


def objective(config: Pi0Config):
    """The flow-matching loss of one observation, as the mixing weights' gradient takes it."""
    inputs, noise = random_observation(config), random_noise(config)
    actions, when = jnp.zeros_like(noise), jnp.full((1,), 0.5)

    def loss_of(params, batch, key):
        return flow_loss(params, config, batch, actions, noise, when).mean()

    return loss_of, inputs, jax.random.key(0)


if __name__ == "__main__":
    main()
