"""Whether p values and intervals of probes keep what they promise: false rates on noise, truths found, coverage.

Every number is a share of simulated sets, with its Monte-Carlo standard error. Nominal are 5 % of false p values (of a cell
alone, and of the best of five), and 95 % of covered intervals. Nothing is timed.
"""

from __future__ import annotations

import dataclasses
import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # matrices this small gain nothing from threads

import numpy as np
from common import Results, options_of, report
from simulated import DIMS, Effects, Simulated, coverage, designs, share, tested
from vlascope_analysis.options import EvaluationConfig
from vlascope_analysis.probes.closed_form import closed_form
from vlascope_analysis.statistics.evaluation import Design

CELLS = 5
PLANTED = {"balanced": 0.35, "lengths 4 to 12": 0.35, "counts 20/2/2/2/2": 0.7, "scenes shared by instructions": 0.35,
           "scenes of one instruction": 0.8, "scenes x instructions x 2": 0.2,
           "few scenes of both, others of one": 0.6, "layouts of 6 of 10 objects": 0.25}  # fmt: skip
"""How strongly one of five cells knows the instruction, where a truth is looked for."""


def rates(sets: int, permutations: int, gains: dict[str, float] | None) -> Results:
    """By design, how often p values are at most 0.05: without gains of any cell, with them of the planted one."""
    found: Results = {}
    for name, whole in designs().items():
        if gains is not None and name not in gains:
            continue
        design = whole.common()
        own, best, others = [], [], []
        for number in range(sets):
            rng = np.random.default_rng([7, number])
            gain = np.zeros(CELLS)
            gain[0] = 0.0 if gains is None else gains[name]
            table = tested(
                design, design.features(rng, CELLS, gain), EvaluationConfig(permutations=permutations, seed=number)
            )
            p, p_best = table["p_value"].to_numpy(), table["p_value_best"].to_numpy()
            own += list(p <= 0.05) if gains is None else [p[0] <= 0.05]
            best.append((p_best <= 0.05).any() if gains is None else p_best[0] <= 0.05)
            others.append((p_best[1:] <= 0.05).any())
        found[name] = {"cell": share(own), "best": share(best)}
        if gains is not None:
            found[name]["another_cell"] = share(others)
        print(
            name.ljust(32),
            *(f"{what} {v['mean']:.3f} ± {v['error']:.3f}" for what, v in found[name].items()),
            flush=True,
        )
    return found


def intervals(sets: int) -> Results:
    """By design and strength, the share of 95 % intervals that hold the procedure's expected accuracy, with their width."""
    found: Results = {}
    scenes = designs()["scenes of one instruction"]
    crossed = designs()["scenes x instructions x 2"]
    cases = {f"{U} episodes": Simulated.of(np.arange(U) % 5, 3) for U in (20, 30, 60, 120)}
    cases["300 episodes, one part held out"] = Simulated.of(np.arange(300) % 5, 3)
    cases |= {"lengths 12 or 2": designs()["lengths 12 or 2"], "counts 20/2/2/2/2": designs()["counts 20/2/2/2/2"],
              "scenes of one instruction": scenes, "scenes x instructions x 2": crossed,
              "layouts of 6 of 10 objects": designs()["layouts of 6 of 10 objects"],
              "frames alike": designs()["frames alike"], "counts 30/2": designs()["counts 30/2"],
              "scenes of 20 episodes or 1": designs()["scenes of 20 episodes or 1"]}  # fmt: skip
    for name, design in cases.items():
        for strength, gain in (("chance", 0.0), ("middle", 0.4), ("high", 1.0)):
            found[f"{name}, {strength}"] = own = coverage(design, gain, sets)
            line = (
                f"accuracy {own['accuracy']:.3f}  covers {own['covered']['mean']:.3f} ± {own['covered']['error']:.3f}"
            )
            print(f"{name}, {strength}".ljust(40), line, f" width {own['width']:.3f}", flush=True)
    return found


def differences(sets: int) -> Results:
    """Coverage of 95 % intervals of the paired difference between two cells that know the instruction equally well."""
    found: Results = {}
    for name, design in {f"{U} episodes": Simulated.of(np.arange(U) % 5, 3) for U in (20, 30, 60)}.items():
        for strength, gain in (("chance", 0.0), ("middle", 0.4)):
            directions = np.random.default_rng(99).standard_normal((2, 5, DIMS))
            ends, points = [], []
            for number in range(sets):
                x = design.features(np.random.default_rng([9, number]), 2, gain, directions)
                evaluated = Design.of(design.frames(), design.labels(), EvaluationConfig(permutations=0, seed=number))
                a, b = (closed_form(cell, design.of_frame, evaluated).scores.right for cell in x)
                own = evaluated.means.difference(a - b, 0.95)
                ends.append((own.low, own.high))
                points.append(own.mean)
            low, high = np.transpose(ends)
            truth = np.mean(points)
            found[f"{name}, {strength}"] = covered = share(list((low <= truth) & (truth <= high)))
            print(f"{name}, {strength}".ljust(40), f"covers {covered['mean']:.3f} ± {covered['error']:.3f}", flush=True)
    return found


def main() -> None:
    """Simulates, prints tables and one JSON line."""
    parser = options_of(__doc__)
    parser.add_argument("--sets", type=int, default=400, help="simulated sets a design")
    parser.add_argument("--permutations", type=int, default=59)
    parser.add_argument("--only", nargs="+", default=["false", "found", "coverage", "differences"])
    options = parser.parse_args()
    results: Results = {}
    if "false" in options.only:
        print("p values of at most 0.05 on noise, of a cell alone and of the best of five")
        results["false"] = rates(options.sets, options.permutations, None)
    if "found" in options.only:
        print("planted in one of five cells: found by its p value, by that of the best; another cell named")
        results["found"] = rates(options.sets, options.permutations, PLANTED)
    if "coverage" in options.only:
        print("intervals of the accuracy")
        results["coverage"] = intervals(options.sets)
    if "differences" in options.only:
        print("intervals of a difference between two cells")
        results["differences"] = differences(options.sets)
    report("probe_statistics", vars(options) | {"effects": dataclasses.asdict(Effects())}, results, options.out)


if __name__ == "__main__":
    main()
