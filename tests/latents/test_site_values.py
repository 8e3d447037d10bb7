"""What a site keeps of a whole value, by hand: rows, positions from both ends, reductions over valid tokens, keys, types."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from vlascope_latents import CaptureSpec, Component, ExpertLayout, ModelLayout, Site, Span, plan_capture
from vlascope_latents.site_values import site_value

NAN = np.nan
READER = ExpertLayout(
    "reader", 2, 1, (Span("image/front", 0, 2), Span("text", 2, 6)),
    (
        Component("state", (("layer", 2), ("token", 6)), "float32"),
        Component("half", (("token", 6),)),
        Component("number", (("token", 6),), "int32"),
        Component("attention", (("layer", 2), ("head", 2), ("token", 6), ("key", 6)), "float32"),
    ),
)  # fmt: skip
MOVER = ExpertLayout(
    "mover", 1, 1, (Span("action", 0, 2),), (Component("x", (("width", 2),), "float32"),), "denoise", 3
)
LAYOUT = ModelLayout((READER, MOVER))
VALID = np.array([[1, 1, 1, 1, 1, 0], [0, 0, 1, 0, 0, 0]], bool)
"""Of the text, the first row has three words and the second one; of the second, no picture is real."""
STATE = np.stack([np.arange(6.0), 10 + np.arange(6.0)])[None] + np.array([0, 100.0])[:, None, None]
"""[row, layer, token]: 100 for the second row, 10 for the second layer, and the position."""


def kept(component: str, whole: np.ndarray, expert: str = "reader", **fields) -> np.ndarray:
    (site,) = plan_capture(CaptureSpec(sites=(Site(expert, component, **fields),)), LAYOUT).sites
    value = site_value(site, whole, VALID if expert == "reader" else None)
    assert value.shape == (len(whole), *site.tensor.shape)
    return value


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"layers": [1], "tokens": ["image"]}, [[[10, 11]], [[110, 111]]]),
        ({"layers": [0], "tokens": ["all"], "exclude": [0, 3]}, [[[1, 2, 4, 5]], [[101, 102, 104, 105]]]),
        ({"layers": [0], "tokens": [5, -1, -3]}, [[[5, 2, 4]], [[105, NAN, 102]]]),
        ({"layers": [0, 1], "tokens": ["text"], "reduction": "mean"}, [[[3], [13]], [[102], [112]]]),
        ({"layers": [0], "tokens": ["image", "text"], "reduction": "last"}, [[[1, 4]], [[NAN, 102]]]),
        ({"layers": [0], "tokens": ["image", -2], "reduction": "mean"}, [[[0.5, 3]], [[NAN, NAN]]]),
    ],
    ids=["a span", "an exclusion", "positions from the end", "a mean", "the last", "a mean of positions from the end"],
)
def test_rows_and_tokens(fields, expected):
    np.testing.assert_array_equal(kept("state", STATE, **fields), np.float32(expected))


def test_steps_of_a_loop():
    whole = np.arange(12.0).reshape(2, 3, 2)
    np.testing.assert_array_equal(kept("x", whole, "mover", steps=[0, 2]), whole[:, [0, 2]])


def test_bfloat16_and_its_bits():
    whole = np.linspace(0, 1, 12).reshape(2, 6)
    value = kept("half", whole, tokens=["text"])
    assert value.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(value, whole[:, 2:].astype(np.float32).astype(ml_dtypes.bfloat16))
    np.testing.assert_array_equal(kept("half", value.repeat(2, 1)[:, :6], tokens=["all"])[:, 0], value[:, 0])


def test_whole_numbers_stay_whole():
    value = kept("number", np.arange(12).reshape(2, 6), tokens=[-3])
    assert value.dtype == np.int32
    np.testing.assert_array_equal(value, [[2], [0]])


def test_attention_sums_keys_and_then_reduces_queries():
    whole = np.random.default_rng(0).random((2, 2, 2, 6, 6))
    value = kept("attention", whole, layers=[1], heads=[0], tokens=["text"], keys=["image", "text"])
    for row, words in enumerate(([2, 3, 4], [2])):
        shares = np.stack([whole[row, 1, 0][:, :2].sum(axis=1), whole[row, 1, 0][:, 2:].sum(axis=1)], axis=1)
        np.testing.assert_allclose(value[row, 0, 0], shares[words].mean(axis=0, keepdims=True), rtol=1e-6)
    plain = kept("attention", whole, layers=[1], heads=[0], tokens=["text"], keys=["image"], reduction="none")
    np.testing.assert_allclose(plain, whole[:, [1]][:, :, [0]][:, :, :, 2:, :2], rtol=1e-6)
