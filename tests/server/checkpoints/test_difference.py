"""Two checkpoints beside each other: every metric against numpy in float64, by layer, across formats."""

from __future__ import annotations

import dataclasses
import math

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from vlascope_server.checkpoints import CheckpointError, convert_checkpoint, open_source, save_checkpoint
from vlascope_server.checkpoints.boxes import common, elements, grid, inside
from vlascope_server.checkpoints.difference import compare, group_of, measure
from vlascope_server.checkpoints.difference.compare import _Memory
from vlascope_server.checkpoints.difference.report import insights, report
from vlascope_server.checkpoints.difference.spectral import spectrum
from vlascope_server.checkpoints.difference.sums import Sums, total
from vlascope_server.checkpoints.merged import MergedWeights
from vlascope_server.checkpoints.orbax_format import write_orbax
from vlascope_server.model import Lora
from vlascope_server.options import DifferenceOptions

from tests.server.checkpoints.conftest import LORA, PI0, PI05, draw

LAYERED = "PaliGemma/llm/layers/mlp/gating_einsum"
PLAIN = "PaliGemma/llm/embedder/input_embedding"


def expected(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """The reference's seven metrics, written out."""
    x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    d = np.abs(x - y)
    norms = np.linalg.norm(x), np.linalg.norm(y)
    metrics = {
        "l2_norm": np.linalg.norm(x - y),
        "l1_norm": d.sum(),
        "cosine_similarity": np.dot(x, y) / (norms[0] * norms[1]),
        "relative_difference": np.linalg.norm(x - y) / np.mean(norms),
        "max_abs_diff": d.max(),
        "mean_abs_diff": d.mean(),
        "std_abs_diff": d.std(),
    }
    return {name: float(value) for name, value in metrics.items()}


def same(found: Sums, a: np.ndarray, b: np.ndarray) -> None:
    assert found.metrics() == pytest.approx(expected(a, b), rel=1e-9)


def found_in(a, b, tmp_path, **options):
    return compare(open_source(a), open_source(b), DifferenceOptions(**options), tmp_path)


def named(difference, name):
    return next(p for p in difference.parameters if p.name == name)


def changed(params, seed=1, scale=0.01):
    rng = np.random.default_rng(seed)
    return {
        name: (value + scale * rng.standard_normal(value.shape)).astype(value.dtype) for name, value in params.items()
    }


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Parameters of two checkpoints that differ a little, and their folders: Orbax, and of the first safetensors too."""
    folder = tmp_path_factory.mktemp("pair")
    a, b = draw(PI0, "bfloat16"), changed(draw(PI0))
    save_checkpoint(folder / "a", a, PI0)
    save_checkpoint(folder / "b", b, PI0)
    for name in "ab":
        convert_checkpoint(open_source(folder / name), folder / f"{name}-torch", "safetensors")
    return folder, a, b


@pytest.mark.parametrize("dtypes", [("float32", "float32"), ("bfloat16", "float32"), ("float64", "bfloat16")])
@pytest.mark.parametrize("shape", [(7,), (3, 50, 41), (2, 300, 500)])
def test_metrics_are_numpys(dtypes, shape):
    rng = np.random.default_rng(0)
    a, b = ((rng.standard_normal(shape) + 3).astype(ml_dtypes.bfloat16 if d == "bfloat16" else d) for d in dtypes)
    same(measure(a, b), a, b)
    turned = np.asfortranarray(b)
    same(measure(a, turned), a, b)
    same(measure(np.asfortranarray(a), turned), a, b)
    same(measure(a[..., ::2], b[..., ::2]), a[..., ::2], b[..., ::2])
    halves = [measure(a[..., :5], b[..., :5]), measure(a[..., 5:], b[..., 5:])]
    same(total(halves), a, b)


def test_values_of_bfloat16_are_subtracted_in_float64():
    """In bfloat16 256 and 1.0078125 are 257.0 apart or 255; the difference of both is neither."""
    a, b = np.array([256.0], ml_dtypes.bfloat16), np.array([1.0078125], ml_dtypes.bfloat16)
    assert measure(a, b).l2 == 254.9921875


def test_a_constant_difference_has_no_spread():
    a = np.random.default_rng(0).integers(0, 9, 200_000).astype(np.float32)
    found = measure(a + 4, a)
    assert (found.mean_abs, found.std_abs, found.largest, found.changed) == (4, 0, 4, 200_000)


def test_what_is_equal_has_cosine_one():
    values = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    for one in (values, np.zeros(10, np.float32), np.zeros((0, 4), np.float32)):
        found = measure(one, one.copy()).metrics()
        assert found == {**dict.fromkeys(found, 0.0), "cosine_similarity": 1.0}


def test_nothing_against_something_has_no_cosine():
    found = measure(np.zeros(3), np.array([3.0, 4.0, 0.0]))
    assert math.isnan(found.cosine)
    assert (found.relative, found.l2) == (2.0, 5.0)


def test_what_is_not_finite_is_counted_and_left_out():
    a, b = np.arange(100_000.0), np.arange(100_000.0) + 1
    a[[0, 70_000]] = np.nan
    b[[1, 2, 70_000]] = np.inf, -np.inf, np.nan
    found = measure(a, b)
    assert (found.nan_a, found.nan_b, found.inf_a, found.inf_b, found.not_finite) == (2, 1, 0, 2, 5)
    finite = np.isfinite(a) & np.isfinite(b)
    assert found.count == finite.sum() == 99_996
    same(found, a[finite], b[finite])
    nothing = measure(np.full(4, np.nan), np.ones(4))
    assert (nothing.count, nothing.nan_a, nothing.l2) == (0, 4, 0)


def test_every_parameter_and_layer(pair, tmp_path):
    folder, a, b = pair
    difference = found_in(folder / "a", folder / "b", tmp_path)
    assert [p.name for p in difference.parameters] == sorted(a)
    for p in difference.parameters:
        same(p.sums, a[p.name], b[p.name])
        assert (p.dtype_a, p.dtype_b, p.shape) == ("bfloat16", "float32", a[p.name].shape)
        stacked = "/layers/" in p.name or "/encoderblock/" in p.name
        assert len(p.layers) == (len(a[p.name]) if stacked else 0)
        for layer, sums in enumerate(p.layers):
            same(sums, a[p.name][layer], b[p.name][layer])
    everything = (np.concatenate([params[name].astype(np.float64).ravel() for name in sorted(a)]) for params in (a, b))
    same(difference.sums, *everything)
    for (component, kind), layers in difference.by_layer().items():
        members = [p for p in difference.parameters if p.layers and (p.component, p.kind) == (component, kind)]
        for layer, sums in enumerate(layers):
            parts = ([params[p.name][layer].astype(np.float64).ravel() for p in members] for params in (a, b))
            same(sums, *(np.concatenate(part) for part in parts))


def test_the_same_weights_in_two_formats_do_not_differ(pair, tmp_path):
    folder, _, _ = pair
    for one, other in (("a", "a-torch"), ("b-torch", "b"), ("b-torch", "b-torch")):
        difference = found_in(folder / one, folder / other, tmp_path)
        for p in difference.parameters:
            assert (p.sums.dd, p.sums.changed, p.sums.cosine) == (0, 0, 1), p.name
        assert not difference.only_a
        assert not difference.only_b
        assert "is equal in both" in report(difference)


def test_formats_mixed_give_what_one_gives(pair, tmp_path):
    folder, _, _ = pair
    plain = found_in(folder / "a", folder / "b", tmp_path)
    for one, other in (("a-torch", "b"), ("a", "b-torch"), ("a-torch", "b-torch")):
        for p, q in zip(plain.parameters, found_in(folder / one, folder / other, tmp_path).parameters, strict=True):
            assert q.name == p.name
            assert q.sums.metrics() == pytest.approx(p.sums.metrics(), rel=1e-10)


def test_a_comparison_gives_the_same_to_the_last_bit(pair, tmp_path):
    folder, _, _ = pair
    first, second = (found_in(folder / "a", folder / "b", tmp_path, spectral=True) for _ in range(2))
    assert first.parameters == second.parameters


def test_layers_of_several_dtypes_are_compared_as_stored(pair, tmp_path):
    folder, a, b = pair
    path = "paligemma_with_expert.paligemma.model.language_model.layers.1.mlp.gate_proj.weight"
    tensors = load_file(folder / "a-torch/model.safetensors")
    fine = np.random.default_rng(0).standard_normal(tensors[path].shape, np.float32)
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed/vlascope.json").write_text((folder / "a-torch/vlascope.json").read_text())
    save_file(tensors | {path: fine}, tmp_path / "mixed/model.safetensors")
    p = named(found_in(tmp_path / "mixed", folder / "b", tmp_path), LAYERED)
    stored = a[LAYERED].astype(np.float32)
    stored[1, 0] = fine.T
    same(p.layers[1], stored[1], b[LAYERED][1])


@pytest.mark.parametrize("chunk", [400, 3000])
def test_chunks_of_any_size(pair, tmp_path, monkeypatch, chunk):
    """Also where layers are not whole in a chunk, and chunks of one side not those of the other."""
    folder, a, b = pair
    monkeypatch.setattr("vlascope_server.checkpoints.orbax_format._CHUNK_BYTES", chunk)
    write_orbax(tmp_path / "b/params", b)
    source = open_source(tmp_path / "b")
    assert len(source.weights.pieces(LAYERED)) > 3
    assert sum(elements(box) for box in source.weights.pieces(LAYERED)) == b[LAYERED].size
    for other in ("a", "a-torch"):
        for p in found_in(folder / other, tmp_path / "b", tmp_path).parameters:
            same(p.sums, a[p.name], b[p.name])
            for layer, sums in enumerate(p.layers):
                same(sums, a[p.name][layer], b[p.name][layer])


def test_boxes():
    boxes = grid((5, 4), (2, 3))
    assert len(boxes) == 6
    assert boxes[-1] == (slice(4, 5), slice(3, 4))
    assert grid((), ()) == [()]
    assert grid((0, 4), (1, 2)) == []
    assert common(boxes[0], boxes[1]) is None
    shared = common((slice(0, 5), slice(2, 4)), boxes[2])
    assert shared == (slice(2, 4), slice(2, 3))
    assert inside(shared, boxes[2]) == (slice(0, 2), slice(2, 3))


def test_other_architectures_are_refused(pair, tmp_path):
    folder, _, _ = pair
    save_checkpoint(tmp_path / "pi05", draw(PI05), PI05)
    narrow = dataclasses.replace(PI0, vlm=dataclasses.replace(PI0.vlm, mlp_dim=72))
    save_checkpoint(tmp_path / "narrow", draw(narrow), narrow)
    with pytest.raises(CheckpointError, match=r"expected one architecture, found two: model pi0 and pi0\.5"):
        found_in(folder / "a", tmp_path / "pi05", tmp_path)
    with pytest.raises(CheckpointError, match="vlm mlp_dim 80 and 72") as error:
        found_in(folder / "a", tmp_path / "narrow", tmp_path)
    assert "--common-only compares" in error.value.for_command()
    found = found_in(folder / "a", tmp_path / "pi05", tmp_path, common_only=True)
    assert "state_proj/kernel" in found.only_a
    assert "time_mlp_in/kernel" in found.only_b
    assert "state_proj/kernel" in report(found)
    found = found_in(folder / "a", tmp_path / "narrow", tmp_path, common_only=True)
    assert set(found.unlike) == {LAYERED, "PaliGemma/llm/layers/mlp/linear"}
    assert found.unlike[LAYERED] == ((3, 2, 48, 80), (3, 2, 48, 72))
    assert LAYERED not in {p.name for p in found.parameters}


def test_adapters_are_on_one_side_or_merged(tmp_path):
    params = draw(LORA)
    base = {name: value for name, value in params.items() if "lora" not in name}
    save_checkpoint(tmp_path / "base", base, PI0)
    save_checkpoint(tmp_path / "lora", params, LORA)
    found = found_in(tmp_path / "lora", tmp_path / "base", tmp_path)
    assert found.sums.changed == 0
    assert set(found.only_a) == set(params) - set(base)
    assert any("LoRA adapters" in sentence for sentence in insights(found))
    merged = found_in(tmp_path / "lora", tmp_path / "base", tmp_path, merge_lora=True)
    assert not merged.only_a
    scale = 8.0 / 2
    for suffix in ("", "_1"):
        attn, mlp = "PaliGemma/llm/layers/attn", f"PaliGemma/llm/layers/mlp{suffix}"
        for name, added in {
            f"{attn}/q_einsum{suffix}": scale * product(params, f"{attn}/q_einsum{suffix}/lora"),
            f"{attn}/kv_einsum{suffix}": scale * product(params, f"{attn}/kv_einsum{suffix}/lora"),
            f"{mlp}/gating_einsum": product(params, f"{mlp}/gating_einsum_lora"),
            f"{mlp}/linear": product(params, f"{mlp}/linear_lora"),
        }.items():
            weight = f"{name}/w" if "/attn/" in name else name
            p = named(merged, weight)
            assert p.dtype_a == "float32"
            assert p.sums.metrics() == pytest.approx(expected(base[weight] + added, base[weight]), rel=1e-5)
    untouched = [p for p in merged.parameters if "einsum" not in p.name and "/linear" not in p.name]
    assert untouched
    assert not any(p.sums.changed for p in untouched)


def product(params, name):
    return params[f"{name}_a"] @ params[f"{name}_b"]


def test_merged_weights_do_what_adapters_do(tmp_path):
    """The model with adapters, and the model of the merged weights without any: the same actions."""
    import jax
    import jax.numpy as jnp
    from vlascope_server.model import ModelInputs, sample_actions

    params = {name: 0.2 * value for name, value in draw(LORA).items()}
    source = open_source(save_checkpoint(tmp_path / "lora", params, LORA))
    merged = MergedWeights(source.weights, source.config())
    effective = {name: merged.read(name) for name in merged.shapes}
    for name, value in effective.items():
        whole = tuple(slice(0, size) for size in value.shape)
        np.testing.assert_array_equal(merged.read_box(name, whole), value)
    rng = np.random.default_rng(0)
    size = PI0.vision.image_size
    inputs = ModelInputs(
        images={slot: jnp.asarray(rng.uniform(-1, 1, (1, size, size, 3)), "float32") for slot in PI0.cameras},
        image_masks={slot: jnp.ones(1, bool) for slot in PI0.cameras},
        state=jnp.asarray(rng.standard_normal((1, PI0.action_dim)), "float32"),
        prompt=jnp.asarray(rng.integers(0, 64, (1, PI0.max_token_len))),
        prompt_mask=jnp.ones((1, PI0.max_token_len), bool),
    )
    noise = jnp.asarray(rng.standard_normal((1, PI0.action_horizon, PI0.action_dim)), "float32")

    def actions(params, config):
        arrays = {name: jnp.asarray(value, "float32") for name, value in params.items()}
        return np.asarray(
            jax.jit(lambda p: sample_actions(p, inputs=inputs, noise=noise, config=config, num_steps=2)[0])(arrays)
        )

    with_adapters, without = actions(params, LORA), actions(effective, PI0)
    bare = {name: value for name, value in params.items() if "lora" not in name}
    assert np.abs(with_adapters - actions(bare, PI0)).max() > 1e-2
    np.testing.assert_allclose(without, with_adapters, atol=1e-3)


def test_adapters_of_unlike_rank_are_compared_merged(tmp_path):
    wide = dataclasses.replace(
        LORA, **{part: dataclasses.replace(getattr(LORA, part), attn_lora=Lora(3, 8.0)) for part in ("vlm", "action")}
    )
    save_checkpoint(tmp_path / "a", draw(LORA), LORA)
    save_checkpoint(tmp_path / "b", draw(wide), wide)
    with pytest.raises(CheckpointError, match="lora_a: expected one shape, found") as error:
        found_in(tmp_path / "a", tmp_path / "b", tmp_path)
    assert "--merge-lora compares" in error.value.for_command()
    assert "--common-only leaves out" in error.value.for_command()
    assert found_in(tmp_path / "a", tmp_path / "b", tmp_path, merge_lora=True).unlike == {}


def test_nan_is_reported_by_parameter(pair, tmp_path):
    folder, a, _ = pair
    broken = dict(a)
    broken[PLAIN] = a[PLAIN].copy()
    broken[PLAIN][3, :2] = np.nan, np.inf
    save_checkpoint(tmp_path / "broken", broken, PI0)
    found = found_in(tmp_path / "broken", folder / "a", tmp_path, spectral=True)
    p = named(found, PLAIN)
    assert (p.sums.nan_a, p.sums.inf_a, p.sums.nan_b, p.sums.count) == (1, 1, 0, a[PLAIN].size - 2)
    assert p.spectrum is None
    text = report(found)
    assert f"{PLAIN}: A has 1 NaN and 1 infinite, B 0 and 0" in text
    assert "1 parameters hold values that are NaN or infinite: 2 in all" in text


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (5, 300), (1, 7)])
def test_spectrum_is_the_singular_values(shape):
    matrix = np.random.default_rng(0).standard_normal(shape).astype(np.float32) * np.float32(1e-12)
    values = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    found = spectrum(matrix)
    assert found is not None
    assert values[0] * 0.99 < found.norm <= values[0] * (1 + 1e-6)
    assert found.rank == pytest.approx((values**2).sum() / found.norm**2)


def test_spectrum_of_low_rank_and_of_nothing():
    rng = np.random.default_rng(0)
    one = np.outer(rng.standard_normal(50), rng.standard_normal(30)).astype(np.float32)
    found = spectrum(one)
    assert found is not None
    assert (found.norm, found.rank) == pytest.approx((np.linalg.norm(one), 1.0), rel=1e-5)
    assert spectrum(np.zeros((3, 4), np.float32)) == dataclasses.replace(found, norm=0.0, rank=0.0)


@pytest.mark.parametrize("in_memory", [True, False])
def test_spectra_of_layers(pair, tmp_path, monkeypatch, in_memory):
    folder, a, b = pair
    if not in_memory:
        monkeypatch.setattr("vlascope_server.checkpoints.difference.spectral._IN_MEMORY", 0)
    for other in ("b", "b-torch"):
        found = found_in(folder / "a", folder / other, tmp_path, spectral=True)
        d = {name: a[name].astype(np.float64) - b[name].astype(np.float64) for name in a}
        p = named(found, LAYERED)  # gate and up of a layer are two matrices
        for layer, of in enumerate(p.spectra):
            values = np.linalg.svd(d[LAYERED][layer], compute_uv=False)
            assert of is not None
            assert of.norm == pytest.approx(values.max(), rel=0.01)
            assert of.rank == pytest.approx(((values**2).sum(1) / values.max(1) ** 2).mean(), rel=0.03)
        queries = "PaliGemma/llm/layers/attn/q_einsum/w"  # heads are side by side
        of = named(found, queries).spectra[0]
        values = np.linalg.svd(np.concatenate(list(d[queries][0]), axis=1), compute_uv=False)
        assert of is not None
        assert of.norm == pytest.approx(values[0], rel=0.01)
        assert named(found, "state_proj/bias").spectrum is None
    assert not list(tmp_path.iterdir())


def test_groups_are_the_references():
    names = {
        "PaliGemma/llm/layers/attn/q_einsum/lora_a": "lora",
        "PaliGemma/img/Transformer/encoderblock/MultiHeadDotProductAttention_0/query/kernel": "attention",
        "PaliGemma/llm/layers/attn/attn_vec_einsum_1/w": "attention",
        "PaliGemma/img/Transformer/encoderblock/MlpBlock_0/Dense_0/kernel": "mlp",
        "action_time_mlp_in/kernel": "mlp",
        PLAIN: "embedding",
        "action_in_proj/kernel": "projection",
        "PaliGemma/llm/final_norm/scale": "other",
    }
    assert {name: group_of(name) for name in names} == names


def test_a_damaged_side_ends_the_comparison(pair, tmp_path):
    import shutil

    folder, _, _ = pair
    copy = shutil.copytree(folder / "b", tmp_path / "b")
    source = open_source(copy)
    for file in (copy / "params").rglob("d/*"):
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="missing or damaged"):
        compare(open_source(folder / "a"), source, DifferenceOptions(), tmp_path)


def test_memory_is_taken_in_turn():
    import threading

    memory, order = _Memory(100), []
    with memory.taken(60):
        waiting = threading.Thread(target=lambda: taken(memory, 50, order))
        waiting.start()
        waiting.join(0.1)
        assert waiting.is_alive()
        with memory.taken(40):
            order.append("beside")
    waiting.join(5)
    assert order == ["beside", 50]
    with memory.taken(1000):  # alone, it need not fit
        pass


def taken(memory, count, order):
    with memory.taken(count):
        order.append(count)
