"""The capture spec as a value: canonical, hashable, and particular about what it accepts."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from vlascope_latents import COMPONENTS, CaptureSpec, CaptureSpecError, Site


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
        ({"a\nb" * 99: 1}, r"a\nba\nb", "unknown field"),
        ({1: 2}, "1", "unknown field"),
        # what is no list
        ({"layers": {0: 1}}, "layers", "expected 'all' or a list of indices, got {0: 1}"),
        ({"layers": {0, 1}}, "layers", "expected 'all' or a list of indices, got {0, 1}"),
        ({"layers": b"ab"}, "layers", "expected 'all' or a list of indices, got b'ab'"),
        ({"layers": bytearray(b"ab")}, "layers", "expected 'all' or a list of indices, got bytearray(b'ab')"),
        ({"layers": np.eye(2)}, "layers", "expected 'all' or a list of indices, got an array of float64 [2, 2]"),
        ({"layers": np.array(3)}, "layers", "expected 'all' or a list of indices, got an array of int64 []"),
        ({"layers": None}, "layers", "expected 'all' or a list of indices, got None"),
        ({"spans": {"text": 1}}, "spans", "expected a list of names, got {'text': 1}"),
        ({"spans": b"text"}, "spans", "expected a list of names, got b'text'"),
        ({"experts": {"vlm"}}, "experts", "expected a list of names, got {'vlm'}"),
        ({"experts": "vlm"}, "experts", "expected a list of names, got 'vlm'"),
        ({"components": {"k": 1}.keys()}, "components", "expected a list of names, got dict_keys"),
        ({"sites": {"expert": "vlm", "component": "k"}}, "sites", "expected a list of maps, got {'"),
        ({"sites": b"ab"}, "sites", "expected a list of maps, got b'ab'"),
        ({"sites": 0, "layers": [1]}, "sites", "expected a list of maps, got 0"),
        ({"sites": "", "layers": [1]}, "sites", "expected a list of maps, got ''"),
        ({"sites": None, "layers": [1]}, "sites", "expected a list of maps, got None"),
        # what is no entry
        ({"layers": np.array([True, False])}, "layers", "True is no index"),
        ({"layers": [np.bool_(True)]}, "layers", "True is no index"),
        ({"layers": np.array([1.0])}, "layers", "1.0 is no index"),
        ({"layers": [math.nan]}, "layers", "nan is no index"),
        ({"layers": ["1"]}, "layers", "'1' is no index"),
        ({"layers": [None]}, "layers", "None is no index"),
        ({"layers": [[1]]}, "layers", "[1] is no index"),
        ({"layers": [10**5000]}, "layers", "a number of 16610 bits is beyond every model"),
        ({"layers": [-(10**5000)]}, "layers", "a number of 16610 bits is no index"),
        ({"layers": [2**31]}, "layers", "2147483648 is beyond every model: expected at most 2147483647"),
        ({"experts": [b"vlm"]}, "experts", "unknown name b'vlm': expected text"),
        ({"spans": ["x" * 101]}, "spans", "has 101 letters; expected at most 100"),
        ({"spans": np.array([1, 2])}, "spans", "unknown name 1: expected text"),
        ({"reduction": np.array(["mean", "last"])}, "reduction", "unknown value an array of <U4 [2]"),
        ({"dtype": np.dtype("float32")}, "dtype", "unknown value dtype('float32')"),
        # what is too much
        ({"layers": range(10**30)}, "layers", "has more than 4096 entries"),
        ({"layers": np.zeros(10**6, int)}, "layers", "has more than 4096 entries"),
        ({"spans": ["text"] * 4097}, "spans", "has more than 4096 entries"),
        ({"layers": range(4000), "denoise_steps": range(100)}, "spec", "has 4102 entries in its lists: expected at most 4096"),
        ({"sites": [{"expert": "vlm", "component": "k"}] * 257}, "sites", "has more than 256 entries"),
        (
            {"sites": [{"expert": "vlm", "component": "k", "name": f"k{n}", "layers": list(range(100))} for n in range(41)]},
            "sites", "has 4100 entries in its lists: expected at most 4096",
        ),
    ],
    ids=lambda value: None if isinstance(value, str) else "",
)  # fmt: skip
def test_bad_fields_are_named(fields, field, message):
    with pytest.raises(CaptureSpecError) as caught:
        CaptureSpec.from_map(fields)
    assert caught.value.field.startswith(field)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_what_can_be_walked_through_without_end_is_refused():
    with pytest.raises(CaptureSpecError, match="layers: has more than 4096 entries"):
        CaptureSpec(layers=itertools.count())  # pyright: ignore
    with pytest.raises(CaptureSpecError, match="sites: has more than 256 entries"):
        CaptureSpec(sites=itertools.repeat(0))  # pyright: ignore


def test_arrays_and_ranges_are_lists():
    plain = CaptureSpec(experts=("vlm",), components=("k",), layers=(0, 2, 4), spans=("text", "image"))
    for spec in (
        CaptureSpec(
            experts=np.array(["vlm"]), components=np.array(["k"]), layers=np.array([4, 0, 2], np.uint8),
            spans=np.array(["text", "image"]),
        ),
        CaptureSpec(experts=["vlm"], components=iter(["k"]), layers=range(0, 5, 2), spans=["text", "image"]),
        CaptureSpec.from_map({**plain.to_map(), "experts": np.array(["vlm"]), "spans": [np.str_("text"), "image"]}),
    ):  # fmt: skip
        assert spec == plain
        assert hash(spec) == hash(plain)
        assert json.loads(json.dumps(spec.to_map())) == plain.to_map()
        assert {type(entry) for value in spec.to_map().values() if isinstance(value, list) for entry in value} <= {
            int,
            str,
        }


def test_a_great_spec_says_itself_in_a_few_words():
    sites = [Site("vlm", "k", range(0, 32, 2), name=f"{'k' * 96}{n:03}") for n in range(256)]
    said = str(CaptureSpec(sites=sites))
    assert said.startswith(f"{sites[0]}; {sites[1]}; ")
    assert said.endswith("; … (256 sites)")
    assert len(said) < 2000
    assert "layers 0, 2, 4" in said
    crowd = str(CaptureSpec(experts=[f"{'e' * 90}{n}" for n in range(4000)]))
    assert crowd == "hidden_states of 4000 experts, every layer, every token, as bfloat16"


def test_a_profile_refuses_fields_that_a_spec_does_not_have():
    with pytest.raises(CaptureSpecError, match="layer: unknown field; allowed: experts, components, layers"):
        CaptureSpec.profile("probe", layer=(1,))


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
            "mlp_activation of every expert, layer 3, denoise step 9, mean over every token, as bfloat16; "
            "x_t of every expert, denoise step 9, as float32",
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
        # what is float32 in every spec
        (
            {"components": ["pre_attn_norm_scales", "v_t", "x_t"], "denoise_steps": [0]},
            "pre_attn_norm_scales of every expert, every layer, denoise step 0, every token, as float32; "
            "x_t, v_t of every expert, denoise step 0, as float32",
        ),
        (
            {"components": ["hidden_states", "pre_mlp_norm_scales"], "experts": ["vlm"], "layers": [1]},
            "hidden_states of vlm, layer 1, every token, as bfloat16; "
            "pre_mlp_norm_scales of vlm, layer 1, every token, as float32",
        ),
        ({"components": ["embedding"], "experts": ["vlm"]}, "embedding of vlm, every token, as bfloat16"),
        # reduced unless told
        ({"components": ["attention"], "experts": ["vlm"]}, "attention of vlm, every layer, mean over each span, as bfloat16"),
        (
            {"components": ["attention", "k"], "experts": ["vlm"], "spans": ["text"]},
            "attention of vlm, every layer, mean over each of text, as bfloat16; "
            "k of vlm, every layer, tokens of text, as bfloat16",
        ),
        (
            {"components": ["attention"], "experts": ["vlm"], "reduction": "none"},
            "attention of vlm, every layer, every token, as bfloat16",
        ),
        (
            {"components": "all", "layers": [3]},
            "everything of every expert, layer 3, every denoise step, every token, attention as mean over each span, "
            "as bfloat16, or what its model says",
        ),
        (
            {"components": ["logits"], "experts": ["decoder"], "denoise_steps": [0, 1]},
            "logits of decoder, denoise steps 0, 1, as bfloat16, or what its model says",
        ),
    ],
)  # fmt: skip
def test_a_spec_says_itself_in_words(fields, said):
    assert str(CaptureSpec.from_map(fields)) == said
