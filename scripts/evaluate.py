"""What a LIBERO policy can do, and whether it listens: closed-loop rollouts under conditions that tell one from the other.

    python scripts/evaluate.py CHECKPOINT --out FOLDER [--only told,blank] [--episodes 40-49]

Each condition is one `vlascope-sim rollout` that can be typed by hand. `evaluation.json` in the output has the configuration,
the metrics, and the results of every episode. With `--resume` what is finished stays.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import yaml
from commands import StepError, ends_with_one_line, run, server
from vlascope_base.files import replace_json
from vlascope_client import PolicyClient
from vlascope_sim.environment import load_task
from vlascope_sim.rollout.results import RESULT_FILE, final_rows, read_results
from vlascope_sim.rollout.told import own_object
from vlascope_sim.statistics import wilson_interval

SEED = "1007"
"""Not that of the demonstrations: scenes that are perturbed here were never trained on, nor were initial states from 40 on."""


@dataclasses.dataclass(frozen=True)
class Condition:
    """One campaign.

    Attributes:
        name: of its folder.
        about: what it shows, in words for a table.
        score: what counts of an episode: `success`, `told` (the told object was lifted by 5 cm before any other) or `own` (the
            object of the scene's own task was, though nobody named it).
        goal: what a policy that acts and listens reaches; None where a lower score is the better one.
        options: of `vlascope-sim rollout`.
    """

    name: str
    about: str
    score: str
    goal: float | None
    options: tuple[str, ...]


def _picking(suite: str) -> str:
    """The suite's tasks of picking up and placing."""
    return ",".join(str(number) for number in range(10) if own_object(load_task(suite, number)))


_OBJECT, _GOAL = ("--suite", "libero_object"), ("--suite", "libero_goal")
CONDITIONS = (
    Condition("shipped", "libero_object, shipped states", "success", 0.8, _OBJECT),
    Condition("moved", "objects moved by up to 5 cm", "success", 0.6, (*_OBJECT, "--perturb", "move")),
    Condition("shuffled", "objects change places", "success", 0.6, (*_OBJECT, "--perturb", "shuffle")),
    Condition("goal", "libero_goal, pick-and-place tasks", "success", 0.5, (*_GOAL, "--tasks", _picking("libero_goal"))),
    Condition("told", "told another object of the scene: lifted first", "told", 0.6, (*_OBJECT, "--prompt-mode", "other")),
    Condition("blank", "told nothing: the task's object lifted first", "own", None, (*_OBJECT, "--prompt-mode", "blank")),
)  # fmt: skip


def main() -> None:
    """Runs the conditions; ends with 1 where a step failed, whatever the scores."""
    parser = argparse.ArgumentParser(description="Closed-loop rollouts that tell whether a policy acts, and listens.")
    parser.add_argument("checkpoint", help="folder, or preset's name")
    parser.add_argument("--out", type=Path, required=True, help="folder of results")
    parser.add_argument("--only", default=",".join(c.name for c in CONDITIONS), help="conditions, with commas between")
    parser.add_argument("--episodes", default="40-49", help="of each task, inclusive")
    parser.add_argument("--tasks", help="other than those of the condition, such as 0,3")
    parser.add_argument("--max-steps", help="environment steps of an episode; the suite's usual unless given")
    parser.add_argument("--workers", default="2", help="processes that simulate")
    parser.add_argument("--resume", action="store_true", help="go on in a folder that is there")
    options = parser.parse_args()
    path = options.out / "evaluation.json"
    with ends_with_one_line("evaluate"):
        found = evaluate(options)
        replace_json(path, found, indent=1)
    print(f"\n{table(found)}\n\n{path}")


def evaluate(options: argparse.Namespace) -> dict[str, Any]:
    """Runs one server and a campaign for each condition.

    Returns:
        As `evaluation.json` has it; with what other conditions gave in this folder before.

    Raises:
        StepError: a campaign failed, no such condition, or there are other results already and nobody said to go on.
    """
    out: Path = options.out
    known = {condition.name: condition for condition in CONDITIONS}
    names = options.only.split(",")
    if unknown := [name for name in names if name not in known]:
        raise StepError(f"only: {unknown[0]!r} is no condition; known: {', '.join(known)}")
    if out.exists() and not options.resume:
        raise StepError(f"{out}: exists; expected a new folder, or --resume")
    out.mkdir(parents=True, exist_ok=True)
    with server("--checkpoint", options.checkpoint, "--seed", "0", log=out / "server.log") as url:
        _same_policy(out, url)
        for name in names:
            folder, asked = out / name, (*_options(known[name], options.tasks), *_asked(options))
            _same_as_before(out / f"{name}.asked.json", asked)
            again = (
                ("--resume", str(folder), "--retry-errors") if folder.exists() else (*asked, "--output", str(folder))
            )
            run("vlascope-sim", "rollout", "--server", url, "--workers", options.workers, *again)
    there = [condition for condition in CONDITIONS if _is_whole(out / condition.name)]
    return {
        "about": "Closed loop on stand-in assets; says nothing of LIBERO's published scores.",
        "checkpoint": options.checkpoint,
        "conditions": {condition.name: describe(condition, out / condition.name) for condition in there},
    }


def _asked(options: argparse.Namespace) -> tuple[str, ...]:
    """What is the same for every condition."""
    asked = ("--episodes", options.episodes, "--seed", SEED, "--render", "fast", "--video", "none")
    return asked if options.max_steps is None else (*asked, "--max-steps", options.max_steps)


def _options(condition: Condition, tasks: str | None) -> tuple[str, ...]:
    """Those of a condition; with other tasks where they are asked for."""
    if tasks is None:
        return condition.options
    options = list(condition.options)
    if "--tasks" in options:
        place = options.index("--tasks")
        del options[place : place + 2]
    return (*options, "--tasks", tasks)


def _same_as_before(file: Path, asked: tuple[str, ...]) -> None:
    """Writes down what is asked of a condition before it begins: an interrupted one goes on with nothing else."""
    if file.exists() and tuple(json.loads(file.read_text())) != asked:
        raise StepError(f"{file}: says {' '.join(json.loads(file.read_text()))}; ask the same, or give a new --out")
    replace_json(file, asked, indent=None)


def _same_policy(out: Path, url: str) -> None:
    """One folder, and one table, is of one policy."""
    made = {json.loads(file.read_text())["server"]["fingerprint"] for file in out.glob("*/provenance.json")}
    with PolicyClient(url) as policy:
        now = policy.metadata.fingerprint
    if made - {now}:
        raise StepError(f"{out}: has results of {', '.join(sorted(made))}, the checkpoint is {now}; give a new --out")


def _is_whole(folder: Path) -> bool:
    summary = folder / "summary.json"
    return summary.exists() and json.loads(summary.read_text())["suite"]["missing"] == 0


def describe(condition: Condition, folder: Path) -> dict[str, Any]:
    """Metrics, configuration and episodes of a campaign that is done."""
    rows = [dataclasses.asdict(row) for row in final_rows(read_results(folder / RESULT_FILE))]
    done = [row for row in rows if row["status"] == "done"]
    scored = [counts(condition.score, row) for row in done]
    low, high = wilson_interval(sum(scored), len(scored))
    provenance = json.loads((folder / "provenance.json").read_text())
    # places and names on this machine
    provenance["assets"].pop("folder", None)
    provenance["machine"] = {"cores": provenance["machine"]["cores"]}
    kept = (
        "task_id", "episode_index", "init_state", "instruction", "told_object", "told_goal", "lifted_first", "success", "steps",
        "environment_seed", "noise_seed", "trajectory",
    )  # fmt: skip
    return {
        "about": condition.about,
        "score": condition.score,
        "goal": condition.goal,
        "count": sum(scored),
        "of": len(scored),
        "rate": round(sum(scored) / max(1, len(scored)), 3),
        "wilson_95": [round(low, 3), round(high, 3)],
        "chance": None if condition.goal is not None else round(_chance(done), 3),
        "errors": sum(row["status"] == "error" for row in rows),
        # but for its own id and the server's port, which are others each time
        "campaign": {
            name: value
            for name, value in yaml.safe_load((folder / "campaign.yaml").read_text()).items()
            if name not in ("id", "servers")
        },
        "provenance": provenance,
        "episodes": [{name: row[name] for name in kept} for row in done],
    }


def counts(score: str, row: dict[str, Any]) -> bool:
    """Whether an episode counts."""
    if score == "success":
        return bool(row["success"])
    wanted = row["told_object"] if score == "told" else own_object(load_task(row["suite"], row["task_id"]))
    return wanted is not None and row["lifted_first"] == wanted


def _chance(rows: list[dict[str, Any]]) -> float:
    """How often somebody who knows nothing lifts the task's own object first: 1 / objects that can be grasped."""
    from vlascope_sim.environment.goals import goals_of

    sizes = [len({goal.target for goal in goals_of(load_task(row["suite"], row["task_id"]), "all")}) for row in rows]
    return sum(1 / size for size in sizes) / max(1, len(sizes))


def table(found: dict[str, Any]) -> str:
    """The metrics as Markdown."""
    lines = ["| condition | episodes | score | 95% interval | goal |", "| --- | --- | --- | --- | --- |"]
    for one in found["conditions"].values():
        goal = f"{one['goal']:.0%}" if one["goal"] is not None else f"near {one['chance']:.0%}"
        low, high = one["wilson_95"]
        lines.append(f"| {one['about']} | {one['of']} | {one['rate']:.0%} | {low:.0%} to {high:.0%} | {goal} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
