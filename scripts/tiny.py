"""The bundled policy and its siblings, from nothing: demonstrations, training, closed-loop results.

`make tiny` and `make tiny-siblings`; both may be stopped and run again: what is done stays.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from pathlib import Path

from commands import StepError, ends_with_one_line, run
from vlascope_base.text import readable_duration
from vlascope_server.policies.pi0.policy import Pi0Policy
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
FRESH = ("--noise", "--seed", "8")
FINE_DEMONSTRATIONS = (
    ("--suite", "libero_goal", "--episodes", "0-1", "--targets", "all", *FRESH),
    ("--suite", "libero_goal", "--episodes", "2-9", "--targets", "told", *FRESH),
    ("--suite", "libero_goal", "--episodes", "30", "--targets", "all", "--perturb", "both", *FRESH),
    ("--suite", "libero_object", "--episodes", "30-31", "--targets", "all", "--perturb", "both", *FRESH),
)
"""For fine-tuning: whole ones, of another seed, half of them of libero_goal as it is shipped: one scene for every task."""
LORA_DEMONSTRATIONS = FINE_DEMONSTRATIONS[:1]
"""For adapters: the one scene of libero_goal, with every instruction that it has objects for."""
UNVARIED = (("--suite", "libero_object", "--episodes", "0-9", "--targets", "told", "--noise"),)
"""Ten scenes, and one instruction in each: a policy can do without reading it."""
USUAL = ("--batch-size", "32", "--accumulate", "2", "--delta-actions", "False", "--seed", "0")
LOOKING = ("--init", "tiny-drawn", "--flow-samples", "0", "--grounding", "1", "--shift", "0.08")
"""First where the told object is, and nothing else."""
AS_WELL = ("--grounding", "0.3", "--shift", "0", "--state-noise", "0.005")
"""With the actions: the question goes on beside them; cameras never move; of the state's deviation, little is a centimetre."""
ACTING = ("--norm-stats", "dataset", "--learning-rate", "1e-3", *AS_WELL)
"""Then what to do about it."""
FINISHING = ("--learning-rate", "5e-4", *AS_WELL)
"""At last where it is to act: unperturbed scenes of libero_goal are rare among the others."""
SIBLINGS = ("tiny-half-0", "tiny-half-1", "tiny-lora", "tiny-unvaried")
SIBLING = ("--init", "tiny", "--learning-rate", "1e-4", *AS_WELL)
JUDGED, SIBLING_JUDGED = ("--episodes", "40-49"), ("--episodes", "40-42", "--only", "shipped,goal,told,blank")
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
    print(f"\nDone in {readable_duration(time.monotonic() - begun)}. Results: {RESULTS}")


def policy(out: Path, workers: str) -> None:
    """Demonstrations, training, and the checkpoint that `tiny` names, with its results."""
    data = demonstrate(out / "demonstrations", DEMONSTRATIONS, workers)
    looking = train(out / "looking", data, 800, LOOKING)
    acting = train(out / "acting", data, 8000, ("--init", str(looking), *ACTING))
    fine = demonstrate(out / "fine_demonstrations", FINE_DEMONSTRATIONS, workers)
    trained = train(out / "finishing", fine, 1000, ("--init", str(acting), *FINISHING))
    bundled = Path(PRESETS["tiny"].location)
    new = out / "bundled"
    shutil.rmtree(new, ignore_errors=True)
    run("vlascope-server", "convert", str(trained), str(new), "--to", "orbax", "--dtype", "bfloat16")
    evaluate(new, "policy", JUDGED, out, workers, looking.parent, acting.parent, trained.parent)
    shutil.rmtree(bundled, ignore_errors=True)
    shutil.copytree(new, bundled)


def siblings(out: Path, workers: str) -> None:
    """Three that go on from the bundled policy, to compare and mix, and one that never needed to listen: a probe's contrast.

    What is a preset already is skipped, with the demonstrations that only it needs.
    """
    missing = missing_siblings()
    for name in sorted(set(SIBLINGS) - set(missing)):
        print(f"{name}: is a preset; skipped")
    family = out / f"siblings_of_{Pi0Policy.load('tiny').fingerprint}"
    halves = family / "halves"
    if {"tiny-half-0", "tiny-half-1"} & set(missing) and not (halves / "split.json").exists():
        data = demonstrate(out / "fine_demonstrations", FINE_DEMONSTRATIONS, workers)
        shutil.rmtree(halves, ignore_errors=True)  # what a killed split left
        run("vlascope-datasets", "split", "--source_path", str(data), "--dst_path", str(halves), "--split_num", "2")
    for number, name in enumerate(("tiny-half-0", "tiny-half-1")):
        if name in missing:
            trained = train(family / name, halves / f"split_{number}", 300, SIBLING)
            evaluate(trained, name, SIBLING_JUDGED, family, workers, trained.parent)
    if "tiny-lora" in missing:
        data = demonstrate(out / "lora_demonstrations", LORA_DEMONSTRATIONS, workers)
        trained = train(family / "tiny-lora", data, 300, (*SIBLING, "--lora", "8"))
        evaluate(trained, "tiny-lora", SIBLING_JUDGED, family, workers, trained.parent)
    if "tiny-unvaried" in missing:
        # made as the policy is, but sooner: ten scenes are soon known by heart
        unvaried = demonstrate(out / "unvaried_demonstrations", UNVARIED, workers)
        looking = train(family / "unvaried_looking", unvaried, 400, LOOKING)
        acting = train(family / "tiny-unvaried", unvaried, 1000, ("--init", str(looking), *ACTING))
        evaluate(acting, "tiny-unvaried", SIBLING_JUDGED, family, workers, looking.parent, acting.parent)


def missing_siblings() -> list[str]:
    """The siblings that are no preset yet, and have to be trained."""
    return [name for name in SIBLINGS if name not in PRESETS]


def demonstrate(folder: Path, parts: tuple[tuple[str, ...], ...], workers: str) -> Path:
    """A dataset, made or completed."""
    for part in parts:
        begun = ("--resume",) if (folder / "meta" / "info.json").exists() else ()
        run("vlascope-sim", "demonstrate", *part, "--output", str(folder), "--workers", workers, *begun)
    return folder


def train(folder: Path, dataset: Path, steps: int, recipe: tuple[str, ...]) -> Path:
    """The last checkpoint of a run that took all its steps."""
    run(
        "vlascope-server", "train", "--dataset", str(dataset), "--output", str(folder), "--steps", str(steps),
        *recipe, *USUAL, "--save-every", "400", "--keep", "2", "--resume",
    )  # fmt: skip
    described = json.loads((folder / "train.json").read_text())
    if described["taken"] != steps:
        raise StepError(f"{folder}: took {described['taken']} of {steps} steps; run this again to go on")
    return folder / str(steps)


def evaluate(checkpoint: Path, name: str, judged: tuple[str, ...], out: Path, workers: str, *runs: Path) -> None:
    """Closed-loop results, and how the policy was trained, in the folder that is committed."""
    # results of other weights are not gone on with; files will not do, for two copies of the same weights differ
    folder = out / "evaluation" / f"{name}_{Pi0Policy.load(str(checkpoint)).fingerprint}"
    done = ("--resume",) if folder.exists() else ()
    run("python", "scripts/evaluate.py", str(checkpoint), "--out", str(folder), *judged, "--workers", workers, *done)
    kept = RESULTS / name
    kept.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / "evaluation.json", kept)
    for trained in runs:
        for file in ("train.json", "metrics.jsonl", "loss.png"):
            shutil.copy(trained / file, kept / (file if trained is runs[-1] else f"{trained.name}_{file}"))


if __name__ == "__main__":
    main()
