"""Runs the commands that a person would type, and shows each."""

from __future__ import annotations

import contextlib
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from vlascope_base import VlascopeError

BIN = Path(sys.executable).parent


class StepError(VlascopeError):
    """A step that failed; the message says which."""


@contextlib.contextmanager
def ends_with_one_line(script: str) -> Iterator[None]:
    """Where a step of the block fails, the script ends with 1 and says so in one line."""
    try:
        yield
    except (VlascopeError, OSError) as error:
        print(f"\n{script}: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def run(*command: str) -> None:
    """Shows a command, and runs it where its progress can be seen.

    Raises:
        StepError: it failed.
    """
    show(command)
    process = subprocess.Popen([str(BIN / command[0]), *command[1:]])  # noqa: S603
    try:
        code = process.wait()
    except KeyboardInterrupt:  # the command got it too: it may have something to save
        process.wait()
        raise StepError(f"interrupted in `{shlex.join(command[:2])}`") from None
    if code:
        raise StepError(f"`{shlex.join(command[:2])}` ended with exit code {code}; its last lines above say why")


@contextlib.contextmanager
def server(*options: str, log: Path) -> Iterator[str]:
    """A policy server on a free port while the block runs; its address.

    Raises:
        StepError: it did not start, or did not end in order.
    """
    command = ("vlascope-server", "serve", "--port", "0", *options)
    show((*command, "&"))
    with log.open("w") as errors:
        process = subprocess.Popen(  # noqa: S603
            [str(BIN / command[0]), *command[1:]], stdout=subprocess.PIPE, stderr=errors, text=True
        )
        url, started = "", False
        try:
            for line in process.stdout or ():
                print(f"  {line}", end="", flush=True)
                if line.startswith("listening"):
                    url = line.split()[1]
                if line.startswith("ready"):
                    started = True
                    break
            if not started:
                raise StepError(f"the server did not start: see {log}")
            yield url
            process.send_signal(signal.SIGTERM)
            if process.wait(120):
                raise StepError(f"the server ended with exit code {process.returncode}: see {log}")
        finally:
            process.kill()
            process.wait()


def show(command: tuple[str, ...]) -> None:
    """Prints a command as it could be typed."""
    text = shlex.join(part for part in command if part != "&") + (" &" if command[-1] == "&" else "")
    print(f"\n$ {text}", flush=True)
