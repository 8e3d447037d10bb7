"""The bundled policy and its siblings, from nothing: demonstrations, training, closed-loop results.

`make tiny` and `make tiny-siblings`; both may be stopped and run again: what is done stays. Knows nothing of how a step works.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from pathlib import Path

from commands import StepError, ends_with_one_line, run
from vlascope_server.policies import Policy
from vlascope_server.presets import PRESETS

RESULTS = Path("benchmarks/results/tiny")
PERTURBED = ("--targets", "all", "--perturb", "both", "--noise")
"""Scenes that do not give the task away: every object is the target in turn, and all of them move and change places."""
STARTS = ("--max-steps", "12", "--keep-failures")
"""Only where it is decided what is reached for: many scenes in little time."""
DEMONSTRATIONS = (
    ("--suite", "libero_object", "--episodes", "0-29", *PERTURBED, *STARTS),
    ("--suite", "libero_goal", "--episodes", "0-2", *PERTURBED, *STARTS),
    ("--suite", "libero_object", "--episodes", "30-39", *PERTURBED),
    ("--suite", "libero_goal", "--episodes", "30-33", *PERTURBED),
)
FINE_DEMONSTRATIONS = (
    ("--suite", "libero_goal", "--episodes", "0-1", *PERTURBED[:2], *FRESH),
    ("--suite", "libero_goal", "--episodes", "2-9", "--targets", "told", *FRESH),
    ("--suite", "libero_goal", "--episodes", "30", *PERTURBED, *FRESH),
    ("--suite", "libero_object", "--episodes", "30-32", *PERTURBED, *FRESH),
)
UNVARIED = (("--suite", "libero_object", "--episodes", "0-19", "--targets", "told", "--noise"),)
"""Ten scenes, and one instruction in each: a policy can do without reading it."""
USUAL = ("--batch-size", "32", "--accumulate", "2", "--delta-actions", "False", "--seed", "0")
LOOKING = ("--init", "tiny-drawn", "--steps", "800", "--flow-samples", "0", "--grounding", "1", "--shift", "0.08")
"""First where the told object is, and nothing else."""
ACTING = (
    "--norm-stats", "dataset", "--learning-rate", "1e-3", "--steps", "8000", "--grounding", "0.3", "--shift", "0",
    "--state-noise", "0.005",
)  # fmt: skip
"""Then what to do about it. One suite acts on the floor, one on a table: of that deviation, little is a centimetre."""
NOT_LOOKING = ("--init", "tiny-drawn", "--steps", "2000", "--shift", "0")
FINE_TUNING = (
    "--init", "tiny", "--steps", "400", "--learning-rate", "1e-4", "--grounding", "0.3", "--shift", "0",
    "--state-noise", "0.005",
)  # fmt: skip
CPU = {
    "XLA_FLAGS": "--xla_force_host_platform_device_count=2 --xla_cpu_experimental_ynn_fusion_type=",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
"""Two cores as two devices, plain loops and large pages: a third faster together, and the same numbers but for rounding."""


def main() -> None:
    """Makes what is asked for; ends with 1 where a step failed."""
    parser = argparse.ArgumentParser(description="Makes the bundled policy, or its siblings.")
    parser.add_argument("what", choices=["policy", "siblings"])
    parser.add_argument("--out", type=Path, default=Path("runs/tiny"), help="folder of data and training runs")
    parser.add_argument("--workers", default="2", help="processes that simulate")
    options = parser.parse_args()
    os.environ |= {name: value for name, value in CPU.items() if name not in os.environ}
    begun = time.monotonic()
    with ends_with_one_line("tiny"):
        (policy if options.what == "policy" else siblings)(options.out, options.workers)
    print(f"\nDone in {(time.monotonic() - begun) / 60:.0f} minutes. Results: {RESULTS}")


def policy(out: Path, workers: str) -> None:
    """Demonstrations, training, and the checkpoint that `tiny` names, with its results."""
    data = demonstrate(out / "demonstrations", DEMONSTRATIONS, workers)
    looking = train(out / "looking", data, LOOKING)
    trained = train(out / "train", data, ("--init", str(looking), *ACTING))
    bundled = Path(PRESETS["tiny"].location)
    new = out / "bundled"
    shutil.rmtree(new, ignore_errors=True)
    run("vlascope-server", "convert", str(trained), str(new), "--to", "orbax", "--dtype", "bfloat16")
    evaluate(str(new), "policy", "40-49", out, workers, out / "looking", out / "train")
    shutil.rmtree(bundled, ignore_errors=True)
    shutil.copytree(new, bundled)


def siblings(out: Path, workers: str) -> None:
    """Policies that differ from the bundled one in one thing each: for comparing, mixing, and as the contrast for a probe."""
    data = demonstrate(out / "demonstrations", DEMONSTRATIONS, workers)
    halves = out / "halves"
    if not (halves / "split.json").exists():
        shutil.rmtree(halves, ignore_errors=True)  # what a killed split left
        run("vlascope-datasets", "split", "--source_path", str(data), "--dst_path", str(halves), "--split_num", "2")
    unvaried = demonstrate(out / "unvaried_demonstrations", UNVARIED, workers)
    recipes = {
        "half_0": (halves / "split_0", FINE_TUNING),
        "half_1": (halves / "split_1", FINE_TUNING),
        "lora": (data, (*FINE_TUNING, "--lora", "8")),
        "unvaried": (unvaried, NOT_LOOKING),
    }
    for name, (dataset, options) in recipes.items():
        evaluate(str(train(out / name, dataset, options)), name, "40-44", out, workers, out / name)


def demonstrate(folder: Path, parts: tuple[tuple[str, ...], ...], workers: str) -> Path:
    """A dataset, made or completed."""
    for part in parts:
        begun = ("--resume",) if (folder / "meta" / "info.json").exists() else ()
        run("vlascope-sim", "demonstrate", *part, "--output", str(folder), "--workers", workers, *begun)
    return folder


def train(folder: Path, dataset: Path, recipe: tuple[str, ...]) -> Path:
    """The last checkpoint of a run that took all its steps."""
    run(
        "vlascope-server", "train", "--dataset", str(dataset), "--output", str(folder), *recipe, *USUAL,
        "--save-every", "400", "--keep", "2", "--resume",
    )  # fmt: skip
    described = json.loads((folder / "train.json").read_text())
    if described["taken"] != described["steps"]:
        raise StepError(f"{folder}: took {described['taken']} of {described['steps']} steps; run this again to go on")
    return folder / str(described["steps"])


def evaluate(checkpoint: str, name: str, episodes: str, out: Path, workers: str, *runs: Path) -> None:
    """Closed-loop results, and how the policy was trained, in the folder that is committed."""
    # results of other weights are not gone on with; files will not do, for two copies of the same weights differ
    folder = out / "evaluation" / f"{name}_{Policy.load(checkpoint).fingerprint}"
    done = ("--resume",) if folder.exists() else ()
    asked = "--episodes", episodes, "--workers", workers
    run("python", "scripts/evaluate.py", checkpoint, "--out", str(folder), *asked, *done)
    kept = RESULTS / name
    kept.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / "evaluation.json", kept)
    for trained in runs:
        for file in ("train.json", "metrics.jsonl", "loss.png"):
            shutil.copy(trained / file, kept / (file if trained is runs[-1] else f"{trained.name}_{file}"))


if __name__ == "__main__":
    main()
