"""The dry run: shapes, bytes and refusals of a spec on a model's layout."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from vlascope_base.text import readable_bytes
from vlascope_latents import (
    COMPONENTS,
    PROFILES,
    Blocks,
    CaptureSpec,
    CaptureSpecError,
    ModelLayout,
    Site,
    Span,
    TokenGroup,
    campaign_cost,
    flow_components,
    plan_capture,
    transformer,
)

CAMERAS = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")
IMAGES = tuple(Span(f"image/{camera}", 256 * i, 256 * (i + 1)) for i, camera in enumerate(CAMERAS))
VLM = transformer("vlm", Blocks(18, 2048, 16384, 8, 1, 256), (*IMAGES, Span("text", 768, 816)))
ACTION = transformer(
    "action", Blocks(18, 1024, 4096, 8, 1, 256), (Span("state", 0, 1), Span("action", 1, 51)), loop="denoise", steps=10,
    sees=(VLM,), outputs=("action",), extra=flow_components(50, 32),
)  # fmt: skip
FULL = ModelLayout((VLM, ACTION))


def shapes(**fields):
    return {t.path: t.shape for t in plan_capture(CaptureSpec(**fields), FULL).tensors}


def test_full_size_pi0():
    assert shapes(components=COMPONENTS) == {
        "vlm/embedding": (816, 2048),
        "vlm/hidden_states": (18, 816, 2048),
        "vlm/post_attn_embedding": (18, 816, 2048),
        "vlm/attn_output": (18, 816, 2048),
        "vlm/mlp_output": (18, 816, 2048),
        "vlm/mlp_activation": (18, 816, 16384),
        "vlm/pre_attn_norm_scales": (18, 816),
        "vlm/pre_mlp_norm_scales": (18, 816),
        "vlm/attention": (18, 8, 4, 4),
        "vlm/k": (18, 816, 1, 256),
        "vlm/v": (18, 816, 1, 256),
        "vlm/final_hidden": (816, 2048),
        "action/embedding": (10, 51, 1024),
        "action/hidden_states": (10, 18, 51, 1024),
        "action/post_attn_embedding": (10, 18, 51, 1024),
        "action/attn_output": (10, 18, 51, 1024),
        "action/mlp_output": (10, 18, 51, 1024),
        "action/mlp_activation": (10, 18, 51, 4096),
        "action/pre_attn_norm_scales": (10, 18, 51),
        "action/pre_mlp_norm_scales": (10, 18, 51),
        "action/attention": (10, 18, 8, 2, 6),
        "action/k": (10, 18, 51, 1, 256),
        "action/v": (10, 18, 51, 1, 256),
        "action/final_hidden": (10, 51, 1024),
        "action/x_t": (10, 50, 32),
        "action/v_t": (10, 50, 32),
    }


def test_bytes_of_a_frame_and_of_a_campaign():
    plan = plan_capture(CaptureSpec(), FULL)
    assert plan.nbytes == 2 * (18 * 816 * 2048 + 10 * 18 * 51 * 1024)  # 79 MB
    cost = campaign_cost(plan, episodes=50, steps=280, stride=25)
    assert cost.frames == 50 * 12  # timesteps 0, 25, ... 275
    assert cost.nbytes == cost.frames * plan.nbytes
    assert str(cost) == "at most 600 frames, 47.38 GB"
    assert "vlm/hidden_states" in str(plan)
    assert "78.96 MB" in str(plan)


def test_the_dry_run_says_what_whole_attention_weighs():
    spec = CaptureSpec(components=("attention",), reduction="none")
    assert shapes(components=("attention",), reduction="none") == {
        "vlm/attention": (18, 8, 816, 816),
        "action/attention": (10, 18, 8, 51, 867),
    }
    assert "319.1 MB" in str(plan_capture(spec, FULL)).splitlines()[-1]


def test_spans_and_reductions():
    assert shapes(spans=("text",), experts=("vlm",), layers=(5,)) == {"vlm/hidden_states": (1, 48, 2048)}
    assert shapes(spans=("text", "action"), denoise_steps=(9,)) == {
        "vlm/hidden_states": (18, 48, 2048),
        "action/hidden_states": (1, 18, 50, 1024),
    }
    assert shapes(spans=("image", "text", "state"), reduction="mean") == {
        "vlm/hidden_states": (18, 2, 2048),
        "action/hidden_states": (10, 18, 1, 1024),
    }
    plan = plan_capture(CaptureSpec(experts=("vlm",), spans=("right_wrist_0_rgb", "base_0_rgb", "text")), FULL)
    assert plan.sites[0].groups == (TokenGroup("tokens", ((0, 256), (512, 816))),)


def test_the_flow_alone_asks_nothing_of_the_tokens():
    assert shapes(components=("v_t",), denoise_steps=(0, 9)) == {"action/v_t": (2, 50, 32)}


def test_an_expert_that_nobody_named_and_that_has_none_of_the_spans_is_left_out():
    def paths(**fields):
        return [t.path for t in plan_capture(CaptureSpec(**fields), FULL).tensors]

    assert paths(spans=("text",)) == ["vlm/hidden_states"]
    assert paths(spans=("action",), layers=(0, 9, 17)) == ["action/hidden_states"]
    assert paths(components=("k", "x_t"), spans=("text",)) == ["vlm/k", "action/x_t"]
    assert paths(spans=("text", "action"), reduction="mean") == ["vlm/hidden_states", "action/hidden_states"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"experts": ("vision",)}, "experts: this model has no expert 'vision'; allowed: vlm, action"),
        (
            {"components": ("hidden",)},
            "components: no selected expert has a component 'hidden'; allowed: embedding, hidden_states",
        ),
        (
            {"experts": ("vlm",), "components": ("x_t",)},
            "components: no selected expert has a component 'x_t'; allowed: embedding",
        ),
        ({"layers": (18,)}, "layers: 18 is out of range: the vlm expert has 18 layers; allowed: 0-17"),
        ({"denoise_steps": (10,)}, "denoise_steps: 10 is out of range: the action expert has 10 denoise steps; allowed: 0-9"),
        ({"spans": ("wrist",)}, "spans: no selected expert has a span 'wrist'; allowed: all, image, base_0_rgb"),
        (
            {"experts": ("vlm", "action"), "spans": ("text",)},
            "spans: ['text'] selects no token of the action expert: leave it out of `experts`",
        ),
        (
            {"experts": ("action", "vlm"), "components": ("x_t", "k"), "spans": ("text",)},
            "spans: ['text'] selects no token of the action expert: leave it out of `experts`",
        ),
        ({"spans": ("text",), "denoise_steps": (0,)}, "denoise_steps: no selected expert has denoise steps: leave it out"),
        # a field that no selected component has an axis for
        ({"components": ("x_t",), "layers": (99,)}, "layers: there is no axis 'layer' in x_t: leave it out"),
        (
            {"components": ("final_hidden", "embedding"), "layers": (0,)},
            "layers: there is no axis 'layer' in embedding, final_hidden: leave it out",
        ),
        ({"components": ("v_t", "x_t"), "spans": ("text",)}, "spans: there is no axis 'token' in x_t, v_t: leave it out"),
        ({"components": ("x_t",), "spans": ("wrist",)}, "spans: there is no axis 'token' in x_t: leave it out"),
        ({"components": ("x_t",), "reduction": "mean"}, "reduction: there is no axis 'token' in x_t: leave it out"),
        ({"components": ("x_t",), "reduction": "none"}, "reduction: there is no axis 'token' in x_t: leave it out"),
        (
            {"experts": ("vlm",), "denoise_steps": (99,)},
            "denoise_steps: no selected expert has denoise steps: leave it out",
        ),
        (
            {"experts": ("vlm",), "components": "all", "denoise_steps": (0,)},
            "denoise_steps: no selected expert has denoise steps: leave it out",
        ),
        # an expert or a span that is named and gives nothing
        (
            {"experts": ("vlm", "action"), "components": ("x_t",)},
            "experts: the vlm expert has none of x_t: leave it out; allowed: action",
        ),
        (
            {"experts": ("action",), "components": ("k", "x_t"), "spans": ("action", "text")},
            "spans: no selected expert has a span 'text'; allowed: all, state, action",
        ),
        # a number that some component uses and another cannot have
        ({"components": ("x_t", "k"), "layers": (0, 18)}, "layers: 18 is out of range: the vlm expert has 18 layers; allowed"),
        (
            {"components": ("embedding", "x_t"), "denoise_steps": (10,)},
            "denoise_steps: 10 is out of range: the action expert has 10 denoise steps; allowed: 0-9",
        ),
    ],
)  # fmt: skip
def test_what_the_model_does_not_have_is_refused(fields, message):
    with pytest.raises(CaptureSpecError) as caught:
        plan_capture(CaptureSpec(**fields), FULL)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_flat_field_is_for_the_components_that_have_its_axis():
    both = shapes(
        components=("hidden_states", "x_t"),
        layers=(0,),
        denoise_steps=(1, 9),
        spans=("text", "action"),
        reduction="mean",
    )
    assert both == {
        "vlm/hidden_states": (1, 1, 2048), "action/hidden_states": (2, 1, 1, 1024), "action/x_t": (2, 50, 32),
    }  # fmt: skip
    assert shapes(components=("embedding",), denoise_steps=(1,)) == {
        "vlm/embedding": (816, 2048), "action/embedding": (1, 51, 1024),
    }  # fmt: skip
    assert shapes(components="all", layers=(3,)).keys() == shapes(components="all").keys()


def test_a_number_has_to_fit_every_expert_that_has_the_axis():
    critic = transformer("critic", Blocks(1, 12, 16), (Span("summary", 0, 1),), loop="denoise", steps=1)
    layout = ModelLayout((VLM, critic))
    for fields, message in (
        ({"layers": (1,)}, "layers: 1 is out of range: the critic expert has 1 layer; allowed: 0"),
        ({"denoise_steps": (1,)}, "denoise_steps: 1 is out of range: the critic expert has 1 denoise step; allowed: 0"),
        (
            {"sites": [Site("critic", "embedding", tokens=(1,))]},
            "sites[0].tokens: 1 is out of range: the critic expert has 1 token; allowed: 0",
        ),
    ):
        with pytest.raises(CaptureSpecError) as caught:
            plan_capture(CaptureSpec(**fields), layout)
        assert caught.value.message == f"capture spec, {message}"
    short = ModelLayout((transformer("vlm", Blocks(1, 12, 16), (Span("text", 0, 1),)),))
    with pytest.raises(CaptureSpecError, match=r"-2 is beyond the prompt, which has at most 1 token; allowed: -1$"):
        plan_capture(CaptureSpec(sites=(Site("vlm", "embedding", tokens=(-2,)),)), short)


def test_a_model_of_many_experts_gives_a_bounded_number_of_tensors():
    crowd = ModelLayout(tuple(transformer(f"e{k}", Blocks(1, 2, 2, 1, 1, 2), (Span("text", 0, 1),)) for k in range(25)))
    with pytest.raises(CaptureSpecError, match="components: gives 300 tensors of this model; expected at most 256"):
        plan_capture(CaptureSpec(components="all"), crowd)
    assert len(plan_capture(CaptureSpec(components=("k", "v")), crowd).tensors) == 50


@pytest.mark.parametrize("field", ["episodes", "steps", "stride"])
@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, 1.5, 2.0, True, np.bool_(True), "3", None, [2]], ids=str)
def test_a_campaign_that_is_no_number_of_things_is_refused(field, value):
    plan = plan_capture(CaptureSpec(), FULL)
    with pytest.raises(ValueError, match=f"^{field}: expected a whole number of at least 1, got ") as caught:
        campaign_cost(plan, **{"episodes": 1, "steps": 1, "stride": 1, field: value})
    assert "\n" not in str(caught.value)


def test_a_campaign_takes_whole_numbers_of_numpy_and_great_ones():
    plan = plan_capture(CaptureSpec(components=("x_t",)), FULL)
    cost = campaign_cost(plan, episodes=np.int64(1), steps=np.uint8(3), stride=7)
    assert str(cost) == "at most 1 frame, 64 kB"
    assert type(cost.nbytes) is int
    assert campaign_cost(plan, episodes=1, steps=10**30, stride=7).frames == (10**30 + 6) // 7


def test_what_profiles_cost_is_what_the_document_says():
    document = (Path(__file__).parents[2] / "docs" / "model.md").read_text()
    said = dict(re.findall(r"^\| `(\w+)` \| .* \| ([\d.]+ [kM]B)(?: with one layer)? \|$", document, re.M))
    assert said == {
        name: readable_bytes(plan_capture(CaptureSpec.profile(name, **dict.fromkeys(profile.needs, (9,))), FULL).nbytes)
        for name, profile in PROFILES.items()
    }
