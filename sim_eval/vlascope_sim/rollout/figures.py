"""A campaign's results as one figure: success by task, policy latency, steps of successes. Drawn without a display."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from vlascope_base.files import replacing

from vlascope_sim.rollout.results import EpisodeResult
from vlascope_sim.statistics import percentiles, wilson_interval

INK, QUIET, GRID = "#1b2430", "#667085", "#e4e7ec"
FIRST, LIGHT, SECOND, ALERT = "#1f5fa8", "#c6dbea", "#d9772b", "#b42318"
_NAME_COLUMNS, _LONG_NAME, _BINS = 33, 56, 36
_FEW, _MANY = 5, 20
"""Tasks up to which all panels stand in one line, and beyond which a task's name has one line."""
_ROW, _SIDE, _MARGINS = 0.46, 2.35, 1.5
"""Inches: a task's row at most, a panel of the right column, everything round the panels."""


@dataclasses.dataclass(frozen=True)
class _TaskRow:
    """What the first panel shows of one task; `told` of those that were told an object, `obeyed` lifted it first."""

    name: str
    done: int
    wins: int
    errors: int
    told: int
    obeyed: int


def results_figure(rows: Sequence[EpisodeResult], title: str, subtitle: str = "") -> Figure:
    """The figure of a campaign.

    Left, a bar a task: the share of its episodes that succeeded, with its 95 % Wilson interval and counts; where episodes
    were told another object than their task's, also in how many that object was lifted first. Right, the latency of every
    inference with its 50th, 95th and 99th percentile, and the steps that successes took.

    Args:
        rows: one an episode (`results.final_rows`); those that ended as errors are counted, and in no rate.
        title: of the figure.
        subtitle: what was run.
    """
    tasks = _tasks(rows)
    figure, success, latency, steps = _panels(len(tasks))
    _draw_success(success, tasks)
    done = [row for row in rows if row.status == "done"]
    _draw_latency(latency, [ms for row in done for ms in row.latency_ms])
    _draw_steps(steps, [row.steps for row in done if row.success])
    columns = figure.get_figwidth() * 14
    above, below = textwrap.wrap(title, int(columns * 0.62)), textwrap.wrap(subtitle, int(columns))
    figure.suptitle("\n".join(above), x=0.012, ha="left", size=13, weight="bold", color=INK)
    figure.supxlabel("\n".join(below), x=0.012, ha="left", size=8.5, color=QUIET)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a PNG; replaces the file whole."""
    with replacing(path) as partial:
        figure.savefig(partial, dpi=160, format="png")


def _panels(tasks: int) -> tuple[Figure, Axes, Axes, Axes]:
    """A figure with room for so many tasks: for success, latency and steps."""
    if tasks <= _FEW:
        figure = Figure(figsize=(14, _SIDE + _MARGINS), layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        success, latency, steps = figure.subplots(1, 3, width_ratios=[1.7, 1, 1])
        return figure, success, latency, steps
    body = max(2 * _SIDE, (_ROW if tasks <= _MANY else _ROW / 2) * tasks + 0.5)
    figure = Figure(figsize=(11.5, body + _MARGINS), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    heights = [_SIDE, _SIDE, body - 2 * _SIDE] if body > 2 * _SIDE + 0.1 else [_SIDE, _SIDE]
    grid = figure.add_gridspec(len(heights), 2, width_ratios=[1.55, 1], height_ratios=heights, wspace=0.04)
    return figure, figure.add_subplot(grid[:, 0]), figure.add_subplot(grid[0, 1]), figure.add_subplot(grid[1, 1])


def _tasks(rows: Sequence[EpisodeResult]) -> list[_TaskRow]:
    by_task: dict[int, list[EpisodeResult]] = {}
    for row in rows:
        by_task.setdefault(row.task_id, []).append(row)
    found = []
    for number, own in sorted(by_task.items()):
        done = [row for row in own if row.status == "done"]
        told = [row for row in done if row.prompt_mode in ("other", "crossed") and row.told_object is not None]
        found.append(
            _TaskRow(
                name=f"{_name(own[0].task_instruction, 1 if len(by_task) > _MANY else 2)}  {number:>2}",
                done=len(done),
                wins=sum(bool(row.success) for row in done),
                errors=len(own) - len(done),
                told=len(told),
                obeyed=sum(row.lifted_first == row.told_object for row in told),
            )
        )
    return found


def _name(task: str, lines: int) -> str:
    """A task's own words in so many lines, cut where they are too long."""
    if lines == 1:
        return textwrap.shorten(task, _LONG_NAME, placeholder=" …")
    wrapped = textwrap.wrap(task, _NAME_COLUMNS)
    rest = textwrap.shorten(" ".join(wrapped[lines - 1 :]), _NAME_COLUMNS, placeholder=" …")
    return "\n".join([*wrapped[: lines - 1], rest]) if len(wrapped) > lines else "\n".join(wrapped)


def _draw_success(axes: Axes, tasks: list[_TaskRow]) -> None:
    """One bar a task, the first on top."""
    shows_told = any(task.told for task in tasks)
    shift = 0.2 if shows_told else 0.0
    bars = axes.barh(
        [place - shift for place in range(len(tasks))],
        [task.wins / task.done if task.done else 0.0 for task in tasks],
        height=0.36 if shows_told else 0.6,
        color=LIGHT,
    )
    for place, (task, bar) in enumerate(zip(tasks, bars, strict=True)):
        middle = bar.get_y() + bar.get_height() / 2
        _interval(axes, middle, task.wins, task.done, FIRST)
        if shows_told:
            _interval(axes, place + shift, task.obeyed, task.told, SECOND)
        counts = f"{task.wins}/{task.done}" if task.done else "none"
        axes.text(1.025, middle, counts, va="center", size=8.5, color=INK if task.done else QUIET)
        if shows_told and task.told:
            axes.text(1.025, place + shift, f"{task.obeyed}/{task.told}", va="center", size=8.5, color=SECOND)
        if task.errors:
            text = f"{task.errors} error{'s' if task.errors > 1 else ''}"
            axes.text(1.125, middle, text, va="center", size=8.5, color=ALERT)
    what = "success by scene, each told another object" if shows_told else "success by task"
    axes.set_title(f"{what}: share, 95 % interval, counts", loc="left", size=10, color=INK)
    axes.set_yticks(range(len(tasks)), [task.name for task in tasks])
    axes.set_ylim(len(tasks) - 0.4, -0.6)
    axes.set_xlim(0, 1.25 if any(task.errors for task in tasks) else 1.12)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    _dress(axes, grid="x")
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(axis="both", length=0, labelsize=8.5)
    if shows_told:
        height = axes.figure.get_figheight() - _MARGINS  # pyright: ignore[reportAttributeAccessIssue]
        axes.plot([], [], "o-", ms=5, color=FIRST, label="told goal reached")
        axes.plot([], [], "o-", ms=5, color=SECOND, label="told object lifted before any other")
        axes.legend(
            frameon=False, fontsize=8.5, labelcolor=QUIET, ncols=2,
            loc="upper left", bbox_to_anchor=(0, -0.3 / height), borderaxespad=0,
        )  # fmt: skip


def _interval(axes: Axes, place: float, count: int, trials: int, colour: str) -> None:
    if trials:
        axes.plot(wilson_interval(count, trials), [place, place], color=colour, lw=1.6, solid_capstyle="butt")
        axes.plot(count / trials, place, "o", ms=5.5, color=colour, mec="white", mew=0.9, clip_on=False, zorder=4)


def _draw_latency(axes: Axes, milliseconds: list[float]) -> None:
    axes.set_title(f"policy latency, {len(milliseconds)} inferences", loc="left", size=10, color=INK)
    latency = percentiles(milliseconds)
    if latency is None:
        _empty(axes, "nothing was asked")
        return
    # A few cold inferences would squeeze all others into one bin; what lies beyond is counted in words.
    low, tail = min(milliseconds), latency["p99"] + 0.35 * (latency["p99"] - min(milliseconds))
    high = max(min(tail, low + 3 * (latency["p95"] - low)), low + 1e-3)
    beyond = sum(ms > high for ms in milliseconds)
    axes.hist(milliseconds, bins=_BINS, range=(low, high), color=LIGHT, edgecolor="white", lw=0.6)
    top = axes.get_ylim()[1]
    axes.set_ylim(0, top * 1.25)
    for name, colour in (("p50", FIRST), ("p95", SECOND), ("p99", ALERT)):
        shown = [latency[name]] * 2 if latency[name] <= high else [np.nan] * 2
        axes.plot(shown, [0, top], color=colour, lw=1.6, label=f"{name}  {_readable(latency[name])}")
    axes.legend(
        frameon=False, fontsize=8.5, labelcolor="linecolor", ncols=3, loc="upper left", handlelength=0.9, borderpad=0.1,
        columnspacing=1.2, handletextpad=0.5,
    )  # fmt: skip
    more = f"\n{beyond} took longer, up to {_readable(max(milliseconds))} ms" if beyond else ""
    axes.set_xlabel(f"ms from request to actions{more}")
    axes.set_ylabel("inferences")
    _dress(axes, grid="y")


def _draw_steps(axes: Axes, steps: list[int]) -> None:
    axes.set_title(f"steps of {len(steps)} successes", loc="left", size=10, color=INK)
    if not steps:
        _empty(axes, "no episode succeeded")
        return
    low, high = min(steps), max(steps)
    width = max(1, int(np.ceil((high - low + 1) / 24)))
    edges = [edge - 0.5 for edge in range(low, high + width + 1, width)]
    axes.hist(steps, bins=edges, color=LIGHT, edgecolor="white", lw=0.6)
    top, median = axes.get_ylim()[1], float(np.median(steps))
    axes.set_ylim(0, top * 1.2)
    axes.plot([median] * 2, [0, top * 1.08], color=FIRST, lw=1.5)
    near_edge = median > low + 0.6 * (high - low)
    axes.annotate(
        f"median  {median:g}", (median, top * 1.08), xytext=(-5 if near_edge else 5, 0), textcoords="offset points",
        va="center", ha="right" if near_edge else "left", size=8.5, color=FIRST,
    )  # fmt: skip
    axes.set(xlabel="environment steps", ylabel="episodes")
    _dress(axes, grid="y")


def _readable(number: float) -> str:
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}"


def _empty(axes: Axes, words: str) -> None:
    axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center", size=9.5, color=QUIET)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_color(GRID)


def _dress(axes: Axes, *, grid: str) -> None:
    """Quiet axes: no box, small grey ticks, lines across the bars only."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(QUIET)
    axes.tick_params(colors=QUIET, labelsize=9, labelcolor=INK, length=3)
    axes.xaxis.label.set(size=9.5, color=INK)
    axes.yaxis.label.set(size=9.5, color=INK)
    axes.grid(axis=grid, color=GRID, lw=0.8)  # pyright: ignore[reportArgumentType]
    axes.set_axisbelow(True)
    if grid == "y":
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
