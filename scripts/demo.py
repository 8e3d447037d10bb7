"""The main job, end to end: a policy server, rollouts with capture, a probe and a sweep of what was captured.

Runs the commands that a person would type, and shows each; docs/tutorial.md follows it line by line.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from commands import BIN, StepError, ends_with_one_line, run, server
from vlascope_base.provenance import now_for_names


def main() -> None:
    """Runs the demo; ends with 0 only where every step did what it should."""
    parser = argparse.ArgumentParser(description="The main job, end to end, in a few minutes on two cores.")
    parser.add_argument("--out", type=Path, default=Path("demo") / now_for_names(), help="new folder of results")
    parser.add_argument("--checkpoint", default="tiny", help="policy to serve")
    parser.add_argument("--tasks", default="0-4", help="of libero_object, inclusive")
    parser.add_argument("--episodes", default="0-3", help="of each task, inclusive")
    parser.add_argument("--max-steps", default="120", help="environment steps of an episode")
    parser.add_argument("--workers", default="2", help="processes that simulate")
    options = parser.parse_args()
    begun = time.monotonic()
    with ends_with_one_line("demo"):
        made = demo(options)
    print(f"\nDone in {time.monotonic() - begun:.0f} s. What it made:\n")
    width = max(len(str(path)) for path, _ in made)
    for path, what in made:
        print(f"  {path!s:<{width}}  {what}")
    print(
        f"\nLook further:\n  {BIN / 'vlascope-latents'} ls {options.out / 'runs'}\n  {BIN / 'vlascope-analysis'} probe --help"
    )
    print("  docs/tutorial.md explains every line above.")


def demo(options: argparse.Namespace) -> list[tuple[Path, str]]:
    """The steps; what they made, each with a line that says what it is."""
    out: Path = options.out
    if out.exists():
        raise StepError(f"{out}: exists; expected a new folder")
    runs, rollouts, probe, sweep = out / "runs", out / "rollouts", out / "probe", out / "sweep"
    out.mkdir(parents=True)
    print(f"A LIBERO simulation asks the policy {options.checkpoint!r}; its hidden states are kept and probed.\n")
    with server("--checkpoint", options.checkpoint, "--store", str(runs), "--seed", "0", log=out / "server.log") as url:
        run(
            "vlascope-sim", "rollout", "--server", url, "--suite", "libero_object", "--tasks", options.tasks,
            "--episodes", options.episodes, "--max-steps", options.max_steps, "--stride", "10", "--collect-latents",
            "--render", "fast", "--workers", options.workers, "--seed", "0", "--output", str(rollouts),
        )  # fmt: skip
    run("vlascope-latents", "verify", str(runs))
    text = ("--layer", "5", "--rollout-step", "10", "--output-dir", str(probe))
    run("vlascope-analysis", "probe", str(runs), "--expert", "text_only", *text)
    run("vlascope-analysis", "probe", str(runs), "--expert", "action", *text)
    run("vlascope-analysis", "sweep", str(runs), "--output-dir", str(sweep))
    made = [(next(runs.iterdir()), "the run: hidden states of every 10th step, any Zarr reader opens it")]
    made += [(rollouts, f"rollouts: {count(rollouts, '*.mp4')} videos, results of every episode, configuration")]
    made += [(path, "probe: does this layer hold the instruction?") for path in found(probe, "summary_*.txt")]
    made += [(path, "probe: which instructions are taken for which") for path in found(probe, "confusion_*.png")]
    made += [(path, "sweep: every layer, denoise step and expert") for path in found(sweep, "*.png")]
    return made


def found(folder: Path, pattern: str) -> list[Path]:
    """Files that a step made.

    Raises:
        StepError: there is none.
    """
    paths = sorted(folder.rglob(pattern))
    if not paths:
        raise StepError(f"{folder}: expected {pattern}, found none")
    return paths


def count(folder: Path, pattern: str) -> int:
    """How many files a step made."""
    return len(found(folder, pattern))


if __name__ == "__main__":
    main()
