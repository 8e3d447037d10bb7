"""The model against the reference's numbers: every golden of the folder, every array that it holds.

`VLASCOPE_GOLDENS` names a folder; without it the repository's compact set is checked. Limits are those that the set's own
documentation derives from running the reference under two versions of JAX. Its preprocessing is checked where it lives, in
`robots/` and `prompts/` beside this file.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from vlascope_latents import COMPONENTS, CaptureSpec
from vlascope_server.checkpoints import load_checkpoint
from vlascope_server.model import Pi0Config, draw_noise_and_time, flow_loss, gemma, sample_actions, velocity
from vlascope_server.model.embed import (
    embed_prefix,
    embed_prompt,
    embed_suffix,
    embed_time,
    flow_times,
    suffix_attention,
    time_condition,
)
from vlascope_server.model.inputs import pixels
from vlascope_server.model.parameters import expert_layers, fuse_for_inference, under
from vlascope_server.model.sites import Sites
from vlascope_server.model.vision import embed_patches, encode_images, encoder_block, normalise_tokens
from vlascope_server.options import CheckpointOptions

from tests.server.goldens import FOLDER, INDEX, Golden, load, names

FLOAT32, BFLOAT16 = names(dtype="float32"), names(dtype="bfloat16")
EVERYTHING = CaptureSpec(components=COMPONENTS, dtype="float32")

ACTIONS = LOSS = 2e-5
VELOCITY = 5e-5
STATES = 1e-4
KEYS = 3e-4
SIGLIP = 1e-5
NORM_SCALES = 5e-6
GRADIENTS = 1e-5
BFLOAT16_ACTIONS = 0.05


def close(golden: Golden, name: str, ours: jax.Array | np.ndarray, limit: float) -> None:
    """Compares a whole array of ours with the expected one, cut as that one may be."""
    if name not in golden.outputs:
        return
    expected, ours = golden.outputs[name], golden.cut(name, np.asarray(ours, np.float32))
    assert ours.shape == expected.shape, name
    worst = np.max(np.abs(ours - expected), initial=0)
    assert worst <= limit, f"{golden.name} {name}: off by {worst:.2e}, limit {limit:.0e}"


def equal(golden: Golden, name: str, ours: jax.Array | np.ndarray) -> None:
    if name in golden.outputs:
        np.testing.assert_array_equal(golden.cut(name, np.asarray(ours)), golden.outputs[name], err_msg=name)


def no_worse_than_the_reference(golden: Golden, stored: str, key: str, ours: jax.Array) -> None:
    """Ours in bfloat16 is about as far from the float32 result as the reference's own bfloat16 is."""
    reference, exact = golden.outputs.get(f"{stored}/{key}"), golden.inputs.get(key)
    if reference is None or exact is None:
        return
    cut = golden.cut(f"{stored}/{key}", np.asarray(ours, np.float32))
    noise = np.sqrt(np.mean(np.square(reference - exact)))
    distance = np.sqrt(np.mean(np.square(cut - exact)))
    assert distance <= 1.5 * noise, f"{stored}/{key}: {distance:.2e} from float32, the reference {noise:.2e}"


@functools.cache
def sampled(name: str, num_steps: int = 10) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Actions and all taps of one golden."""
    golden = load(name)
    out = sample_actions(
        golden.params,
        golden.config,
        golden.model_inputs(),
        golden.inputs["noise"],
        num_steps=num_steps,
        capture=EVERYTHING,
    )
    return jax.tree.map(np.asarray, out)


@pytest.mark.parametrize("name", FLOAT32)
def test_inputs(name):
    golden = load(name)
    config, observation = golden.config, golden.model_inputs()
    img = under(golden.params, "PaliGemma/img")
    base = pixels(observation.images[config.cameras[0]])
    x = embed_patches(img, config.vision, base)
    close(golden, "siglip_with_posemb", x, SIGLIP)
    blocks = under(img, "Transformer/encoderblock")
    hidden = []
    for layer in range(config.vision.depth):
        x = encoder_block({k: v[layer] for k, v in blocks.items()}, x)
        hidden.append(x[:1])
    close(golden, "siglip_hidden", jnp.stack(hidden), STATES)
    close(golden, "siglip_encoded", normalise_tokens(img, x), SIGLIP)
    tokens = [encode_images(img, config.vision, pixels(observation.images[c]), config.dtype) for c in config.cameras]
    close(golden, "siglip_tokens", jnp.stack(tokens), SIGLIP)
    close(golden, "prompt_embeddings", embed_prompt(golden.params, config, observation.prompt), SIGLIP)

    prefix = embed_prefix(golden.params, config, observation)
    equal(golden, "prefix_mask", prefix.valid)
    equal(golden, "prefix_positions", prefix.positions)
    if "prefix_token_index" in golden.outputs:
        close(golden, "prefix/embedded", prefix.tokens[:, golden.outputs["prefix_token_index"]], SIGLIP)
    positions, mask = suffix_attention(config, prefix.valid)
    equal(golden, "suffix_positions", positions)
    equal(golden, "suffix_attn_mask", np.packbits(mask, axis=-1))


def test_uint8_images_are_scaled_inside_the_program():
    golden = load(FLOAT32[0])
    observation = golden.model_inputs()
    raw = {c: jnp.asarray(golden.inputs[f"image_uint8/{c}"]) for c in golden.config.cameras}
    for camera, image in observation.images.items():
        assert np.abs(pixels(raw[camera]) - image).max() < 5e-7


@pytest.mark.parametrize("name", FLOAT32)
def test_prefix_states(name):
    golden = load(name)
    _, latents = sampled(name)
    taps = {key.split("/")[1]: np.moveaxis(value, 0, 1) for key, value in latents.items() if key.startswith("vlm/")}
    index = golden.outputs.get("prefix_token_index", slice(None))
    close(golden, "prefix/hidden", taps["hidden_states"], STATES)
    close(golden, "prefix/post_attn", taps["post_attn_embedding"][:, :, index], STATES)
    close(golden, "prefix/mlp_act", taps["mlp_activation"][:, :, index], STATES)
    close(golden, "prefix/rms_attn", taps["pre_attn_norm_scales"], NORM_SCALES)
    close(golden, "prefix/rms_mlp", taps["pre_mlp_norm_scales"], NORM_SCALES)

    prefix = embed_prefix(golden.params, golden.config, golden.model_inputs())
    layers = expert_layers(fuse_for_inference(golden.params), 0)
    inputs = jnp.concatenate([prefix.tokens[None], taps["hidden_states"][:-1]])
    rotation = gemma.rotary(prefix.positions, golden.config.vlm.head_dim)
    nowhere = Sites(None, 1).expert("vlm", prefix.valid)
    for part, limit in (("k", KEYS), ("v", STATES)):
        projected = [
            gemma.project({k: v[i] for k, v in layers.items()}, golden.config.vlm, x, rotation, nowhere).kv
            for i, x in enumerate(inputs)
        ]
        cache = np.stack([kv.k.transpose(0, 3, 1, 2) if part == "k" else kv.v.swapaxes(1, 2) for kv in projected])
        close(golden, f"prefix/{part}", cache.reshape(*cache.shape[:3], -1)[:, :, index], limit)


@pytest.mark.parametrize("name", FLOAT32)
def test_suffix_states_at_every_denoise_step(name):
    golden = load(name)
    _, latents = sampled(name)
    taps = {k.split("/")[1]: np.moveaxis(v, 0, 2 if v.ndim > 4 or "norm" in k else 1) for k, v in latents.items()
            if k.startswith("action/")}  # fmt: skip
    close(golden, "suffix/hidden", taps["hidden_states"], STATES)
    close(golden, "suffix/post_attn", taps["post_attn_embedding"], STATES)
    steps = golden.outputs.get("suffix_mlp_act_steps", slice(None))
    close(golden, "suffix/mlp_act", taps["mlp_activation"][steps], STATES)
    close(golden, "suffix/rms_attn", taps["pre_attn_norm_scales"], NORM_SCALES)
    close(golden, "suffix/rms_mlp", taps["pre_mlp_norm_scales"], NORM_SCALES)


@pytest.mark.parametrize("name", FLOAT32)
def test_flow(name):
    golden = load(name)
    counts = sorted({int(key.split("/")[0].split("_")[1]) for key in golden.outputs if key.startswith("denoise_")})
    for n in counts:
        actions, latents = sampled(name, n)
        x_t = np.concatenate([np.moveaxis(latents["action/x_t"], 0, 1), actions[None]])
        close(golden, f"denoise_{n}/x_t", x_t, VELOCITY)
        close(golden, f"denoise_{n}/v_t", np.moveaxis(latents["action/v_t"], 0, 1), VELOCITY)
        time = np.asarray(flow_times(n))
        equal(golden, f"denoise_{n}/time", time)
        embedding = embed_time(jnp.asarray(time), golden.config.action.width)
        close(golden, f"denoise_{n}/time_emb", embedding, STATES)
        if golden.config.pi05:
            cond = time_condition(golden.params, embedding)
            B = golden.inputs["state"].shape[0]
            close(golden, f"denoise_{n}/cond", np.repeat(np.asarray(cond)[:, None], B, axis=1), STATES)
        state = jnp.asarray(golden.inputs["state"])
        tokens = [
            embed_suffix(golden.params, golden.config, state, jnp.asarray(x), e[None])
            for x, e in zip(x_t[:-1], embedding, strict=True)
        ]
        close(golden, f"denoise_{n}/suffix_tokens", np.stack(tokens), STATES)


@pytest.mark.parametrize("name", FLOAT32)
def test_actions(name):
    golden = load(name)
    counts = list(golden.steps("actions"))
    assert counts
    for n in counts:
        actions, _ = sample_actions(
            golden.params, golden.config, golden.model_inputs(), golden.inputs["noise"], num_steps=n
        )
        close(golden, f"actions_{n}", actions, ACTIONS)
    for n in golden.steps("alt_actions"):
        observation = golden.model_inputs(masks="alt_image_mask")
        actions, _ = sample_actions(golden.params, golden.config, observation, golden.inputs["noise"], num_steps=n)
        close(golden, f"alt_actions_{n}", actions, ACTIONS)


@pytest.mark.parametrize("name", FLOAT32)
def test_loss_and_gradients(name):
    golden = load(name)
    actions, noise, time = (jnp.asarray(golden.inputs[f"loss_{part}"]) for part in ("actions", "noise", "time"))

    @functools.partial(jax.jit, static_argnames="masks")
    def loss(params, masks="image_mask"):
        return flow_loss(params, golden.config, golden.model_inputs(masks=masks), actions, noise, time)

    params = golden.params
    close(golden, "loss", loss(params), LOSS)
    if "alt_loss" in golden.outputs:
        close(golden, "alt_loss", loss(params, masks="alt_image_mask"), LOSS)
    v_t, _ = velocity(golden.params, golden.config, golden.model_inputs(), actions, noise, time)
    close(golden, "loss_v_t", v_t, VELOCITY)
    if "grad_l2" not in golden.outputs:
        return
    mean, gradients = jax.value_and_grad(lambda p: jnp.mean(loss(p)))(params)
    close(golden, "loss_mean", mean, LOSS)
    expected = dict(zip(golden.outputs["grad_names"].tolist(), golden.outputs["grad_l2"], strict=True))
    assert set(expected) == set(gradients)
    for parameter, norm in expected.items():
        ours = float(jnp.linalg.norm(gradients[parameter].ravel()))
        assert abs(ours - norm) <= GRADIENTS * max(1.0, norm), f"gradient of {parameter}: {ours} instead of {norm}"
    for parameter in ("action_out_proj/kernel", "action_in_proj/kernel"):
        close(golden, f"grad/{parameter}", gradients[parameter], GRADIENTS)


@pytest.mark.parametrize("name", FLOAT32)
def test_an_absent_camera_is_no_part_of_the_program(name):
    golden = load(name)
    present = tuple(c for c in golden.config.cameras if golden.inputs[f"image_mask/{c}"].any())
    if present == golden.config.cameras:
        pytest.skip("every camera of this golden is there in some sample")
    config = golden.config.with_cameras(*present)
    absent = golden.config.vision.tokens * (len(golden.config.cameras) - len(present))
    assert config.layout().expert("vlm").tokens == golden.config.layout().expert("vlm").tokens - absent
    args = (config, golden.model_inputs(config))
    actions, latents = sample_actions(golden.params, *args, golden.inputs["noise"], capture=EVERYTHING)
    close(golden, "actions_10", actions, ACTIONS)
    whole, where = sampled(name)[1], _positions(golden.config, config)
    valid = np.asarray(embed_prefix(golden.params, *args).valid)
    ours = np.asarray(latents["vlm/hidden_states"]).swapaxes(1, 2)[valid]
    theirs = whole["vlm/hidden_states"][:, :, where].swapaxes(1, 2)[valid]
    assert np.abs(ours - theirs).max() <= STATES
    np.testing.assert_allclose(latents["action/hidden_states"], whole["action/hidden_states"], atol=STATES)


def _positions(whole: Pi0Config, part: Pi0Config) -> np.ndarray:
    """Where the tokens of `part` lie in the sequence of `whole`."""
    spans = {span.name: range(span.start, span.stop) for span in whole.layout().expert("vlm").spans}
    return np.concatenate([spans[span.name] for span in part.layout().expert("vlm").spans])


@pytest.mark.parametrize("name", FLOAT32)
def test_the_flow_of_one_loss_is_a_teacher_forced_forward(name):
    golden = load(name)
    actions, noise, time = (jnp.asarray(golden.inputs[f"loss_{part}"]) for part in ("actions", "noise", "time"))
    args = (golden.params, golden.config, golden.model_inputs(), actions, noise, time)
    v_t, latents = velocity(*args, capture=EVERYTHING)
    np.testing.assert_array_equal(latents["action/v_t"][:, 0], v_t)
    t = time[:, None, None]
    np.testing.assert_allclose(latents["action/x_t"][:, 0], t * noise + (1 - t) * actions, atol=1e-6)
    # the prefix knows nothing of the flow: the same states as in sampling
    sampling = sampled(name)[1]
    np.testing.assert_allclose(latents["vlm/hidden_states"], sampling["vlm/hidden_states"], atol=STATES)
    plain, _ = velocity(*args)
    close(golden, "loss_v_t", v_t, VELOCITY)
    np.testing.assert_allclose(plain, v_t, atol=VELOCITY)


@pytest.mark.parametrize("stored", ["params_f32", "params_bf16"])
@pytest.mark.parametrize("name", BFLOAT16)
def test_bfloat16(name, stored):
    golden = load(name)
    dtype = {"params_f32": jnp.float32, "params_bf16": jnp.bfloat16}[stored]
    params = {key: jnp.asarray(value, dtype) for key, value in golden.params.items()}
    counts = list(golden.steps(f"{stored}/actions"))
    assert counts
    for n in counts:
        actions, _ = sample_actions(params, golden.config, golden.model_inputs(), golden.inputs["noise"], num_steps=n)
        assert actions.dtype == jnp.float32
        for key in (f"{stored}/actions_{n}", f"{stored}/actions_{n}_op_by_op"):
            close(golden, key, actions, BFLOAT16_ACTIONS)
    inputs = [golden.inputs[f"loss_{part}"] for part in ("actions", "noise", "time")]
    v_t, _ = velocity(params, golden.config, golden.model_inputs(), *inputs)
    loss = jnp.mean(jnp.square(v_t - (inputs[1] - inputs[0])), axis=-1)
    images = [pixels(golden.model_inputs().images[c]) for c in golden.config.cameras]
    img = under(params, "PaliGemma/img")
    tokens = jnp.stack([encode_images(img, golden.config.vision, image, "bfloat16") for image in images])
    for key, ours in (("loss_v_t", v_t), ("loss", loss), ("siglip_tokens", tokens)):
        no_worse_than_the_reference(golden, stored, key, ours)


@pytest.mark.parametrize("name", INDEX.get("checkpoints", {}))
def test_a_checkpoint_that_the_reference_wrote_gives_its_actions(name):
    golden = load(INDEX["checkpoints"][name]["expected"])
    lengths = CheckpointOptions(action_horizon=golden.config.action_horizon, max_token_len=golden.config.max_token_len)
    checkpoint = load_checkpoint(FOLDER / name, lengths, dtype=golden.config.dtype)
    assert checkpoint.config == golden.config
    inputs = (golden.model_inputs(), golden.inputs["noise"])
    for n in golden.steps("actions"):
        actions, _ = sample_actions(checkpoint.params, checkpoint.config, *inputs, num_steps=n)
        close(golden, f"actions_{n}", actions, ACTIONS)


def test_noise_and_time_of_training():
    config = load(FLOAT32[0]).config
    noise, time = draw_noise_and_time(jax.random.key(0), 4096, config)
    assert noise.shape == (4096, config.action_horizon, config.action_dim)
    assert float(time.min()) >= 0.001
    assert float(time.max()) <= 1.0
    assert abs(float(time.mean()) - (0.6 * 0.999 + 0.001)) < 0.02  # Beta(1.5, 1) has mean 0.6
