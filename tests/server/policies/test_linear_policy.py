"""The policy in `linear_policy.py` keeps the contract."""

import numpy as np
from vlascope_latents import CaptureSpec

from tests.server.policies.conformance import PolicyConformance
from tests.server.policies.linear_policy import LinearPolicy


class TestLinearPolicy(PolicyConformance):
    specs = (CaptureSpec(components="all"), CaptureSpec(layers=(1,)))
    row_tolerance = 1e-12  # numpy sums in another order where there are more rows

    @staticmethod
    def make(seed):
        """The same policy for the same seed, one of other weights for another."""
        return LinearPolicy(seed)

    @staticmethod
    def observations():
        """Three that differ, each with a prompt."""
        rng = np.random.default_rng(0)
        return [
            {"image": rng.integers(0, 256, (16, 20, 3), np.uint8), "state": rng.standard_normal(3), "prompt": prompt}
            for prompt in ("reach for the cup", "open the drawer", "push the block")
        ]
