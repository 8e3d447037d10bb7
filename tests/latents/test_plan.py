"""The dry run: shapes, bytes and refusals of a spec on a model's layout."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from vlascope_base.text import readable_bytes
from vlascope_latents import (
    COMPONENTS,
    PROFILES,
    Blocks,
    CaptureSpec,
    CaptureSpecError,
    ModelLayout,
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
        ({"layers": (18,)}, "layers: 18 is out of range: this model has 18 layers; allowed: 0-17"),
        ({"denoise_steps": (10,)}, "denoise_steps: 10 is out of range: this model has 10 denoise steps; allowed: 0-9"),
        ({"spans": ("wrist",)}, "spans: no selected expert has a span 'wrist'; allowed: all, image, base_0_rgb"),
        ({"spans": ("text",)}, "spans: ['text'] selects no token of the action expert: leave it out of `experts`"),
    ],
)
def test_what_the_model_does_not_have_is_refused(fields, message):
    with pytest.raises(CaptureSpecError) as caught:
        plan_capture(CaptureSpec(**fields), FULL)
    assert message in str(caught.value)


@pytest.mark.parametrize("field", ["episodes", "steps", "stride"])
def test_a_campaign_of_nothing_is_refused(field):
    plan = plan_capture(CaptureSpec(), FULL)
    with pytest.raises(ValueError, match=f"{field}: expected at least 1, got 0"):
        campaign_cost(plan, **{"episodes": 1, "steps": 1, "stride": 1, field: 0})


def test_what_profiles_cost_is_what_the_document_says():
    document = (Path(__file__).parents[2] / "docs" / "model.md").read_text()
    said = dict(re.findall(r"^\| `(\w+)` \| .* \| ([\d.]+ [kM]B)(?: with one layer)? \|$", document, re.M))
    assert said == {
        name: readable_bytes(plan_capture(CaptureSpec.profile(name, **dict.fromkeys(profile.needs, (9,))), FULL).nbytes)
        for name, profile in PROFILES.items()
    }
