"""`vlascope-server capture`: recorded observations go through a policy, and its hidden states into a store."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vlascope_base import VlascopeError
from vlascope_base.options import file_of, word_of
from vlascope_base.text import counted, readable_bytes, wrapped

from vlascope_server.capturing.options import CaptureError, CaptureOptions
from vlascope_server.commands.train import INSTALL

if TYPE_CHECKING:
    from vlascope_server.capturing.capture import PreparedCapture


@dataclasses.dataclass(frozen=True, kw_only=True)
class Capture(CaptureOptions):
    """Shows recorded observations to a policy and keeps its hidden states, as a rollout would: no robot, no server.

    The observations are those that a campaign of rollouts saved, or the frames of a LeRobot dataset. Prompt, noise and
    checkpoint may be others than when they were recorded; with everything as it was, the same bits are stored again.
    """

    @classmethod
    def defaults(cls, args: Sequence[str]) -> Capture | None:
        """The options of the run that the command line goes on with; None where it begins a new one.

        Raises:
            CaptureError: there is no such run, it is of something else, or a path is empty.
        """
        for option in ("--store", "--dataset", "--observations", "--tokenizer", "--like"):
            if word_of(option, args) == "":
                raise CaptureError(f"{option}: expected a path, found nothing")
        run = file_of("--resume", args)
        if run is None:
            return None
        from vlascope_server.capturing.runs import options_of

        return cls(**options_of(run))

    def run(self) -> None:
        """Prints what is captured, and where it lies."""
        from vlascope_base.progress import shown

        from vlascope_server.capturing.capture import capture, opened_run, prepare_capture
        from vlascope_server.policies.loading import load_policy

        try:
            with shown() as progress:
                prepared = prepare_capture(lambda: load_policy(self.checkpoint, self.policy), self, progress)
        except ModuleNotFoundError as error:
            package = (error.name or "a package").partition(".")[0]
            raise VlascopeError(f"capture needs {package}: run this in a clone of vlascope: {INSTALL}") from error
        _print_prepared(prepared)
        if self.dry_run:
            return
        with opened_run(prepared) as run:
            print(f"storing    {run.path}", flush=True)
            try:
                with _progress() as progress:
                    captured = capture(prepared, run, progress)
            except BaseException:
                left = f"what was sealed is safe; `vlascope-server capture --resume {run.path}` goes on"
                print(wrapped(left, sys.stderr), file=sys.stderr)
                raise
        rate = captured.frames / captured.seconds if captured.seconds else 0.0
        speed = f", {rate:.1f} frames a second" if captured.frames else ""
        print(f"stored     {counted(captured.frames, 'frame')} of {counted(captured.episodes, 'episode')}{speed}")


def _print_prepared(prepared: PreparedCapture) -> None:
    from vlascope_server.capturing.capture import differences

    facts, recording, cost = prepared.policy.facts, prepared.recording, prepared.cost
    print(f"policy     {facts.name} ({facts.description}, {prepared.policy.fingerprint})")
    where = prepared.options.dataset or prepared.options.observations
    frames = counted(sum(map(len, recording.episodes)), "frame")
    print(
        f"frames     {frames} of {counted(len(recording.episodes), 'episode')} in {where}; batches of {prepared.batch_size}"
    )
    if prepared.done:
        print(f"there      {counted(len(prepared.done), 'episode')} of them already")
    print(f"a frame    {readable_bytes(prepared.plan.nbytes)}: {prepared.plan.spec}")
    print(f"to store   {counted(cost.frames, 'frame')}, {readable_bytes(cost.nbytes)}")
    if changed := differences(prepared):
        print(f"other than when the observations were saved: {', '.join(changed)}")
    print(f"campaign   {prepared.campaign}")
    sys.stdout.flush()


@contextmanager
def _progress() -> Iterator[Callable[[int, int, float], None]]:
    """A bar of frames, with frames a second below, which is gone at the end."""
    from vlascope_base.progress import progress_bars

    with progress_bars(field="rate", transient=True) as bars:
        task = bars.add_task("capturing", total=None, rate="compiling")

        def report(stored: int, total: int, seconds: float) -> None:
            rate = f"{stored / seconds:.1f} frames a second" if seconds else ""
            bars.update(task, completed=stored, total=total, rate=rate)

        yield report
