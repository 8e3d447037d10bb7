"""What capturing adds to an inference: latency with over latency without, of the full residual stream of both experts, and of
attention reduced to spans.

The captured arrays stay on the device, in the spec's bfloat16; copying and storing them is the server's and the store's
benchmark. The programs take turns. Whether their actions are equal to the bit is said beside.

    python benchmarks/capture_overhead.py [--size mid|full] [--rounds 15] [--out FILE]
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable

import jax
import numpy as np
from common import options_of, report
from models import MID, STEPS, device, interleaved, published, random_noise, random_observation, ratio, usual_size
from vlascope_latents import CaptureSpec, plan_capture
from vlascope_server.model import fuse_for_inference, init_params, sample_actions
from vlascope_server.model.sites import Latents


def main() -> None:
    """Command line."""
    parser = options_of(__doc__)
    parser.add_argument("--size", choices=("mid", "full"), default=usual_size())
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    config = MID if args.size == "mid" else published()
    params = fuse_for_inference(init_params(config, dtype=config.dtype))
    observation = random_observation(config)
    noise = random_noise(config)
    specs = {"capture": CaptureSpec(), "attention": CaptureSpec.profile("attention")}

    def call(capture: CaptureSpec | None) -> Callable[[], tuple[jax.Array, Latents]]:
        return lambda: sample_actions(params, config, observation, noise, num_steps=STEPS, capture=capture)

    actions, _ = call(None)()
    same = {name: float(np.array_equal(actions, call(spec)()[0])) for name, spec in specs.items()}
    seconds = interleaved({"plain": call(None), **{name: call(spec) for name, spec in specs.items()}}, args.rounds)
    results = {
        **{f"seconds_{name}": statistics.median(times) for name, times in seconds.items()},
        "bytes_captured": plan_capture(specs["capture"], config.layout(STEPS)).nbytes,
        "bytes_attention": plan_capture(specs["attention"], config.layout(STEPS)).nbytes,
        **{f"{name}_over_plain": ratio(seconds[name], seconds["plain"]) for name in specs},
        **{f"{name}_actions_equal": equal for name, equal in same.items()},
        "rounds": args.rounds,
    }
    for name, value in results.items():
        print(f"{name:<24} {value:>14.3f}")
    report("capture_overhead", dataclasses.asdict(config), results, args.out, device())


if __name__ == "__main__":
    main()
