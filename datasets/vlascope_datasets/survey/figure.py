"""`dataset_statistics.png`: six panels, drawn from what `dataset_statistics.json` holds and nothing else."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from vlascope_base.text import readable_bytes

from vlascope_datasets.survey.episodes import Summary

INK, MUTED, GRID = "#1f2933", "#6b7785", "#e4e8ec"
BLUE, SKY, AMBER, RED, GREEN = "#2f6db5", "#a9c8ea", "#e0912f", "#c8413b", "#2f8f6b"
_TASKS_SHOWN = 9
_STYLE: Any = {
    "font.size": 10,
    "font.family": "DejaVu Sans",
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 12,
}


def draw(summary: Summary, path: Path) -> None:
    """Draws a summary.

    Args:
        summary: as `summarise` makes it.
        path: of the figure; its suffix says which format.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(16.5, 9.6), facecolor="white")
        FigureCanvasAgg(figure)
        grid = figure.add_gridspec(
            2, 3, left=0.05, right=0.975, top=0.83, bottom=0.075, hspace=0.42, wspace=0.2, width_ratios=(1, 1, 1.1)
        )
        axes = [figure.add_subplot(grid[row, column]) for row in range(2) for column in range(3)]
        _heading(figure, summary)
        for panel, axis in zip((_lengths, _actions, _tasks, _order, _directions, _anomalies), axes, strict=True):
            panel(axis, summary)
        figure.savefig(path, dpi=110)


def _heading(figure: Figure, summary: Summary) -> None:
    name = Path(summary["path"]).resolve().name
    figure.text(0.05, 0.945, _short(name, 60), fontsize=20, fontweight="bold", color=INK)
    said = [summary["format"], summary["robot_type"], f"{summary['fps']:g} frames/s" if summary["fps"] else None]
    figure.text(0.05, 0.912, "  ·  ".join(part for part in said if part), fontsize=11.5, color=MUTED)
    count = summary["anomalies"]["count"]
    numbers = [
        (f"{summary['total_episodes']:,}", "episodes", INK),
        (f"{summary['total_frames']:,}", "frames", INK),
        (f"{len(summary['tasks']):,}", "tasks", INK),
        (readable_bytes(summary["total_bytes"], 3), "on disk", INK),
        (f"{count:,}", "anomalies" if count != 1 else "anomaly", RED if count else GREEN),
    ]
    for place, (number, label, colour) in enumerate(numbers):
        x = 0.975 - 0.094 * (len(numbers) - 1 - place)
        figure.text(x, 0.945, number, fontsize=18, fontweight="bold", color=colour, ha="right")
        figure.text(x, 0.914, label, fontsize=10.5, color=MUTED, ha="right")


def _lengths(axis: Axes, summary: Summary) -> None:
    frames = [episode["frames"] for episode in summary["episodes"]]
    axis.set_title("Length of episodes")
    axis.set_xlabel("frames")
    axis.set_ylabel("episodes")
    axis.grid(axis="x", visible=False)
    if not frames:
        return
    spread = summary["lengths"]
    width = max(1, round((spread["max"] - spread["min"]) / 24))
    edges = [spread["min"] - 0.5 + width * n for n in range(int((spread["max"] - spread["min"]) // width) + 2)]
    axis.hist(frames, bins=edges, color=BLUE, edgecolor="white", linewidth=0.8)
    if spread["min"] == spread["max"]:
        axis.set_xlim(spread["min"] - 5, spread["min"] + 5)
    axis.axvline(spread["median"], color=AMBER, linewidth=2)
    axis.margins(y=0.16)
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    seconds = f" ({spread['median'] / summary['fps']:.1f} s)" if summary["fps"] else ""
    right = spread["median"] < (spread["min"] + spread["max"]) / 2
    axis.annotate(
        f"median {spread['median']:g}{seconds}", (spread["median"], 1), xycoords=("data", "axes fraction"),
        xytext=(6 if right else -6, -4), textcoords="offset points", ha="left" if right else "right", va="top",
        color=AMBER, fontweight="bold", fontsize=9.5,
    )  # fmt: skip


def _tasks(axis: Axes, summary: Summary) -> None:
    counts = {task: each["episodes"] for task, each in summary["tasks"].items()}
    shown = dict(list(counts.items())[:_TASKS_SHOWN])
    rest = len(counts) - len(shown)
    title = f"Episodes by task ({len(shown)} most frequent of {len(counts)})" if rest else "Episodes by task"
    _bars(axis, title, shown, summary["balance"]["tasks"], BLUE)


def _directions(axis: Axes, summary: Summary) -> None:
    counts = dict(list(summary["directions"].items())[:_TASKS_SHOWN])
    if not counts:
        axis.set_title("Directions")
        _say(axis, "No instruction or file name says a direction.", MUTED)
        return
    without = summary["episodes_without_direction"]
    _bars(axis, "Directions" + (f" ({without} episodes say none)" if without else ""), counts,
          summary["balance"]["directions"], GREEN)  # fmt: skip


def _bars(axis: Axes, title: str, counts: dict[str, int], tested: Summary, colour: str) -> None:
    """Horizontal bars with their labels above them, so that an instruction has the whole width."""
    axis.set_title(title)
    places = range(len(counts))
    axis.barh(places, list(counts.values()), height=0.34, color=colour)
    longest = max(counts.values(), default=1)
    for place, (label, count) in enumerate(counts.items()):
        words = axis.text(0, place - 0.22, _short(label or "no instruction", 62), va="bottom", fontsize=9, color=INK)
        words.set_path_effects([withStroke(linewidth=3, foreground="white")])
        axis.text(count + 0.012 * longest, place, f"{count:,}", va="center", fontsize=9, color=MUTED, fontweight="bold")
    axis.set_ylim(max(len(counts), 5) - 0.4, -0.8)
    axis.set_xlim(0, longest * 1.1)
    axis.set_yticks([])
    axis.spines["left"].set_visible(False)
    axis.grid(axis="y", visible=False)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    if tested["p_value"] is None:
        return
    if longest * 1.1 > tested["expected"]:
        axis.axvline(tested["expected"], color=AMBER, linewidth=1.4, linestyle=(0, (4, 3)), zorder=2.5)
    verdict = "balanced" if tested["balanced"] else "unbalanced"
    p = "p < 0.001" if tested["p_value"] < 0.001 else f"p = {tested['p_value']:.2g}"
    few = "" if tested["reliable"] else ", few episodes"
    axis.set_xlabel(f"{verdict}: χ² = {tested['chi2']:.3g}, {p}{few}  (dashed: equal shares)")


def _actions(axis: Axes, summary: Summary) -> None:
    axis.set_title("Actions by dimension")
    if not summary["actions"]:
        _say(axis, "No actions of one width.", MUTED)
        return
    dimensions = summary["actions"]["dimensions"]
    boxes = [
        {"whislo": d["q01"], "q1": d["q25"], "med": d["q50"], "q3": d["q75"], "whishi": d["q99"], "fliers": []}
        for d in dimensions
    ]
    line = {"color": BLUE, "linewidth": 1.3}
    axis.bxp(
        boxes, positions=list(range(len(boxes))), widths=0.55, patch_artist=True, showfliers=False,
        boxprops={"facecolor": SKY, "edgecolor": BLUE}, whiskerprops=line, capprops=line,
        medianprops={"color": AMBER, "linewidth": 2},
    )  # fmt: skip
    labels = [_short(d["name"], 16) for d in dimensions]
    crowded = len(labels) > 8 or max(map(len, labels)) > 6
    step = -(-len(labels) // 24)
    axis.set_xticks(list(range(0, len(labels), step)), labels[::step], rotation=35 if crowded else 0,
                    ha="right" if crowded else "center", fontsize=9)  # fmt: skip
    axis.grid(axis="x", visible=False)
    axis.set_ylabel(summary["actions"]["key"])
    axis.text(
        1,
        1.02,
        "box: middle half, whiskers: 1 to 99 %",
        transform=axis.transAxes,
        ha="right",
        fontsize=8.5,
        color=MUTED,
    )


def _order(axis: Axes, summary: Summary) -> None:
    axis.set_title("Episodes in order")
    axis.set_xlabel("episode")
    axis.set_ylabel("frames")
    fine = [(n, e["frames"]) for n, e in enumerate(summary["episodes"]) if not e["anomalies"]]
    odd = [(n, e["frames"]) for n, e in enumerate(summary["episodes"]) if e["anomalies"]]
    size = 26 if len(summary["episodes"]) < 100 else 12 if len(summary["episodes"]) < 800 else 5
    for points, colour, label, bigger in ((fine, BLUE, "nothing found", 1), (odd, RED, "with an anomaly", 2)):
        if points:
            axis.scatter(
                *zip(*points, strict=True), s=size * bigger, color=colour, label=label, linewidths=0, alpha=0.85
            )
    axis.set_ylim(bottom=0)
    axis.margins(y=0.15)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    if odd:
        axis.text(1, 1.02, "red: with an anomaly", transform=axis.transAxes, ha="right", fontsize=8.5, color=RED)


def _anomalies(axis: Axes, summary: Summary) -> None:
    axis.set_title("Anomalies")
    kinds = dict(list(summary["anomalies"]["by_kind"].items())[:_TASKS_SHOWN])
    if not kinds:
        _say(axis, "None found.", GREEN)
        return
    _bars(axis, "Anomalies by kind", {k.replace("_", " "): n for k, n in kinds.items()}, {"p_value": None}, RED)
    axis.set_xlabel(f"in {len(summary['anomalies']['by_file'])} files; dataset_statistics.json names each")


def _say(axis: Axes, text: str, colour: str) -> None:
    axis.text(
        0.5, 0.5, textwrap.fill(text, 34), ha="center", va="center", transform=axis.transAxes, fontsize=12, color=colour
    )
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(visible=False)


def _short(text: str, limit: int) -> str:
    # a dollar sign would begin mathematics
    text = text.replace("$", r"\$")
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"
