"""The figure of a campaign shows every task, its counts and its interval, and what was told."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from vlascope_sim.rollout.campaign import Campaign
from vlascope_sim.rollout.figures import results_figure, save_figure
from vlascope_sim.rollout.results import EpisodeResult
from vlascope_sim.rollout.summary import headline
from vlascope_sim.statistics import wilson_interval

from tests.sim_eval.campaigns import campaign, row


def rows_of(ours: Campaign, wins: int) -> list[EpisodeResult]:
    """The first `wins` episodes of each task succeed after 50, 60, … steps."""
    return [
        row(ours, key, success=key.episode < wins, steps=50 + 10 * key.episode, latency_ms=(10.0, 20.0, 30.0))
        for key in ours.keys
    ]


def heights(axes: Axes) -> float:
    """Of all bars together."""
    return sum(bar.get_height() for bar in axes.patches if isinstance(bar, Rectangle))


def texts(figure: Figure, axes: int) -> list[str]:
    return [text.get_text() for text in figure.axes[axes].texts]


def test_a_bar_a_task_with_its_interval_and_counts():
    ours = campaign(tasks=(0, 4, 7), episodes=tuple(range(10)))
    rows = [*rows_of(ours, 4)[:-1], row(ours, ours.keys[-1], status="error", success=None, latency_ms=())]
    figure = results_figure(rows, "title")
    success, latency, steps = figure.axes
    assert [bar.get_width() for bar in success.patches if isinstance(bar, Rectangle)] == [0.4, 0.4, 4 / 9]
    assert texts(figure, 0) == ["4/10", "4/10", "4/9", "1 error"]
    spans = [tuple(line.get_xdata()) for line in success.lines if len(line.get_xdata()) == 2]
    np.testing.assert_allclose(spans, [wilson_interval(4, 10)] * 2 + [wilson_interval(4, 9)])
    assert [label.get_text().replace("\n", " ").split()[-1] for label in success.get_yticklabels()] == ["0", "4", "7"]
    assert heights(latency) == 29 * 3
    legend = latency.get_legend()
    assert legend
    assert [text.get_text() for text in legend.get_texts()] == ["p50  20", "p95  30", "p99  30"]
    assert heights(steps) == 12
    assert texts(figure, 2) == ["median  65"]


def test_one_cold_inference_does_not_hide_the_others():
    ours = campaign(episodes=(0,))
    milliseconds = (*np.linspace(40, 50, 40), 4000.0)
    latency = results_figure([row(ours, ours.keys[0], latency_ms=milliseconds)], "title").axes[1]
    assert heights(latency) == 40
    assert latency.get_xlim()[1] < 80
    assert "1 took longer, up to 4000 ms" in latency.get_xlabel()


def test_what_was_told_has_an_interval_of_its_own():
    ours = campaign(tasks=(0, 1), episodes=(0, 1), prompt_mode="other")
    rows = [row(ours, key, success=False, lifted_first=ours.told(key).object) for key in ours.keys]
    assert texts(results_figure(rows, "title"), 0) == ["0/2", "2/2", "0/2", "2/2"]
    plain = campaign(tasks=(0,))
    rows = [row(plain, key, lifted_first="alphabet_soup_1") for key in plain.keys]
    assert texts(results_figure(rows, "title"), 0) == ["2/2"]


@pytest.mark.parametrize("tasks", [1, 10, 90])
def test_it_is_a_picture_whatever_the_number_of_tasks(tmp_path, tasks):
    ours = campaign(suite="libero_90", tasks=tuple(range(tasks)), episodes=(0, 1))
    rows = rows_of(ours, 1)
    figure = results_figure(rows, headline("libero_90", rows), "stand-in assets")
    assert len(figure.axes[0].patches) == tasks
    save_figure(figure, tmp_path / "summary.png")
    with Image.open(tmp_path / "summary.png") as picture:
        pixels = np.asarray(picture.convert("L"))
    assert pixels.shape[1] >= 1800
    assert 0.01 < (pixels < 200).mean() < 0.5
    assert [path.name for path in tmp_path.iterdir()] == ["summary.png"]


def test_a_campaign_without_successes_or_without_any_result_says_so():
    ours = campaign()
    failed = [row(ours, key, success=False, latency_ms=()) for key in ours.keys]
    figure = results_figure(failed, headline("libero_object", failed))
    assert (texts(figure, 1), texts(figure, 2)) == (["nothing was asked"], ["no episode succeeded"])
    broken = [row(ours, key, status="error", success=None) for key in ours.keys]
    assert headline("libero_object", broken) == "libero_object: no episode could be run"
    assert texts(results_figure(broken, "title"), 0) == ["none", "2 errors"]
    assert headline("x", rows_of(ours, 1)) == "x: 1 of 2 episodes succeeded (50%, 95% interval 9% to 91%)"
