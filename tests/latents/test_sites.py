"""Sites: the long form of a spec, on layouts that are not Pi0's too."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from vlascope_latents import (
    PROFILES,
    Blocks,
    CaptureSpec,
    CaptureSpecError,
    Component,
    ModelLayout,
    Site,
    Span,
    TokenGroup,
    flow_components,
    plan_capture,
    transformer,
)
from vlascope_latents.store import LatentStore, RunWriter, StoreError
from vlascope_latents.store.verify import verify

VLM = transformer(
    "vlm", Blocks(6, 24, 40, heads=4, kv_heads=2, head_dim=8), (Span("image/base", 0, 8), Span("text", 8, 14))
)
ACTION = transformer(
    "action", Blocks(6, 16, 20, heads=4, kv_heads=2, head_dim=8), (Span("state", 0, 1), Span("action", 1, 6)), loop="denoise",
    steps=4, sees=(VLM,), outputs=("action",), extra=flow_components(5, 7),
)  # fmt: skip
PI0 = ModelLayout((VLM, ACTION))
CRITIC = transformer("critic", Blocks(2, 12, 16), (Span("summary", 0, 3),))
THREE = ModelLayout((VLM, ACTION, CRITIC))
DECODER = transformer(
    "decoder", Blocks(6, 24, 40), (Span("token", 0, 1),), loop="decode", steps=9, sees=(VLM,), outputs=("token",),
    extra=(Component("tokens", (("token", 1),), "int32"), Component("logits", (("token", 1), ("top", 5)), "float32")),
)  # fmt: skip
FAST = ModelLayout((VLM, DECODER))


def plan(*sites, layout=PI0):
    return plan_capture(CaptureSpec(sites=sites), layout)


def only(site, layout=PI0):
    return plan(site, layout=layout).sites[0]


@pytest.mark.parametrize(
    ("flat", "sites"),
    [
        ({}, [Site("action", "hidden_states"), Site("vlm", "hidden_states")]),
        (
            {"experts": ["vlm"], "layers": [1, 5], "spans": ["text"], "dtype": "float32"},
            [Site("vlm", "hidden_states", layers=(5, 1), tokens=("text",), dtype="float32")],
        ),
        (
            {
                "components": ["v_t", "mlp_activation"],
                "denoise_steps": [0, 3],
                "spans": ["text", "action"],
                "reduction": "mean",
            },
            [
                Site("vlm", "mlp_activation", tokens=["text"], reduction="mean"),
                Site("action", "mlp_activation", steps=[0, 3], tokens=["action"], reduction="mean"),
                Site("action", "v_t", steps=[0, 3]),
            ],
        ),
    ],
)
def test_the_flat_form_and_sites_give_equal_plans(flat, sites):
    short, long = plan_capture(CaptureSpec.from_map(flat), PI0), plan(*sites)
    assert short == long
    assert hash(short) == hash(long)


def test_two_experts_keep_different_layers():
    capture = plan(
        Site("vlm", "hidden_states", layers=(0, 3), tokens=("text",), reduction="mean"),
        Site("action", "hidden_states", layers=(5,), steps=(3,), dtype="float32"),
    )
    assert [(t.path, t.dims, t.shape, t.dtype) for t in capture.tensors] == [
        ("vlm/hidden_states", ("layer", "span", "feature"), (2, 1, 24), "bfloat16"),
        ("action/hidden_states", ("denoise_step", "layer", "token", "feature"), (1, 1, 6, 16), "float32"),
    ]


def test_tokens_are_united_less_what_is_excluded():
    assert only(Site("vlm", "hidden_states", tokens=("text", 0, 7, 8))).groups == (
        TokenGroup("tokens", ((0, 1), (7, 14))),
    )
    assert only(Site("vlm", "hidden_states", tokens=("all",), exclude=("text", 3))).groups == (
        TokenGroup("tokens", ((0, 3), (4, 8))),
    )
    counted = only(Site("vlm", "hidden_states", tokens=("image", -1, -3)))
    assert counted.groups == (TokenGroup("tokens", ((0, 8),), (-3, -1)),)
    assert counted.tensor.shape == (6, 10, 24)
    assert counted.prompt == (8, 14)
    reduced = only(Site("vlm", "hidden_states", tokens=("text", -1, "all"), exclude=(9,), reduction="mean"))
    assert [(group.name, group.ranges, group.ends) for group in reduced.groups] == [
        ("text", ((8, 9), (10, 14)), ()), ("-1", (), (-1,)), ("all", ((0, 9), (10, 14)), ()),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("site", "field", "message"),
    [
        (Site("vision", "hidden_states"), "expert", "this model has no expert 'vision'; allowed: vlm, action"),
        (Site("vlm", "x_t"), "component", "the vlm expert has no component 'x_t'; allowed: embedding"),
        (Site("vlm", "hidden_states", layers=(6,)), "layers", "6 is out of range: the vlm expert has 6 layers; allowed: 0"),
        (Site("action", "x_t", steps=(0, 4)), "steps", "4 is out of range: the action expert has 4 denoise steps; allowed"),
        (Site("vlm", "hidden_states", steps=(0,)), "steps", "the vlm expert runs once: leave it out"),
        (Site("action", "x_t", layers=(0,)), "layers", "action/x_t has no axis 'layer' (its axes: horizon, action)"),
        (Site("vlm", "hidden_states", heads=(0,)), "heads", "vlm/hidden_states has no axis 'head'"),
        (Site("vlm", "hidden_states", keys=("text",)), "keys", "vlm/hidden_states has no axis 'key'"),
        (Site("vlm", "hidden_states", tokens=("state",)), "tokens", "the vlm expert has no span 'state'; allowed: all"),
        (Site("vlm", "hidden_states", tokens=(14,)), "tokens", "14 is out of range: the vlm expert has 14 tokens; allowed"),
        (Site("vlm", "hidden_states", tokens=(-7,)), "tokens", "-7 is beyond the prompt, which has at most 6 tokens"),
        (Site("action", "hidden_states", tokens=(-1,)), "tokens", "-1 counts back from the prompt's end, and the action"),
        (Site("vlm", "hidden_states", tokens=("text",), exclude=("all",)), "exclude", "['all'] leaves nothing of the"),
        (
            Site("vlm", "hidden_states", tokens=("text", "image"), exclude=("text",), reduction="mean"),
            "exclude", "['text'] leaves nothing of 'text' of vlm/hidden_states",
        ),
        (Site("vlm", "hidden_states", tokens=("text",), exclude=("image",)), "exclude", "'image' takes nothing away"),
        (Site("vlm", "hidden_states", exclude=(-1,)), "exclude", "-1 takes nothing away"),
        (Site("vlm", "hidden_states", name="mlp_activation"), "name", "'mlp_activation' is another component of the vlm"),
    ],
)  # fmt: skip
def test_a_site_that_the_model_does_not_have_is_refused_in_one_line(site, field, message):
    with pytest.raises(CaptureSpecError) as caught:
        plan(Site("action", "v_t"), site)
    assert caught.value.field == f"sites[1].{field}"
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "field", "message"),
    [
        ({"sites": []}, "sites", "selects nothing"),
        ({"sites": "vlm"}, "sites", "expected a list of maps, got 'vlm'"),
        ({"sites": [{"expert": "vlm"}]}, "sites[0].component", "a site has to name one"),
        ({"sites": [7]}, "sites[0]", "expected a map of fields, got int"),
        ({"sites": [{"expert": "vlm", "component": "v", "layer": [1]}]}, "sites[0].layer", "unknown field; allowed: expert"),
        ({"sites": [{"expert": "vlm", "component": "v", "tokens": [1.5]}]}, "sites[0].tokens", "1.5 is neither the name of a"),
        ({"sites": [{"expert": "vlm", "component": "v", "tokens": []}]}, "sites[0].tokens", "selects nothing"),
        ({"sites": [{"expert": "../x", "component": "v"}]}, "sites[0].expert", "'../x' is no name"),
        ({"sites": [{"expert": "vlm", "component": "v"}], "layers": [1]}, "layers", "is given beside sites"),
        (
            {"sites": [{"expert": "vlm", "component": "v"}, {"expert": "vlm", "component": "v", "layers": [0]}]},
            "sites[1].name", "sites[0] gives the tensor vlm/v too: give one of them another name",
        ),
    ],
)  # fmt: skip
def test_bad_sites_are_named(value, field, message):
    with pytest.raises(CaptureSpecError) as caught:
        CaptureSpec.from_map(value)
    assert caught.value.field == field
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_sites_survive_json_and_say_themselves():
    spec = CaptureSpec(
        sites=(
            Site("vlm", "hidden_states", layers=(0, 1), tokens=("text", -1), exclude=(9,)),
            Site("vlm", "hidden_states", name="pooled", reduction="mean", dtype="float32"),
        )
    )
    assert CaptureSpec.from_map(json.loads(json.dumps(spec.to_map()))) == spec
    assert str(spec) == (
        "vlm/hidden_states, layers 0, 1, tokens of text, -1, without 9, as bfloat16; "
        "vlm/pooled (hidden_states), mean over every token, as float32"
    )


@pytest.mark.parametrize(
    ("site", "said"),
    [
        (Site("action", "x_t", steps=(0,)), "action/x_t, step 0, as float32"),
        (Site("vlm", "pre_mlp_norm_scales", layers=(0, 1)), "vlm/pre_mlp_norm_scales, layers 0, 1, as float32"),
        (Site("vlm", "attention"), "vlm/attention, mean over each span, as bfloat16"),
        (Site("vlm", "attention", reduction="last", heads=(0,)), "vlm/attention, head 0, last token of each span, as bfloat16"),
        (
            Site("vlm", "attention", tokens=("text",), keys=("image", "vlm:text")),
            "vlm/attention, mean over each of text, keys summed over each of image, vlm:text, as bfloat16",
        ),
        (
            Site("vlm", "attention", tokens=("text",), keys=("image",), reduction="none"),
            "vlm/attention, tokens of text, keys of image, as bfloat16",
        ),
        (Site("vlm", "k", reduction="last"), "vlm/k, the last token, as bfloat16"),
        (Site("decoder", "tokens"), "decoder/tokens, as bfloat16, or what its model says"),
    ],
)  # fmt: skip
def test_a_site_says_itself_in_words(site, said):
    assert str(site) == said


def test_what_is_said_of_a_dtype_is_what_a_plan_stores():
    for layout in (PI0, THREE):
        for expert in layout.experts:
            for component in expert.components:
                site = Site(expert.name, component.name)
                assert str(site).endswith(f"as {only(site, layout).tensor.dtype}")


def test_arrays_and_ranges_are_lists():
    plain = Site(
        "action", "attention", (1, 2), (0, 3), ("state", 0), (5,), heads=(0, 1), keys=("image",), dtype="float32"
    )
    other = Site(
        np.str_("action"), np.str_("attention"), np.array([2, 1, 1]), np.array([3, 0], np.uint8), ["state", np.int64(0)],
        np.array([5]), heads=range(2), keys=np.array(["image"]), dtype=np.str_("float32"), name="attention",
    )  # fmt: skip
    assert other == plain
    assert hash(other) == hash(plain)
    assert Site.from_map(json.loads(json.dumps(other.to_map()))) == plain
    assert Site("vlm", "k", exclude=np.array([], int)) == Site("vlm", "k")
    assert CaptureSpec(sites=np.array([plain], object)) == CaptureSpec(sites=[plain])
    assert CaptureSpec(components=["hidden_states"], spans=["all"], sites=[plain]) == CaptureSpec(sites=[plain])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tokens": {"text": 1}}, "tokens: expected a list of spans and positions, got {'text': 1}"),
        ({"tokens": {"text"}}, "tokens: expected a list of spans and positions, got {'text'}"),
        ({"tokens": "text"}, "tokens: expected a list of spans and positions, got 'text'"),
        ({"tokens": b"ab"}, "tokens: expected a list of spans and positions, got b'ab'"),
        ({"tokens": np.eye(2)}, "tokens: expected a list of spans and positions, got an array of float64 [2, 2]"),
        ({"tokens": (True,)}, "tokens: True is neither the name of a span nor a whole number"),
        ({"tokens": np.array([True])}, "tokens: True is neither the name of a span nor a whole number"),
        ({"tokens": (-(10**5000),)}, "tokens: a number of 16610 bits is beyond every model"),
        ({"tokens": ("x" * 101,)}, "has 101 letters; expected at most 100"),
        ({"tokens": range(10**9)}, "tokens: has more than 4096 entries"),
        ({"exclude": "text"}, "exclude: expected a list of spans and positions, got 'text'"),
        ({"exclude": None}, "exclude: expected a list of spans and positions, got None"),
        ({"exclude": np.eye(2)}, "exclude: expected a list of spans and positions, got an array"),
        ({"keys": {"text": 1}}, "keys: expected a list of names, got {'text': 1}"),
        ({"keys": b"text"}, "keys: expected a list of names, got b'text'"),
        ({"keys": ()}, "keys: selects nothing"),
        ({"heads": {0}}, "heads: expected 'all' or a list of indices, got {0}"),
        ({"steps": b"a"}, "steps: expected 'all' or a list of indices, got b'a'"),
        ({"expert": "vlm\n"}, r"expert: 'vlm\n' is no name"),
        ({"expert": "vlm/x"}, "expert: 'vlm/x' is no name"),
        ({"expert": "x" * 101}, "has 101 letters; expected at most 100"),
        ({"component": None}, "component: None is no name"),
        ({"component": np.array(["k"])}, "component: an array of <U1 [1] is no name"),
        ({"name": "---"}, "name: '---' is no name"),
        ({"name": "é"}, "name: 'é' is no name"),
    ],
)  # fmt: skip
def test_a_field_of_a_wrong_type_is_refused_in_one_line(fields, message):
    with pytest.raises(CaptureSpecError) as caught:
        Site(**{"expert": "vlm", "component": "k", **fields})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("layout", [PI0, THREE, FAST], ids=["pi0", "three experts", "decode"])
def test_a_layout_survives_json(layout):
    assert ModelLayout.from_map(json.loads(json.dumps(layout.to_map()))) == layout


def frames(tmp_path, layout, capture, values=None, count=2):
    """A store with `count` frames of random numbers that are exact in bfloat16, and these numbers."""
    rng = np.random.default_rng(0)
    written = []
    with RunWriter.create(tmp_path, "x", layout) as run:
        episode = run.open_episode("e", {}, capture)
        for number in range(count):
            frame = {
                t.path: rng.integers(-128, 128, t.shape).astype(np.int32 if t.dtype == "int32" else np.float32)
                for t in capture.tensors
            }
            written.append(frame)
            episode.append(frame, timestep=number, values=values)
        episode.seal(True)
    return LatentStore(tmp_path), {path: np.stack([frame[path] for frame in written]) for path in written[0]}


def test_a_third_expert_is_planned_stored_and_read(tmp_path):
    capture = plan_capture(CaptureSpec(), THREE)
    assert [t.path for t in capture.tensors] == ["vlm/hidden_states", "action/hidden_states", "critic/hidden_states"]
    store, written = frames(tmp_path, THREE, capture)
    assert store.spans()["critic"] == (Span("summary", 0, 3),)
    np.testing.assert_array_equal(store.select("critic").array(), written["critic/hidden_states"])
    part = store.select("critic", layers=1, span="summary")
    np.testing.assert_array_equal(part.array(), written["critic/hidden_states"][:, [1]])
    assert list(verify(store.episodes())) == []
    with pytest.raises(StoreError, match="value: 'critic' is the store's own name"):
        frames(tmp_path, THREE, capture, {"critic": 1})


def test_a_decode_loop_is_planned_stored_and_read(tmp_path):
    capture = plan(
        Site("vlm", "hidden_states", layers=(5,)), Site("decoder", "hidden_states", layers=(2,), steps=(0, 8)),
        Site("decoder", "tokens"), Site("decoder", "logits"), layout=FAST,
    )  # fmt: skip
    shapes = {t.path: (t.dims, t.shape, t.dtype) for t in capture.tensors}
    assert shapes["decoder/hidden_states"] == (("decode_step", "layer", "token", "feature"), (2, 1, 1, 24), "bfloat16")
    assert shapes["decoder/tokens"] == (("decode_step", "token"), (9, 1), "int32")
    assert shapes["decoder/logits"] == (("decode_step", "token", "top"), (9, 1, 5), "float32")
    store, written = frames(tmp_path, FAST, capture, {"decode_steps": {"decoder": 7}})
    assert store.select("decoder", decode_steps=8).coordinates["decode_step"] == [8]
    np.testing.assert_array_equal(
        store.select("decoder", decode_steps=8).array(), written["decoder/hidden_states"][:, [1]]
    )
    tokens = store.select("decoder", "tokens")
    assert tokens.array("int32").dtype == np.int32
    np.testing.assert_array_equal(tokens.array("int32"), written["decoder/tokens"])
    np.testing.assert_array_equal(tokens.values("decode_steps/decoder"), [7, 7])
    assert list(verify(store.episodes())) == []
    with pytest.raises(StoreError, match=r"expected how many of its decode steps are real, .* found no values"):
        frames(tmp_path, FAST, capture)


def test_an_array_of_steps_or_layers_alone_is_stored_and_read(tmp_path):
    scores = (Component("entropy", (), "float32"), Component("exit", (("layer", 6),), "float32"))
    layout = ModelLayout((VLM, dataclasses.replace(DECODER, components=(*DECODER.components, *scores))))
    capture = plan(Site("decoder", "entropy"), Site("decoder", "exit", layers=(0, 3, 5)), layout=layout)
    assert [(t.dims, t.shape) for t in capture.tensors] == [
        (("decode_step",), (9,)),
        (("decode_step", "layer"), (9, 3)),
    ]
    store, written = frames(tmp_path, layout, capture, {"decode_steps": {"decoder": 7}})
    np.testing.assert_array_equal(store.select("decoder", "entropy").array(), written["decoder/entropy"])
    some = store.select("decoder", "entropy", decode_steps=(8, 0, 1))
    assert some.coordinates["decode_step"] == [8, 0, 1]
    np.testing.assert_array_equal(some.array(), written["decoder/entropy"][:, [8, 0, 1]])
    both = store.select("decoder", "exit", decode_steps=(2, 7), layers=(5, 0))
    np.testing.assert_array_equal(both.array(), written["decoder/exit"][:, [2, 7]][:, :, [2, 0]])
    assert list(verify(store.episodes())) == []


def test_positions_and_names_are_stored_and_read(tmp_path):
    capture = plan(
        Site("vlm", "hidden_states", layers=(0, 2), tokens=("text", 3, -1), exclude=(9,)),
        Site("vlm", "hidden_states", name="late", layers=(4, 5), tokens=("text",)),
    )
    store, written = frames(tmp_path, PI0, capture)
    x = store.select("vlm")
    assert x.coordinates["token"] == [3, 8, 10, 11, 12, 13, -1]
    np.testing.assert_array_equal(store.select("vlm", span="image").array(), written["vlm/hidden_states"][:, :, :1])
    np.testing.assert_array_equal(store.select("vlm", span="text").array(), written["vlm/hidden_states"][:, :, 1:])
    np.testing.assert_array_equal(store.select("vlm", "late", layers=5).array(), written["vlm/late"][:, [1]])
    assert store.components()["vlm/late"].attributes["component"] == "hidden_states"
    assert list(verify(store.episodes())) == []


def test_xarray_opens_a_group_whose_arrays_differ(tmp_path):
    xarray = pytest.importorskip("xarray")
    capture = plan(
        Site("vlm", "hidden_states", layers=(0, 2)),
        Site("vlm", "hidden_states", name="late", layers=(5,), tokens=("text",)),
        Site("vlm", "mlp_activation", layers=(0, 2), reduction="mean", tokens=("text",)),
    )
    store, written = frames(tmp_path, PI0, capture)
    group = xarray.open_datatree(store.episodes()[0].path, engine="vlascope")["episodes/e/vlm"]
    np.testing.assert_array_equal(group["hidden_states"].sel(layer=2), written["vlm/hidden_states"][:, 1])
    late = group["late"].sel(layer_late=5)
    np.testing.assert_array_equal(late, written["vlm/late"][:, 0])
    assert late["token_late"].values.tolist() == list(range(8, 14))
    assert group["mlp_activation"].sel(span="text", layer=0).shape == (2, 40)


def test_what_reaches_no_action_says_so():
    last = plan(Site("vlm", "hidden_states", layers=(5,)))
    assert not last.sites[0].reaches_actions
    assert str(last).endswith("vlm/hidden_states: no path leads from it to the actions")
    assert plan(Site("vlm", "hidden_states", layers=(4, 5))).sites[0].reaches_actions
    assert plan(Site("vlm", "pre_attn_norm_scales", layers=(5,))).sites[0].reaches_actions
    assert plan(Site("action", "hidden_states", layers=(5,))).sites[0].reaches_actions
    assert not plan(Site("action", "hidden_states", layers=(5,), tokens=("state",))).sites[0].reaches_actions
    # nobody sees its keys, and nothing reads what it ends with
    assert not plan_capture(CaptureSpec(experts=("critic",)), THREE).sites[0].reaches_actions


def test_a_plan_is_the_same_whatever_spec_it_came_from():
    capture = plan(Site("vlm", "hidden_states"))
    assert dataclasses.replace(capture, spec=CaptureSpec(experts=("vlm",))) == capture


def test_profiles_are_specs_with_a_name():
    assert CaptureSpec.from_map({"profile": "full"}) == CaptureSpec()
    assert CaptureSpec.from_map({"profile": "probe", "layers": [1]}) == CaptureSpec(
        layers=(1,), spans=("image", "text", "action"), reduction="mean"
    )
    for name, profile in PROFILES.items():
        fields = dict.fromkeys(profile.needs, (2,))
        spec = CaptureSpec.profile(name, **fields)
        assert CaptureSpec.from_map(json.loads(json.dumps(spec.to_map()))) == spec
        assert plan_capture(spec, PI0).nbytes > 0
    audit = plan_capture(CaptureSpec.profile("audit", layers=(2,)), PI0)
    assert {site.path for site in audit.sites} == {f"{e.name}/{c.name}" for e in PI0.experts for c in e.components}
    assert {site.layers for site in audit.sites} == {(2,), ()}
    attention = {t.path: (t.dims, t.shape) for t in plan_capture(CaptureSpec.profile("attention"), PI0).tensors}
    assert attention == {
        "vlm/attention": (("layer", "head", "span", "key_span"), (6, 4, 2, 2)),
        "action/attention": (("denoise_step", "layer", "head", "span", "key_span"), (4, 6, 4, 2, 4)),
    }


@pytest.mark.parametrize(
    ("value", "field", "message"),
    [
        ({"profile": "all"}, "profile", "unknown value 'all'; allowed: probe, full, causal, attention, audit"),
        ({"profile": ["probe"]}, "profile", "unknown value ['probe']"),
        ({"profile": "audit"}, "layers", "the profile 'audit' needs them: name some, or 'all'"),
        ({"profile": "probe", "components": ["k"]}, "components", "is what the profile 'probe' stands for"),
        ({"profile": "probe", "layers": [-1]}, "layers", "-1 is no index"),
    ],
)
def test_a_profile_that_is_none_is_refused(value, field, message):
    with pytest.raises(CaptureSpecError) as caught:
        CaptureSpec.from_map(value)
    assert caught.value.field == field
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("site", "field", "message"),
    [
        (Site("vlm", "attention", heads=(4,)), "heads", "4 is out of range: the vlm expert has 4 heads; allowed: 0-3"),
        (
            Site("vlm", "attention", keys=("action",)),
            "keys",
            "the vlm expert sees no span 'action'; allowed: vlm:all, vlm:image",
        ),
        (Site("action", "attention", keys=("vlm:state",)), "keys", "the action expert sees no span 'vlm:state'"),
        (Site("vlm", "k", heads=(0,)), "heads", "vlm/k has no axis 'head'"),
        (
            Site("vlm", "final_hidden", layers=(0,)),
            "layers",
            "vlm/final_hidden has no axis 'layer' (its axes: token, feature)",
        ),
    ],
)
def test_attention_that_is_not_there_is_refused(site, field, message):
    with pytest.raises(CaptureSpecError) as caught:
        plan(site)
    assert caught.value.field == f"sites[0].{field}"
    assert message in str(caught.value)


@pytest.mark.parametrize("reduction", [None, "none"])
def test_attention_is_stored_and_read(tmp_path, reduction):
    capture = plan(
        Site("action", "attention", layers=(1, 4), heads=(0, 3), steps=(2,), reduction=reduction,
             keys=("image", "vlm:text", "state")),
        Site("vlm", "k", layers=(0,)), Site("vlm", "final_hidden"),
    )  # fmt: skip
    store, written = frames(tmp_path, PI0, capture)
    x = store.select("action", "attention", layers=4, heads=3, span="action")
    whole = written["action/attention"][:, :, [1]][:, :, :, [1]]
    if reduction is None:
        assert x.dims == ("frame", "denoise_step", "layer", "head", "span", "key_span")
        assert x.coordinates["key_span"] == ["image", "vlm:text", "state"]
        np.testing.assert_array_equal(x.array(), whole[:, :, :, :, [1]])
    else:
        assert x.dims == ("frame", "denoise_step", "layer", "head", "token", "key")
        assert x.coordinates["key"] == list(range(15))
        assert [s["expert"] for s in store.components()["action/attention"].attributes["key_spans"]] == [
            "vlm",
            "vlm",
            "action",
        ]
        np.testing.assert_array_equal(x.array(), whole[:, :, :, :, 1:])
    np.testing.assert_array_equal(store.select("vlm", "final_hidden").array(), written["vlm/final_hidden"])
    assert list(verify(store.episodes())) == []


def test_spans_of_reduced_attention_are_those_of_its_queries(tmp_path):
    capture = plan(Site("vlm", "attention", layers=(1,)), Site("action", "attention", layers=(1,), steps=(0,)))
    store, written = frames(tmp_path, PI0, capture)
    whole = written["vlm/attention"]
    for span, entries in (
        (None, [0, 1]), ("all", [0, 1]), ("image", [0]), ("base", [0]), ("image/base", [0]), ("text", [1])
    ):  # fmt: skip
        x = store.select("vlm", "attention", span=span)
        assert x.coordinates["span"] == [("image/base", "text")[k] for k in entries]
        assert x.coordinates["key_span"] == ["image/base", "text"]
        np.testing.assert_array_equal(x.array(), whole[:, :, :, entries])
    with pytest.raises(
        StoreError,
        match=r"no queries of span 'text' were captured \(keys are the axis key_span\); captured queries: state, action$",
    ):
        store.select("action", "attention", span="text")


def test_a_span_that_was_reduced_under_its_name_comes_before_its_parts(tmp_path):
    cameras = transformer("vlm", Blocks(1, 4, 4), (Span("image/a", 0, 2), Span("image/b", 2, 4), Span("text", 4, 5)))
    layout = ModelLayout((cameras,))
    spans = ("image", "a", "image/b", "text")
    store, written = frames(
        tmp_path, layout, plan(Site("vlm", "hidden_states", tokens=spans, reduction="mean"), layout=layout)
    )
    for span, entries in (("image", [0]), ("a", [1]), ("b", [2]), ("image/b", [2]), ("all", [0, 1, 2, 3])):
        x = store.select("vlm", span=span)
        assert x.coordinates["span"] == [spans[k] for k in entries]
        np.testing.assert_array_equal(x.array(), written["vlm/hidden_states"][:, :, entries])


@pytest.mark.parametrize("sites", [[], None, 0])
def test_no_sites_are_not_everything(sites):
    with pytest.raises(CaptureSpecError, match="sites"):
        CaptureSpec(sites=sites)


@pytest.mark.parametrize("name", ["layer", "token_span", "layer_k", "x" * 101])
def test_names_that_no_reader_could_open_are_refused(name):
    with pytest.raises(CaptureSpecError, match="name"):
        Site("vlm", "k", name=name)


@pytest.mark.parametrize(
    "spec", [CaptureSpec(), CaptureSpec.profile("probe"), CaptureSpec(sites=(Site("vlm", "k", layers=(0,)),))]
)
def test_what_a_dataclass_prints_is_read_again(spec):
    """As the options of a command are printed: every field, lists for tuples."""
    assert CaptureSpec.from_map(json.loads(json.dumps(dataclasses.asdict(spec)))) == spec


@pytest.mark.parametrize("name", ["kv_head", "mlp_feature", "mlp_feature_k"])
def test_names_of_a_models_own_axes_are_refused(name):
    with pytest.raises(CaptureSpecError, match=f"sites.0..name: '{name}' is, or begins with, the name of an axis"):
        plan(Site("vlm", "k", name=name))


def test_exclusions_may_overlap_in_any_order():
    wanted = only(Site("vlm", "hidden_states", exclude=("text", 3)))
    for exclude in (("text", 9, 3), (9, "text", 3), (3, 13, 8, "text", "text")):
        assert only(Site("vlm", "hidden_states", exclude=exclude)) == wanted


def test_what_selects_the_same_has_equal_plans():
    for same in (
        [Site("vlm", "k"), Site("vlm", "k", range(6)), Site("vlm", "k", tokens=("text", "image", 3), reduction="none")],
        [Site("vlm", "k", tokens=("text", -1)), Site("vlm", "k", tokens=(-1, "text"), name="k")],
        [Site("action", "x_t"), Site("action", "x_t", steps=(3, 0, 1, 2), dtype="float32")],
        [
            Site("vlm", "attention", keys=("image",)),
            Site("vlm", "attention", heads=range(4), keys=("image",), reduction="mean"),
        ],
    ):
        first, *others = map(only, same)
        assert all(other == first and hash(other) == hash(first) for other in others)


def test_an_empty_exclude_excludes_nothing():
    assert Site("vlm", "k", exclude=[]) == Site("vlm", "k")
