"""Text encoders for a probe's labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

MINILM = "minilm"
ONEHOT = "onehot"


def open_encoder(name: str) -> Callable[[Sequence[str]], np.ndarray]:
    """A function from texts to float32 [texts, E].

    Args:
        name: `minilm`, which needs neither torch nor a network; `onehot`, where every text has an axis of its own; or a T5: a
            folder, or a name on the Hugging Face hub such as `t5-small`.

    Raises:
        AnalysisError: the weights or the packages that it needs are missing; when it is opened or first called.
    """
    if name == MINILM:
        from vlascope_analysis.data.encoders.minilm import MiniLM

        return MiniLM.load()
    if name == ONEHOT:
        from vlascope_analysis.data.encoders.onehot import onehot

        return onehot
    from vlascope_analysis.data.encoders.t5 import T5

    return T5.load(name)


__all__ = ["MINILM", "ONEHOT", "open_encoder"]
