"""The trained probe: finds what is there, finds nothing where nothing is, and cannot be fooled by frames of one episode."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from vlascope_analysis.analyses.probe.compute import probe
from vlascope_analysis.analyses.probe.summary import probe_summary, verdict
from vlascope_analysis.data.features import Features
from vlascope_analysis.data.labels import Labels, instruction_labels
from vlascope_analysis.errors import AnalysisError
from vlascope_analysis.options import EvaluationConfig, TrainingConfig
from vlascope_analysis.statistics.evaluation import Design
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
            "timestep": f, "success": True, "status": "sealed", "episode_index": e, "scene": f"s/{t}",
            "init_state": f"s/{t}/{e}", "total_steps": 50,
        }
        for t in range(tasks) for e in range(episodes) for f in range(per_episode)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def made_of(table: pd.DataFrame, x: np.ndarray) -> tuple[Features, Labels]:
    return Features(x[None, None].astype(np.float32), table, (0,), (None,)), instruction_labels(table, encode)


def noise(table: pd.DataFrame, width: int = 40) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((len(table), width))


def signature(table: pd.DataFrame, width: int = 40) -> np.ndarray:
    """Noise, and what is the same in all frames of an episode and tells nothing of its task."""
    own = {unit: direction(9, n, width=width) for n, unit in enumerate(dict.fromkeys(table["episode"]))}
    return 0.1 * noise(table, width) + np.stack([own[unit] for unit in table["episode"]])


def test_finds_the_task_and_describes_itself():
    table = frames(4, 6, 3)
    x = noise(table) + 2 * np.stack([direction(1, t, width=40) for t in table["task_id"]])
    result = probe(*made_of(table, x), FAST, EvaluationConfig(permutations=20))
    row = result.tables["scores"].iloc[0]
    assert row["accuracy"] > 0.95
    assert row["accuracy_low"] > 0.7
    assert row["cosine_similarity"] > row["constant_cosine"] + 0.2
    assert row["p_value"] == pytest.approx(1 / 21)
    assert abs(row["shuffled_accuracy"] - 0.25) < 0.1
    assert row["chance"] == pytest.approx(0.25)
    assert row["closed_form_accuracy"] > 0.95
    assert row["closed_form_p_value"] == pytest.approx(1 / 200)
    assert (row["frames"], row["episodes"], row["classes"], row["folds"]) == (72, 24, 4, 5)
    assert (row["assignments"], row["test_units"], row["interval_unit"]) == (5, 24, "episode")
    answers = result.tables["predictions"]
    assert len(answers) == 5 * 72
    first = answers.loc[answers["assignment"] == 0]
    assert len(first.drop_duplicates(["episode", "fold"])) == 24, "an episode was tested in two folds"
    right = answers["label"].to_numpy() == answers["predicted"].to_numpy()
    np.testing.assert_array_equal(answers["correct"], right)
    assert right.mean() == pytest.approx(row["accuracy"])
    assert result.tables["classes"]["label"].tolist() == list(INSTRUCTIONS[:4])
    assert result.tables["classes"]["test_episodes"].tolist() == [6] * 4
    assert set(result.tables["history"]["fold"]) == set(range(5))


def test_frames_of_one_episode_cannot_be_told_by_each_other():
    table = frames(4, 6, 6)
    features, labels = made_of(table, signature(table))
    honest = probe(features, labels, FAST, EvaluationConfig(permutations=0)).tables["scores"].iloc[0]
    assert honest["accuracy"] < 0.45
    assert honest["accuracy_low"] <= 0.25
    # the same features, had frames been split: what the split by episode protects from
    own = table.assign(episode=[str(n) for n in range(len(table))], init_state=[str(n) for n in range(len(table))])
    leaky = Features(features.array, own, (0,), (None,))
    assert probe(leaky, labels, FAST, EvaluationConfig(permutations=0)).tables["scores"].iloc[0]["accuracy"] > 0.9


def test_noise_is_at_chance_with_an_interval_around_it_and_the_seed_decides():
    table = frames(4, 6, 3)
    features, labels = made_of(table, noise(table))
    first, again = (probe(features, labels, FAST, EvaluationConfig(permutations=20, seed=3)) for _ in range(2))
    row = first.tables["scores"].iloc[0]
    assert row["accuracy_low"] < 0.25 < row["accuracy_high"]
    assert row["p_value"] > 1 / 21
    for name, table in first.tables.items():
        pd.testing.assert_frame_equal(table, again.tables[name])
    other = probe(features, labels, FAST, EvaluationConfig(permutations=0, seed=2))
    folds = [found.tables["predictions"]["fold"] for found in (first, other)]
    assert not folds[0].equals(folds[1])


def test_split_by_task_reads_instructions_it_never_saw():
    # features are a linear map of the embedding: a linear probe generalises to new instructions, nothing else could
    table = frames(12, 3, 1)
    embeddings = encode(TEXTS)[:, :3]
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    x = 0.05 * noise(table) + embeddings[table["task_id"]] @ np.random.default_rng(1).standard_normal((3, 40))
    features = Features(x[None, None].astype(np.float32), table, (0,), (None,))
    labels = instruction_labels(table, lambda texts: encode(texts)[:, :3])
    row = (
        probe(features, labels, FAST, EvaluationConfig(split="task", folds=3, permutations=0)).tables["scores"].iloc[0]
    )
    assert row["accuracy"] > 0.75
    assert row["chance"] == pytest.approx(0.25)
    assert row["test_units"] == 12
    assert row["interval_unit"] == "instruction"


def test_too_little_data_is_said():
    table = frames(2, 2, 1)
    result = probe(*made_of(table, noise(table)), FAST, EvaluationConfig(folds=1, permutations=0))
    assert any("only 2 test episodes" in warning for warning in result.warnings)
    assert any("nothing chooses" in warning for warning in result.warnings)
    assert np.isnan(result.tables["scores"].iloc[0]["p_value"])
    assert np.isnan(result.tables["history"]["validation_loss"].to_numpy()).all()


def encode_any(texts) -> np.ndarray:
    return encode([f"text {text}" for text in texts])


def test_a_summary_commands_no_terminal():
    table = frames(2, 4, 1)
    table["instruction"] = table["instruction"] + "\x1b[31m\u202e\n"
    features = Features(noise(table)[None, None].astype(np.float32), table, (0,), (None,))
    result = probe(features, instruction_labels(table, encode_any), FAST, EvaluationConfig(permutations=0))
    result = dataclasses.replace(result, warnings=("campaigns: " + listed(["a\x1b"]), "b\x1b"))
    text = probe_summary(dataclasses.replace(result, about={"Suite": "s\x1b]0;"}))
    assert all(char.isprintable() or char == "\n" for char in text)
    assert text.count(r"\x1b") == 2 + 3
    assert r"open the drawer\x1b[31m\u202e\n   n = 4" in text


def test_several_layers_are_for_the_sweep():
    table = frames(2, 3, 1)
    features, labels = made_of(table, noise(table))
    two = Features(np.concatenate([features.array] * 2, axis=1), table, (0, 1), (None,))
    with pytest.raises(AnalysisError, match="one layer and one denoise step"):
        probe(two, labels, FAST, EvaluationConfig())


def test_training_that_ended_early_is_told_from_features_that_know_nothing():
    table = frames(4, 8, 2)
    x = noise(table) + np.stack([direction(1, t, width=40) for t in table["task_id"]])
    features, labels = made_of(table, x)
    short = TrainingConfig(learning_rate=1e-5, num_epochs=2)
    result = probe(features, labels, short, EvaluationConfig(permutations=0))
    row = result.tables["scores"].iloc[0]
    assert row["closed_form_accuracy"] > row["accuracy"] + 0.3
    assert sum("where ridge regression in closed form reaches" in warning for warning in result.warnings) == 1
    whole = probe(features, labels, FAST, EvaluationConfig(permutations=0))
    assert not any("where ridge regression" in warning for warning in whole.warnings)


def test_label_embeddings_that_cap_the_accuracy_are_named():
    table = frames(6, 8, 1)
    x = noise(table) + np.stack([direction(1, t, width=40) for t in table["task_id"]])
    features, apart = made_of(table, x)
    # the second instruction is nearly the first, and differs from it by what makes the third
    near = apart.embeddings.copy()
    near[1] = near[0] + 0.05 * near[2]
    alike = dataclasses.replace(apart, embeddings=near / np.linalg.norm(near, axis=1, keepdims=True))
    config = EvaluationConfig(permutations=0)
    said = [
        [w for w in probe(features, labels, FAST, config).warnings if "cap the accuracy" in w]
        for labels in (apart, alike)
    ]
    assert said[0] == []
    assert "nearest are instructions 0 and 1" in said[1][0]


def test_features_that_cannot_be_scored_are_named():
    table = frames(3, 4, 2)
    x = noise(table)
    x[3, 5] = np.nan
    with pytest.raises(AnalysisError, match=r"not finite in episode 0-1, timestep 1: .*--exclude-episodes"):
        probe(*made_of(table, x), FAST, EvaluationConfig())
    with pytest.raises(AnalysisError, match="the same in every frame"):
        probe(*made_of(table, np.ones((len(table), 40))), FAST, EvaluationConfig())


def test_timesteps_that_tell_the_instruction_are_named():
    # longer episodes of one instruction: whatever drifts with time would know it
    table = pd.concat([frames(4, 6, 3), frames(4, 6, 9).query("task_id == 2 and timestep >= 3")], ignore_index=True)
    result = probe(*made_of(table, noise(table)), FAST, EvaluationConfig(permutations=39))
    assert any("timesteps of the frames alone tell the instruction" in warning for warning in result.warnings)
    equal = probe(*made_of(frames(4, 6, 3), noise(frames(4, 6, 3))), FAST, EvaluationConfig(permutations=39))
    assert not any("timesteps" in warning for warning in equal.warnings)


def test_instructions_that_were_told_in_few_episodes_are_counted():
    table = frames(3, 8, 1).query("task_id == 0 or episode_index < 2").reset_index(drop=True)
    warnings = Design.of(table, instruction_labels(table, encode), EvaluationConfig()).warnings
    assert sum("2 instructions occur in fewer than 4 episodes" in warning for warning in warnings) == 1
    even = frames(3, 4, 1)
    assert not Design.of(even, instruction_labels(even, encode), EvaluationConfig()).warnings


def test_the_verdict_says_what_planted_and_null_features_allow():
    table = frames(4, 6, 1)
    config = EvaluationConfig(permutations=19)
    planted = noise(table) + 2 * np.stack([direction(1, t, width=40) for t in table["task_id"]])
    for x, said in (
        (planted, "The instruction can be told from others here (rank accuracy 1.000, chance 0.5; p = 0.05)."),
        (noise(table), "Whether the instruction can be read here cannot be concluded"),
    ):
        assert verdict(probe(*made_of(table, x), FAST, config)).startswith(said)
    # too few permutations for a p value of 0.05: the closed form's has 199
    few = verdict(probe(*made_of(table, planted), FAST, EvaluationConfig(permutations=5)))
    assert few.startswith(
        "The instruction can be told from others here (of ridge regression, rank accuracy; p = 0.005)."
    )
    # a scene each instruction, so that knowing the scene is enough; and where all begin in one scene, it is not
    assert "But the scene alone tells it (1.00): that a state knows more than its scene cannot be concluded" in few
    one = probe(*made_of(table.assign(scene="s/0"), planted), FAST, EvaluationConfig(permutations=5))
    assert "But the scene" not in verdict(one)


def test_the_verdict_claims_nothing_where_few_labels_may_move():
    # one episode of each instruction in a fold: few arrangements, however plainly the instruction can be read
    table = frames(2, 3, 1)
    x = 0.1 * noise(table) + np.stack([direction(1, t, width=40) for t in table["task_id"]])
    result = probe(*made_of(table, x), FAST, EvaluationConfig(folds=3, permutations=19))
    assert result.tables["scores"]["accuracy"].tolist() == [1.0]
    assert any("the design leaves only 8 arrangements" in warning for warning in result.warnings)
    assert not verdict(result).startswith("The instruction can be told")
