"""Everything that a card has to show, part by part, each in a process of its own and within its time.

    scripts/gpu_check.sh --output DIR [--only correctness|latency|capture|serving|training] [--size full|small]

Correctness comes first: numbers of a program that computes something else are worth nothing. A part that fails or runs out of
time is listed as such, and the others run. `DIR` gets a JSON file and a log for each part, and `summary.json`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MINUTES = 8.0
PARITY = ("tests/server/test_reference_parity.py", "tests/server/test_taps.py", "tests/server/test_observation.py")


@dataclasses.dataclass(frozen=True)
class Part:
    """One part.

    Attributes:
        share: of the time that there is for all parts.
        command: by size, seconds and the JSON file to write.
        environment: what it needs beside the usual.
        read: one line a finding, from its JSON.
    """

    share: float
    command: Callable[[str, float, Path], list[str]]
    read: Callable[[dict[str, Any]], list[str]]
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)


def _script(name: str, *options: str) -> Callable[[str, float, Path], list[str]]:
    def command(size: str, seconds: float, out: Path) -> list[str]:
        given = [
            option.format(size=size, seconds=f"{seconds:.0f}", rounds=20 if size == "full" else 2) for option in options
        ]
        return [sys.executable, f"benchmarks/{name}.py", *given, "--out", str(out)]

    return command


def _parity(size: str, seconds: float, out: Path) -> list[str]:
    chosen = PARITY if size == "full" else PARITY[1:2]
    quick = [] if size == "full" else ["-k", "bfloat16"]
    return [
        sys.executable,
        "-m",
        "pytest",
        *chosen,
        *quick,
        "-q",
        "-p",
        "no:cacheprovider",
        f"--junitxml={out.with_suffix('.xml')}",
    ]


def _read_parity(found: dict[str, Any]) -> list[str]:
    failed = "; ".join(found["failures"][:3])
    return [
        f"{found['passed']} passed, {found['failed']} failed, {found['skipped']} skipped{': ' if failed else ''}{failed}"
    ]


def _read_latency(found: dict[str, Any]) -> list[str]:
    whole = found["phases"]["3"].get("whole")
    lines = [] if whole is None else [
        f"3 cameras {whole['seconds'] * 1e3:.2f} ms, roofline {whole['roofline'] * 1e3:.2f} ms"
    ]  # fmt: skip
    measured = [each for each in found["variants"] if "seconds" in each]
    lines += [
        f"{each['name']}: {each['over_plain']:.3f} of plain" for each in sorted(measured, key=lambda v: v["over_plain"])
    ]
    return lines


def _read_capture(found: dict[str, Any]) -> list[str]:
    measured = [each for each in found["specs"] if "seconds" in each]
    return [
        f"{each['spec']}: {each['over_plain']:.3f} of plain, {'the same' if each['same_bits'] else 'OTHER'} bits"
        for each in measured
    ]


def _read_serving(found: dict[str, Any]) -> list[str]:
    return [f"{name}: {value:.4g}" for name, value in found.items() if isinstance(value, float)][:8]


def _read_training(found: dict[str, Any]) -> list[str]:
    return [f"{found['samples_per_s']} samples/s, {found['peak_bytes'] / 1e9:.1f} GB at most"]


PARTS = {
    "correctness": Part(
        0.2, _parity, _read_parity, {"JAX_DEFAULT_MATMUL_PRECISION": "highest", "JAX_COMPILATION_CACHE_DIR": ""}
    ),
    "latency": Part(
        0.4, _script("gpu_latency", "--size", "{size}", "--seconds", "{seconds}", "--rounds", "{rounds}"), _read_latency
    ),
    "capture": Part(
        0.15,
        _script("gpu_capture", "--size", "{size}", "--seconds", "{seconds}", "--rounds", "{rounds}"),
        _read_capture,
    ),
    "serving": Part(0.15, _script("serving", "--size", "{size}", "--quick"), _read_serving),
    "training": Part(0.1, _script("gpu_training", "--size", "{size}"), _read_training),
}
SMALLEST = {"serving": "tiny", "training": "tiny"}
"""What a part calls its smallest size, where it is not `small`."""


def platforms() -> str:
    """`cuda` where JAX sees a card, else `cpu`: asked in a process of its own, since whoever asks holds the card."""
    code = "import jax; print(jax.default_backend())"
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    return "cuda" if asked.stdout.strip() in ("gpu", "cuda") else "cpu"


def run(name: str, size: str, seconds: float, output: Path, platform: str) -> dict[str, Any]:
    """Runs one part; what it found, or why it found nothing, and how long it took."""
    part, out, log = PARTS[name], output / f"{name}.json", output / f"{name}.log"
    size = SMALLEST.get(name, size) if size == "small" else size
    environment = os.environ | {"JAX_PLATFORMS": platform, "PYTHONUNBUFFERED": "1"}
    environment |= {key: value for key, value in part.environment.items() if value}
    begun = time.monotonic()
    with log.open("w") as file:
        command = part.command(size, 0.85 * seconds, out)
        try:
            ended = subprocess.run(
                command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, timeout=seconds, check=False
            ).returncode
            said = None if ended == 0 else f"ended with {ended}"
        except subprocess.TimeoutExpired:
            said = f"not done after {seconds:.0f} s"
    if name == "correctness" and (junit := out.with_suffix(".xml")).is_file():
        out.write_text(json.dumps({"results": _tests(junit), "device": platform}))
    found = json.loads(out.read_text()) if out.is_file() else {}
    result = {
        "seconds": round(time.monotonic() - begun, 1),
        "device": found.get("device"),
        "results": found.get("results"),
    }
    return result | ({} if said is None else {"problem": f"{said}; see {log}"})


def _tests(junit: Path) -> dict[str, Any]:
    cases = list(ElementTree.parse(junit).getroot().iter("testcase"))  # noqa: S314  our own file
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = [case for case in cases if case.find("skipped") is not None]
    lines = []
    for case in failed:
        problem = case.find("failure")
        problem = case.find("error") if problem is None else problem
        message = "" if problem is None else problem.get("message", "").splitlines()[0]
        lines.append(f"{case.get('name')}: {message[:160]}")
    return {
        "passed": len(cases) - len(failed) - len(skipped),
        "failed": len(failed),
        "skipped": len(skipped),
        "failures": lines,
    }


def main() -> int:
    """Command line; 1 where a part failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for JSON files and logs")
    parser.add_argument("--only", choices=PARTS, action="append", help="these parts alone; may be given again")
    parser.add_argument("--size", choices=("full", "small"), default="full", help="small is a dry run, on a CPU too")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="for all parts together")
    args = parser.parse_args()
    output = args.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    chosen = [name for name in PARTS if args.only is None or name in args.only]
    shares, platform, summary = sum(PARTS[name].share for name in chosen), platforms(), {}
    if platform == "cpu" and args.size == "full":
        print("gpu_check: JAX sees no card; --size small is a dry run on the CPU", file=sys.stderr)
        return 2
    for name in chosen:
        seconds = 60 * args.minutes * PARTS[name].share / shares
        summary[name] = run(name, args.size, seconds, output, platform)
        print(f"{name} ({summary[name]['seconds']:.0f} s of {seconds:.0f})", flush=True)
        if summary[name]["results"]:
            for line in PARTS[name].read(summary[name]["results"]):
                print(f"  {line}")
        if "problem" in summary[name]:
            print(f"  {summary[name]['problem']}")
        (output / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    print(output / "summary.json")
    failed = any("problem" in each for each in summary.values())
    return int(failed or bool((summary.get("correctness", {}).get("results") or {}).get("failed")))


if __name__ == "__main__":
    sys.exit(main())
