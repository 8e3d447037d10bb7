"""The trained probe: finds what is there, finds nothing where nothing is, and cannot be fooled by frames of one episode."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from vlascope_analysis.analyses.probe.compute import probe
from vlascope_analysis.data.features import Features
from vlascope_analysis.data.labels import InstructionLabels, instruction_labels
from vlascope_analysis.errors import AnalysisError
from vlascope_analysis.options import EvaluationConfig, TrainingConfig
from vlascope_analysis.probes import ridge_cells
from vlascope_analysis.statistics.evaluation import Design, score_row
from vlascope_analysis.summaries import probe_summary
from vlascope_base.text import listed

from tests.analysis.stores import INSTRUCTIONS, direction

FAST = TrainingConfig(learning_rate=0.01, num_epochs=60, batch_size=16)
E = 24
TEXTS = (*INSTRUCTIONS, *(f"do {number}" for number in range(6)))


def encode(texts) -> np.ndarray:
    """Embeddings that need no model: a direction a text."""
    return np.stack([direction(*map(ord, text), width=E) for text in texts])


def frames(tasks: int, episodes: int, per_episode: int) -> pd.DataFrame:
    rows = [
        {
            "run": "r", "campaign": "c", "episode": f"{t}-{e}", "suite": "s", "task_id": t, "task_name": "",
            "instruction": TEXTS[t], "task_instruction": TEXTS[t],
            "timestep": f, "success": True, "status": "sealed", "episode_index": e, "unit": f"s/{t}/{t}-{e}",
        }
        for t in range(tasks) for e in range(episodes) for f in range(per_episode)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def made_of(table: pd.DataFrame, x: np.ndarray) -> tuple[Features, InstructionLabels]:
    return Features(x[None, None].astype(np.float32), table, (0,), (None,)), instruction_labels(table, encode)


def noise(table: pd.DataFrame, width: int = 40) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((len(table), width))


def signature(table: pd.DataFrame, width: int = 40) -> np.ndarray:
    """Noise, and what is the same in all frames of an episode and tells nothing of its task."""
    own = {unit: direction(9, n, width=width) for n, unit in enumerate(dict.fromkeys(table["unit"]))}
    return 0.1 * noise(table, width) + np.stack([own[unit] for unit in table["unit"]])


def test_finds_the_task_and_describes_itself():
    table = frames(4, 6, 3)
    x = noise(table) + 2 * np.stack([direction(1, t, width=40) for t in table["task_id"]])
    result = probe(*made_of(table, x), FAST, EvaluationConfig(permutations=20))
    row = result.table.iloc[0]
    assert row["accuracy"] > 0.95
    assert row["accuracy_low"] > 0.7
    assert row["cosine_similarity"] > row["constant_cosine"] + 0.2
    assert row["p_value"] == pytest.approx(1 / 21)
    assert abs(row["shuffled_accuracy"] - 0.25) < 0.1
    assert (row["chance"], row["majority"]) == (0.25, 0.25)
    assert (row["frames"], row["episodes"], row["instructions"], row["folds"]) == (72, 24, 4, 5)
    assert (row["test_frames"], row["test_units"]) == (72, 24)
    assert len(result.predictions) == 72
    answers = result.predictions
    assert len(answers.drop_duplicates(["episode", "fold"])) == 24, "an episode was tested in two folds"
    right = answers["label"].to_numpy() == answers["predicted"].to_numpy()
    np.testing.assert_array_equal(answers["correct"], right)
    assert right.mean() == pytest.approx(row["accuracy"])
    assert result.instructions["instruction"].tolist() == list(INSTRUCTIONS[:4])
    assert result.instructions["test_episodes"].tolist() == [6] * 4
    assert set(result.history["fold"]) == set(range(5))


def test_frames_of_one_episode_cannot_be_told_by_each_other():
    table = frames(4, 6, 6)
    features, labels = made_of(table, signature(table))
    honest = probe(features, labels, FAST, EvaluationConfig(permutations=0)).table.iloc[0]
    assert honest["accuracy"] < 0.45
    assert honest["accuracy_low"] <= 0.25
    # the same features, had frames been split: what the split by episode protects from
    leaky = Features(features.array, table.assign(unit=[str(n) for n in range(len(table))]), (0,), (None,))
    assert probe(leaky, labels, FAST, EvaluationConfig(permutations=0)).table.iloc[0]["accuracy"] > 0.9


def test_noise_is_at_chance_with_an_interval_around_it_and_the_seed_decides():
    table = frames(4, 6, 3)
    features, labels = made_of(table, noise(table))
    first, again = (probe(features, labels, FAST, EvaluationConfig(permutations=20, seed=3)) for _ in range(2))
    row = first.table.iloc[0]
    assert row["accuracy_low"] < 0.25 < row["accuracy_high"]
    assert row["p_value"] > 1 / 21
    pd.testing.assert_frame_equal(first.table, again.table)
    pd.testing.assert_frame_equal(first.predictions, again.predictions)
    pd.testing.assert_frame_equal(first.history, again.history)
    other = probe(features, labels, FAST, EvaluationConfig(permutations=0, seed=2))
    assert not first.predictions["fold"].equals(other.predictions["fold"])


def test_p_values_are_calibrated_although_frames_of_an_episode_are_alike():
    table = frames(4, 6, 2)
    config = EvaluationConfig(permutations=19, bootstrap_samples=200)
    labels = instruction_labels(table, encode)
    design = Design.of(table, labels, config)
    own = np.random.default_rng(5).standard_normal((300, 24, 30)).astype(np.float32)  # 300 cells that know nothing
    labellings = np.concatenate([labels.index[None], design.shuffled])
    right, cosine = [], []
    for split in design.splits:
        parts = {"train": split.train, "validation": split.validation, "test": split.test}
        found = ridge_cells(np.repeat(own, 2, axis=1), labellings, labels.embeddings, parts, split.candidates)
        right.append(found["predicted"] == labellings[:, split.test])
        cosine.append(found["cosine"])
    scores = score_row(np.concatenate(right, axis=2), np.concatenate(cosine, axis=2), design, config)
    p = scores["p_value"].to_numpy()
    assert (p <= 0.05).mean() < 0.09
    assert 0.45 < p.mean() < 0.6
    covered = (scores["accuracy_low"].to_numpy() <= 0.25) & (scores["accuracy_high"].to_numpy() >= 0.25)
    assert covered.mean() > 0.85


def test_split_by_task_reads_instructions_it_never_saw():
    # features are a linear map of the embedding: a linear probe generalises to new instructions, nothing else could
    table = frames(12, 3, 1)
    embeddings = encode(TEXTS)[:, :3]
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    x = 0.05 * noise(table) + embeddings[table["task_id"]] @ np.random.default_rng(1).standard_normal((3, 40))
    features = Features(x[None, None].astype(np.float32), table, (0,), (None,))
    labels = instruction_labels(table, lambda texts: encode(texts)[:, :3])
    row = probe(features, labels, FAST, EvaluationConfig(split="task", folds=3, permutations=0)).table.iloc[0]
    assert row["accuracy"] > 0.75
    assert row["chance"] == pytest.approx(0.25)
    assert row["test_units"] == 12
    assert row["interval_unit"] == "task"


def test_too_little_data_is_said():
    table = frames(2, 2, 1)
    result = probe(*made_of(table, noise(table)), FAST, EvaluationConfig(folds=2, permutations=0))
    assert any("only 4 test episodes" in warning for warning in result.warnings)
    assert any("no episode is left to validate on" in warning for warning in result.warnings)
    assert np.isnan(result.table.iloc[0]["p_value"])
    assert np.isnan(result.history["validation_loss"].to_numpy()).all()


def encode_any(texts) -> np.ndarray:
    return encode([f"text {text}" for text in texts])


def test_a_summary_commands_no_terminal():
    table = frames(2, 4, 1)
    table["instruction"] = table["instruction"] + "\x1b[31m\u202e\n"
    features = Features(noise(table)[None, None].astype(np.float32), table, (0,), (None,))
    result = probe(features, instruction_labels(table, encode_any), FAST, EvaluationConfig(folds=2, permutations=0))
    result = dataclasses.replace(result, warnings=("campaigns: " + listed(["a\x1b"]), "b\x1b"))
    text = probe_summary({"Suite": "s\x1b]0;"}, result)
    assert all(char.isprintable() or char == "\n" for char in text)
    assert text.count(r"\x1b") == 2 + 3
    assert r"open the drawer\x1b[31m\u202e\n   n = 4" in text


def test_several_layers_are_for_the_sweep():
    table = frames(2, 3, 1)
    features, labels = made_of(table, noise(table))
    two = Features(np.concatenate([features.array] * 2, axis=1), table, (0, 1), (None,))
    with pytest.raises(AnalysisError, match="one layer and one denoise step"):
        probe(two, labels, FAST, EvaluationConfig())
