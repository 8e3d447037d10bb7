"""The capture spec as a value: canonical, hashable, and particular about what it accepts."""

from __future__ import annotations

import numpy as np
import pytest
from vlascope_latents import COMPONENTS, CaptureSpec, CaptureSpecError


def test_specs_that_select_the_same_are_the_same():
    a = CaptureSpec(experts=["action", "vlm"], layers=[5, 0, 5], components=["v_t", "hidden_states"])
    b = CaptureSpec(experts=("vlm", "action"), layers=(np.int64(0), 5), components=("hidden_states", "v_t"))
    assert a == b
    assert hash(a) == hash(b)


def test_a_spec_survives_the_wire():
    spec = CaptureSpec(components=COMPONENTS, layers=(3,), spans=("text", "action"), reduction="mean", dtype="float32")
    assert CaptureSpec.from_map(spec.to_map()) == spec
    assert CaptureSpec.from_map({}) == CaptureSpec()


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"components": "hidden_states"}, "components", "expected a list of names, got 'hidden_states'"),
        ({"components": []}, "components", "selects nothing"),
        ({"experts": [["vlm"]]}, "experts", "unknown name ['vlm']"),
        ({"layers": [-1]}, "layers", "-1 is no index"),
        ({"layers": [True]}, "layers", "True is no index"),
        ({"layers": [1.0]}, "layers", "1.0 is no index"),
        ({"layers": "last"}, "layers", "expected 'all' or a list of indices, got 'last'"),
        ({"layers": 3}, "layers", "expected 'all' or a list of indices, got 3"),
        ({"denoise_steps": []}, "denoise_steps", "selects nothing"),
        ({"spans": [7]}, "spans", "unknown name 7"),
        ({"reduction": "max"}, "reduction", "unknown value 'max'; allowed: none, mean, last"),
        ({"dtype": "float16"}, "dtype", "unknown value 'float16'; allowed: bfloat16, float32"),
        ({"dtype": ["float32"]}, "dtype", "unknown value ['float32']"),
        ({"layer": [1]}, "layer", "unknown field; allowed: experts, components, layers"),
    ],
)
def test_bad_fields_are_named(fields, field, message):
    with pytest.raises(CaptureSpecError) as caught:
        CaptureSpec.from_map(fields)
    assert caught.value.field == field
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_spec_is_a_map():
    with pytest.raises(CaptureSpecError, match="expected a map of fields, got list"):
        CaptureSpec.from_map([1])  # pyright: ignore


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "hidden_states of every expert, every layer, every denoise step, every token, as bfloat16"),
        (
            {"experts": ["vlm"], "layers": [0, 1, 2, 5], "spans": ["text", "base_0_rgb"], "dtype": "float32"},
            "hidden_states of vlm, layers 0-2, 5, tokens of text, base_0_rgb, as float32",
        ),
        (
            {"components": ["mlp_activation", "x_t"], "layers": [3], "denoise_steps": [9], "reduction": "mean"},
            "mlp_activation, x_t of every expert, layer 3, denoise step 9, mean over every token, as bfloat16",
        ),
        (
            {"experts": ["vlm"], "spans": ["text", "image"], "reduction": "mean"},
            "hidden_states of vlm, every layer, mean over each of text, image, as bfloat16",
        ),
        (
            {"experts": ["action"], "layers": [3], "reduction": "last"},
            "hidden_states of action, layer 3, every denoise step, the last token, as bfloat16",
        ),
        (
            {"experts": ["vlm"], "spans": ["text"], "reduction": "last"},
            "hidden_states of vlm, every layer, last token of each of text, as bfloat16",
        ),
    ],
)
def test_a_spec_says_itself_in_words(fields, said):
    assert str(CaptureSpec.from_map(fields)) == said
