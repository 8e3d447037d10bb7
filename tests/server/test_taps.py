"""Capture: shapes and values of every selection, and that it never moves the actions."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from vlascope_latents import COMPONENTS, CaptureSpec, CaptureSpecError, plan_capture
from vlascope_server.model import GemmaConfig, pi0, sample_actions, velocity

from tests.server.small_models import noisy_params, random_inputs, small_config

STEPS = 4
PI0 = small_config()
PI05 = small_config(pi05=True)
WHOLE = CaptureSpec(components=COMPONENTS, dtype="float32")
SELECTIONS = {
    **{component: CaptureSpec(components=(component,), dtype="float32") for component in COMPONENTS},
    "all components": WHOLE,
    "bfloat16": CaptureSpec(),
    "vlm alone": CaptureSpec(experts=("vlm",)),
    "action alone": CaptureSpec(experts=("action",)),
    "first layer": CaptureSpec(layers=(0,), components=COMPONENTS),
    "last layer": CaptureSpec(layers=(2,), components=COMPONENTS),
    "scattered": CaptureSpec(layers=(0, 2), denoise_steps=(0, 3), components=COMPONENTS, dtype="float32"),
    "last step": CaptureSpec(denoise_steps=(3,), dtype="float32"),
    "text and actions": CaptureSpec(spans=("text", "action"), dtype="float32"),
    "mean of spans": CaptureSpec(
        spans=("image", "text", "action"), reduction="mean", components=COMPONENTS, layers=(1,)
    ),
    "last of spans": CaptureSpec(spans=("all", "base_0_rgb"), reduction="last", components=COMPONENTS, dtype="float32"),
}
MIXED = ("all components", "bfloat16", "scattered", "mean of spans")
"""Selections that between them have every component, both types, parts of layers and steps, and a reduction: enough for a
second kind of policy where time is short."""


def run(config, capture, batch_size=1):
    inputs, noise = random_inputs(config, batch_size)
    return sample_actions(noisy_params(config), config, inputs, noise, num_steps=STEPS, capture=capture)


@pytest.mark.parametrize(
    ("config", "batch_size", "selection"),
    [
        *(pytest.param(PI0, 1, name, id=f"pi0-{name}") for name in SELECTIONS),
        *(
            pytest.param(PI05, 2, name, id=f"pi05-batch-{name}", marks=[pytest.mark.slow] if name not in MIXED else [])
            for name in SELECTIONS
        ),
    ],
)
def test_capture_never_moves_the_actions_and_yields_what_the_plan_says(config, batch_size, selection):
    spec = SELECTIONS[selection]
    plain, nothing = run(config, None, batch_size)
    actions, latents = run(config, spec, batch_size)
    assert nothing == {}
    np.testing.assert_array_equal(actions, plain)
    plan = plan_capture(spec, config.layout(STEPS))
    assert {path: (array.shape, str(array.dtype)) for path, array in latents.items()} == {
        t.path: ((batch_size, *t.shape), t.dtype) for t in plan.tensors
    }
    assert sum(array.nbytes for array in latents.values()) == batch_size * plan.nbytes


@pytest.mark.parametrize("config", [PI0, PI05], ids=["pi0", "pi05"])
def test_what_the_last_block_of_the_prefix_writes_reaches_no_action(config):
    """Its weights behind the keys and values may be anything; a captured state of it moves with them, the actions do not."""
    params = dict(noisy_params(config))
    inputs, noise = random_inputs(config, 1)
    spec = CaptureSpec(experts=("vlm",), layers=(config.vlm.depth - 1,), dtype="float32")
    plain, latents = sample_actions(params, config, inputs, noise, num_steps=STEPS, capture=spec)
    changed = "PaliGemma/llm/layers/mlp/linear"
    params[changed] = params[changed].at[-1].multiply(100.0)
    again, moved = sample_actions(params, config, inputs, noise, num_steps=STEPS, capture=spec)
    np.testing.assert_array_equal(again, plain)
    assert float(abs(moved["vlm/hidden_states"] - latents["vlm/hidden_states"]).max()) > 1
    params[changed] = params[changed].at[-2].multiply(100.0)
    other, _ = sample_actions(params, config, inputs, noise, num_steps=STEPS)
    assert float(abs(other - plain).max()) > 1e-4


def test_a_selection_is_a_slice_of_everything():
    _, whole = run(PI0, WHOLE, 2)
    _, some = run(PI0, SELECTIONS["scattered"], 2)
    dims_of = {t.path: t.dims for t in plan_capture(WHOLE, PI0.layout(STEPS)).tensors}
    for path, array in some.items():
        full = np.asarray(whole[path])
        dims = dims_of[path]
        if "denoise_step" in dims:
            full = full[:, [0, 3]]
        if "layer" in dims:
            full = full.take([0, 2], axis=1 + dims.index("layer"))
        np.testing.assert_array_equal(array, full, err_msg=path)


def test_reductions_see_valid_tokens_only():
    config = PI0
    params, (inputs, noise) = noisy_params(config), random_inputs(config, 3)
    camera = config.cameras[1]
    masks = {**inputs.image_masks, camera: jnp.array([True, False, True])}
    inputs = dataclasses.replace(inputs, image_masks=masks)

    def capture(**fields):
        spec = CaptureSpec(dtype="float32", **fields)
        return sample_actions(params, config, inputs, noise, num_steps=STEPS, capture=spec)[1]

    whole = np.asarray(capture()["vlm/hidden_states"])
    spans = ("text", camera, "all", "state")
    reduced = {how: np.asarray(capture(spans=spans, reduction=how)["vlm/hidden_states"]) for how in ("mean", "last")}
    layout = config.layout().expert("vlm")
    image = np.repeat(np.stack([masks[c] for c in config.cameras], 1), config.vision.tokens, axis=1)
    valid = np.concatenate([image, inputs.prompt_mask], axis=1)
    for index, name in enumerate(spans[:3]):
        inside = np.zeros(layout.tokens, bool)
        for span in layout.select(name):
            inside[span.start : span.stop] = True
        for b in range(3):
            kept = np.flatnonzero(inside & valid[b])
            if not len(kept):
                assert name == camera
                assert np.isnan(reduced["mean"][b, :, index]).all()
                assert np.isnan(reduced["last"][b, :, index]).all()
                continue
            np.testing.assert_allclose(reduced["mean"][b, :, index], whole[b, :, kept].mean(0), atol=1e-5)
            np.testing.assert_array_equal(reduced["last"][b, :, index], whole[b, :, kept[-1]])
    # a span that the expert does not have is no slot of its own
    assert reduced["mean"].shape[2] == 3


def test_taps_obey_the_residual_stream():
    _, latents = run(PI0, WHOLE, 2)
    for expert in ("vlm", "action"):
        x = np.asarray(latents[f"{expert}/hidden_states"])
        factor = np.asarray(latents[f"{expert}/pre_attn_norm_scales"])
        before, after = x[..., :-1, :, :], factor[..., 1:, :]  # a block's input is the stream after the one below
        np.testing.assert_allclose(after, 1 / np.sqrt((before**2).mean(-1) + 1e-6), rtol=1e-5)
    x_t, v_t = np.asarray(latents["action/x_t"]), np.asarray(latents["action/v_t"])
    np.testing.assert_allclose(x_t[:, 1:], x_t[:, :-1] - v_t[:, :-1] / STEPS, atol=1e-6)


def test_teacher_forcing_offers_the_same_taps():
    inputs, noise = random_inputs(PI05, 2)
    time = jnp.array([0.3, 1.0])
    v_t, latents = velocity(noisy_params(PI05), PI05, inputs, noise * 0.5, noise, time, capture=WHOLE)
    assert {path: array.shape[1:] for path, array in latents.items()} == {
        t.path: t.shape for t in plan_capture(WHOLE, PI05.layout(1)).tensors
    }
    # at time 1 the model sees pure noise: sampling's first step
    _, sampling = run(PI05, WHOLE, 2)
    for path, array in latents.items():
        expected = sampling[path][1, :1] if path.startswith("action/") else sampling[path][1]
        np.testing.assert_allclose(array[1], expected, atol=2e-5, err_msg=path)
    assert v_t.shape == noise.shape


def test_one_trace_for_a_spec_and_a_batch_size(monkeypatch):
    traces = []
    original = pi0._read
    monkeypatch.setattr(pi0, "_read", lambda *args, **kwargs: traces.append(1) or original(*args, **kwargs))
    config = small_config(action_horizon=3)  # traced nowhere else
    for capture in (None, CaptureSpec(), CaptureSpec(layers=[2, 0, 1, 2]), CaptureSpec(layers=(0, 1, 2))):
        for _ in range(3):
            run(config, capture)
    assert len(traces) == 3  # the last two specs are equal
    run(config, None, batch_size=2)
    assert len(traces) == 4


def test_what_is_not_selected_is_not_there():
    """No value of the program holds an unselected layer, and without a spec none holds a captured one."""
    # a depth and widths that nothing else in the program has
    sizes = {"depth": 7, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8}
    config = small_config(vlm=GemmaConfig(34, mlp_dim=58, **sizes), action=GemmaConfig(24, mlp_dim=40, **sizes))
    inputs, noise = random_inputs(config)
    S = config.layout().expert("vlm").tokens

    def stacks(capture):
        traced = sample_actions.trace(noisy_params(config), config, inputs, noise, num_steps=1, capture=capture)
        return {
            shape[:2] for shape in _shapes(traced.jaxpr.jaxpr) if len(shape) == 4 and shape[2:] in ((S, 34), (S, 58))
        }

    plain = stacks(None)
    assert not any(7 in lead for lead in plain)
    assert stacks(CaptureSpec(components=("mlp_activation",), layers=(1,))) == plain | {(1, 1)}
    assert stacks(CaptureSpec(components=("mlp_activation",))) == plain | {(1, 7), (1, 1)}


def _shapes(jaxpr) -> set[tuple[int, ...]]:
    found = {tuple(v.aval.shape) for e in jaxpr.eqns for v in e.outvars}
    for equation in jaxpr.eqns:
        for value in equation.params.values():
            for sub in value if isinstance(value, tuple | list) else (value,):
                if hasattr(sub, "jaxpr"):
                    found |= _shapes(sub.jaxpr)
    return found


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layers": (3,)}, "capture spec, layers: 3 is out of range: the vlm expert has 3 layers; allowed: 0-2"),
        (
            {"denoise_steps": (0, 9)},
            "capture spec, denoise_steps: 9 is out of range: the action expert has 4 denoise steps",
        ),
        (
            {"spans": ("head_rgb",)},
            "capture spec, spans: no selected expert has a span 'head_rgb'; allowed: all, image",
        ),
    ],
)
def test_a_spec_that_the_model_cannot_honour_is_refused_before_anything_runs(fields, message):
    with pytest.raises(CaptureSpecError) as caught:
        run(PI0, CaptureSpec(**fields))
    assert str(caught.value).startswith(message)
