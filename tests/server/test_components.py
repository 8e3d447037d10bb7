"""Every captured component against a plain computation in numpy, from the parameters by the reference's names."""

from __future__ import annotations

import dataclasses
import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from vlascope_latents import COMPONENTS, CaptureSpec, Site, plan_capture
from vlascope_server.model import pi0, sample_actions
from vlascope_server.model.sites import ExpertSites, Sites

from tests.server.small_models import noisy_params, random_inputs, small_config

STEPS = 2
CONFIGS = {"pi0": small_config(), "pi05": small_config(pi05=True)}
WHOLE = CaptureSpec(components=COMPONENTS, dtype="float32", reduction="none")
close = functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-4)


@functools.cache
def captured(model: str, spec: CaptureSpec = WHOLE):
    """The arrays of `given`, as numpy."""
    config = CONFIGS[model]
    inputs, noise = given(model)
    _, latents = sample_actions(noisy_params(config), config, inputs, noise, num_steps=STEPS, capture=spec)
    return {path: np.asarray(array, np.float64) for path, array in latents.items()}


def given(model: str):
    """Two samples with prompts of 3 and 6 tokens; the second one lacks a camera."""
    config = CONFIGS[model]
    inputs, noise = random_inputs(config, 2)
    masks = {**inputs.image_masks, config.cameras[1]: jnp.array([True, False])}
    prompts = jnp.arange(config.max_token_len)[None] < jnp.array([[3], [6]])
    return dataclasses.replace(inputs, image_masks=masks, prompt_mask=prompts), noise


def valid(model: str) -> np.ndarray:
    """Which prefix tokens are real [B S]."""
    config, (inputs, _) = CONFIGS[model], given(model)
    image = np.repeat(np.stack([inputs.image_masks[c] for c in config.cameras], 1), config.vision.tokens, axis=1)
    return np.concatenate([image, inputs.prompt_mask], axis=1)


class Plain:
    """One expert in numpy, float64, of samples and denoise steps [Q B ...]; the vlm has one step."""

    def __init__(self, model: str, expert: str):
        config = CONFIGS[model]
        self.config = config.vlm if expert == "vlm" else config.action
        self.suffix = "" if expert == "vlm" else "_1"
        self.params = {name: np.asarray(p, np.float64) for name, p in noisy_params(config).items()}
        self.taps = {
            path.split("/")[1]: array[None] if expert == "vlm" else np.moveaxis(array, 1, 0)
            for path, array in captured(model).items()
            if path.startswith(f"{expert}/")
        }
        self.adaptive = config.pi05 and expert == "action"

    def of(self, name: str) -> np.ndarray:
        return self.params[f"PaliGemma/llm/{name}"]

    def stream(self, layer: int) -> np.ndarray:
        """A block's input."""
        return self.taps["embedding"] if layer == 0 else self.taps["hidden_states"][:, :, layer - 1]

    def norm(self, x: np.ndarray, name: str, layer: int | None) -> tuple[np.ndarray, np.ndarray | float]:
        """The normed x, and the gate."""
        at = () if layer is None else (layer,)
        normed = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
        if not self.adaptive:
            return normed * (1 + self.of(f"{name}{self.suffix}/scale")[at]), 1.0
        cond = self.condition() @ self.of(f"{name}{self.suffix}/Dense_0/kernel")[at]
        scale, shift, gate = np.split(cond + self.of(f"{name}{self.suffix}/Dense_0/bias")[at], 3, axis=-1)
        scale, shift, gate = (part[:, None, None] for part in (scale, shift, gate))
        return normed * (1 + scale) + shift, gate

    def condition(self) -> np.ndarray:
        """[Q D] of the denoise time."""
        times = 1 - np.arange(STEPS) / STEPS
        period = 4e-3 * (4.0 / 4e-3) ** np.linspace(0, 1, self.config.width // 2)
        angle = 2 * np.pi * times[:, None] / period
        x = np.concatenate([np.sin(angle), np.cos(angle)], axis=-1)
        for name in ("time_mlp_in", "time_mlp_out"):
            x = x @ self.params[f"{name}/kernel"] + self.params[f"{name}/bias"]
            x = x / (1 + np.exp(-x))
        return x


def rotated(x: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Rotary embedding of [..., T, N, H] at positions [..., T]."""
    half = x.shape[-1] // 2
    angle = positions[..., None, None] / 10_000 ** (np.arange(half) / half)
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], -1)


@pytest.mark.parametrize("expert", ["vlm", "action"])
@pytest.mark.parametrize("model", CONFIGS)
def test_branches_add_up_to_the_stream(model, expert):
    taps = Plain(model, expert).taps
    before = np.concatenate([taps["embedding"][:, :, None], taps["hidden_states"][:, :, :-1]], axis=2)
    close(before + taps["attn_output"], taps["post_attn_embedding"])
    close(taps["post_attn_embedding"] + taps["mlp_output"], taps["hidden_states"])


@pytest.mark.parametrize("expert", ["vlm", "action"])
@pytest.mark.parametrize("model", CONFIGS)
def test_keys_values_and_the_mlp_s_branch(model, expert):
    plain = Plain(model, expert)
    for layer in range(plain.config.depth):
        h, _ = plain.norm(plain.stream(layer), "layers/pre_attention_norm", layer)
        for name, w in zip("kv", plain.of(f"layers/attn/kv_einsum{plain.suffix}/w")[layer], strict=True):
            close(plain.taps[name][:, :, layer], np.einsum("QBTD,KDH->QBTKH", h, w))
        _, gate = plain.norm(plain.taps["post_attn_embedding"][:, :, layer], "layers/pre_ffw_norm", layer)
        down = plain.taps["mlp_activation"][:, :, layer] @ plain.of(f"layers/mlp{plain.suffix}/linear")[layer]
        close(plain.taps["mlp_output"][:, :, layer], gate * down)


@pytest.mark.parametrize("expert", ["vlm", "action"])
@pytest.mark.parametrize("model", CONFIGS)
def test_attention_and_its_branch(model, expert):
    plain, vlm, real = Plain(model, expert), Plain(model, "vlm"), valid(model)
    B, S = real.shape
    T = plain.taps["embedding"].shape[2]
    positions, mask = np.cumsum(real, 1) - 1, real[:, :, None] & real[:, None, :]
    seen = positions
    if expert == "action":
        positions = real.sum(1)[:, None] + np.arange(T)
        seen = np.concatenate([seen, positions], axis=1)
        within = np.ones((T, T), bool)
        if model == "pi0":
            within[0, 1:] = False  # the state token does not see the actions
        mask = np.concatenate([np.broadcast_to(real[:, None], (B, T, S)), np.broadcast_to(within, (B, T, T))], axis=2)
    group = plain.config.num_heads // plain.config.num_kv_heads
    for layer in range(plain.config.depth):
        h, gate = plain.norm(plain.stream(layer), "layers/pre_attention_norm", layer)
        q = np.einsum("QBTD,NDH->QBTNH", h, plain.of(f"layers/attn/q_einsum{plain.suffix}/w")[layer])
        k, v = plain.taps["k"][:, :, layer], plain.taps["v"][:, :, layer]
        if expert == "action":
            theirs = (vlm.taps[name][:, :, layer].repeat(STEPS, axis=0) for name in "kv")
            k, v = (np.concatenate(both, axis=2) for both in zip(theirs, (k, v), strict=True))
        q, k = rotated(q, positions[None]), np.repeat(rotated(k, seen[None]), group, axis=3)
        logits = np.einsum("QBTNH,QBSNH->QBNTS", q, k) / np.sqrt(plain.config.head_dim)
        logits = np.where(mask[None, :, None], logits, -1e30)
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        np.testing.assert_allclose(plain.taps["attention"][:, :, layer], weights, rtol=1e-3, atol=1e-5)
        attended = np.einsum("QBNTS,QBSNH->QBTNH", weights, np.repeat(v, group, axis=3))
        out = np.einsum("QBTNH,NHD->QBTD", attended, plain.of(f"layers/attn/attn_vec_einsum{plain.suffix}/w")[layer])
        close(plain.taps["attn_output"][:, :, layer], gate * out)


@pytest.mark.parametrize("model", CONFIGS)
def test_what_goes_in_and_what_comes_out(model):
    vlm, action = Plain(model, "vlm"), Plain(model, "action")
    config, (inputs, _) = CONFIGS[model], given(model)
    table = vlm.of("embedder/input_embedding")[np.asarray(inputs.prompt)]
    text = config.layout().expert("vlm").select("text")[0]
    close(vlm.taps["embedding"][0][:, text.start :], table * np.sqrt(config.vlm.width))
    x_t, v_t = (action.taps[name] for name in ("x_t", "v_t"))
    if model == "pi05":
        tokens = x_t @ action.params["action_in_proj/kernel"] + action.params["action_in_proj/bias"]
        close(action.taps["embedding"], tokens)
    else:
        state = np.asarray(inputs.state) @ action.params["state_proj/kernel"] + action.params["state_proj/bias"]
        close(action.taps["embedding"][:, :, 0], np.broadcast_to(state, (STEPS, *state.shape)))
    for plain in (vlm, action):
        last, _ = plain.norm(plain.taps["hidden_states"][:, :, -1], "final_norm", None)
        close(plain.taps["final_hidden"], last)
        factor = 1 / np.sqrt((plain.taps["embedding"] ** 2).mean(-1) + 1e-6)
        close(plain.taps["pre_attn_norm_scales"][:, :, 0], factor)
    out = action.taps["final_hidden"][:, :, -config.action_horizon :]
    close(v_t, out @ action.params["action_out_proj/kernel"] + action.params["action_out_proj/bias"])


def test_attention_reduced_to_spans():
    model, real = "pi0", valid("pi0")
    spec = CaptureSpec(
        sites=(
            Site("vlm", "attention", dtype="float32"),
            Site("action", "attention", heads=(1, 3), layers=(2,), tokens=("action", "all"), keys=("image", "vlm:all", "state"),
                 dtype="float32"),
            Site("action", "attention", name="last", tokens=("action",), reduction="last", keys=("action",), dtype="float32"),
            Site("action", "attention", name="rows", tokens=(0, 2), keys=("text", "state"), reduction="none", dtype="float32"),
        )
    )  # fmt: skip
    found, layout = captured(model, spec), CONFIGS[model].layout(STEPS)
    whole, spans = captured(model)["vlm/attention"], layout.expert("vlm").spans
    for q, rows in enumerate(spans):
        for s, keys in enumerate(spans):
            share = whole[..., rows.start : rows.stop, keys.start : keys.stop].sum(-1)
            weights = real[:, rows.start : rows.stop]
            with np.errstate(invalid="ignore"):
                mean = np.einsum("BLNt,Bt->BLN", share, weights) / weights.sum(1)[:, None, None]
            np.testing.assert_allclose(found["vlm/attention"][..., q, s], mean, rtol=1e-4, atol=1e-6)
    assert np.isnan(found["vlm/attention"][1, :, :, 1]).all()  # the camera that the second sample lacks
    np.testing.assert_allclose(found["vlm/attention"][0].sum(-1), 1, rtol=1e-5)

    whole, n = captured(model)["action/attention"], layout.expert("vlm").tokens
    image, text = 3 * CONFIGS[model].vision.tokens, slice(n - CONFIGS[model].max_token_len, n)
    some = whole[:, :, [2]][:, :, :, [1, 3]]
    for q, rows in enumerate((slice(1, None), slice(None))):
        for s, keys in enumerate((slice(0, image), slice(0, n), slice(n, n + 1))):
            mean = some[..., rows, :].mean(-2)[..., keys].sum(-1)
            np.testing.assert_allclose(found["action/attention"][..., q, s], mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["action/last"][..., 0, 0], whole[..., -1, n + 1 :].sum(-1), rtol=1e-4, atol=1e-6)
    rows = np.concatenate([whole[..., [0, 2], text], whole[..., [0, 2], n : n + 1]], -1)
    np.testing.assert_array_equal(found["action/rows"], rows)


def test_positions_from_the_end_of_the_prompt():
    model = "pi0"
    spec = CaptureSpec(
        sites=(
            Site("vlm", "hidden_states", tokens=(0, -1, -2, -6), layers=(1,), dtype="float32"),
            Site("vlm", "hidden_states", name="reduced", tokens=(-2, "text"), reduction="mean", layers=(1,), dtype="float32"),
        )
    )  # fmt: skip
    found, whole = captured(model, spec), captured(model)["vlm/hidden_states"][:, [1]]
    text = CONFIGS[model].layout().expert("vlm").select("text")[0]
    lengths = np.asarray(given(model)[0].prompt_mask).sum(1)
    assert lengths.tolist() == [3, 6]
    for b, length in enumerate(lengths):
        np.testing.assert_array_equal(found["vlm/hidden_states"][b, :, 0], whole[b, :, 0])
        for place, back in ((1, 6), (2, 2), (3, 1)):
            got = found["vlm/hidden_states"][b, :, place]
            if back > length:
                assert np.isnan(got).all()
            else:
                np.testing.assert_array_equal(got, whole[b, :, text.start + length - back])
        np.testing.assert_array_equal(found["vlm/reduced"][b, :, 0], whole[b, :, text.start + length - 2])
        mean = whole[b, :, text.start : text.start + length].mean(1)
        np.testing.assert_allclose(found["vlm/reduced"][b, :, 1], mean, rtol=1e-5, atol=1e-5)


class NudgedSites(Sites):
    """Sites that add a number to every value that the plan selects: what interventions will do, and what a gradient needs."""

    def __init__(self, plan, batch_size, amount):
        super().__init__(plan, batch_size)
        self._amounts = {site.path: amount[k] for k, site in enumerate(plan.sites)}

    def expert(self, name, valid):
        plans = {site.path: site for site in self._plans if site.expert == name}
        return NudgedExpert(plans, valid, self._kept, {}, self._amounts)


class NudgedExpert(ExpertSites):
    def __init__(self, plans, valid, kept, places, amounts):
        super().__init__(plans, valid, kept, places)
        self._amounts = amounts

    @property
    def edits(self):
        return self.names

    def _inside(self, plans, kept, places):
        return NudgedExpert(plans, self._valid, kept, places, self._amounts)

    def __call__(self, name, value):
        value = super().__call__(name, value)
        for path, plan in self._plans.items():
            if plan.component == name:
                axis = 2 if name == "attention" else 1
                pattern = np.cos(np.arange(value.size)).reshape(value.shape)  # no direction that a norm takes out
                if plan.groups:
                    chosen = np.isin(np.arange(value.shape[axis]), list(plan.groups[0].positions))
                    pattern = pattern * np.expand_dims(chosen, [k for k in range(value.ndim) if k != axis])
                value = value + self._amounts[path] * jnp.asarray(pattern, value.dtype)
        return value


@pytest.mark.parametrize("model", CONFIGS)
def test_the_layout_knows_what_reaches_the_actions(model, monkeypatch):
    config, (inputs, noise) = CONFIGS[model], given(model)
    layout = config.layout(STEPS)
    sites = []
    for expert in layout.experts:
        for component in expert.components:
            for layers in [(0,), (config.vlm.depth - 1,)] if component.size("layer") else [()]:
                for span in [span.name for span in expert.spans] if component.size("token") else [""]:
                    if span.startswith("image/") and span != "image/base_0_rgb":
                        continue
                    fields = {"layers": layers} if layers else {}
                    fields |= {"tokens": (span,), "reduction": "none"} if span else {}
                    name = f"{component.name}-{'-'.join(map(str, layers))}-{span.replace('/', '-')}"
                    sites.append(Site(expert.name, component.name, name=name, dtype="float32", **fields))
    plan = plan_capture(CaptureSpec(sites=tuple(sites)), layout)
    params = noisy_params(config)

    def actions(amount):
        with monkeypatch.context() as patch:
            patch.setattr(pi0, "Sites", lambda plan, batch_size: NudgedSites(plan, batch_size, amount))
            return inspect.unwrap(sample_actions)(params, config, inputs, noise, num_steps=STEPS, capture=plan)[0]

    slopes = jax.jit(jax.jacfwd(actions))(jnp.zeros(len(plan.sites)))
    reached = {site.path: bool(np.abs(slopes[..., k]).max() > 0) for k, site in enumerate(plan.sites)}
    assert reached == {site.path: site.reaches_actions for site in plan.sites}
    assert {False, True} == set(reached.values())
