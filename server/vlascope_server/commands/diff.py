"""`vlascope-server diff`: where and how far two checkpoints differ."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from vlascope_base import VlascopeError
from vlascope_base.files import make_folders
from vlascope_base.options import CommandOptions, record_of
from vlascope_base.text import readable_bytes

from vlascope_server.options import DifferenceOptions

if TYPE_CHECKING:
    from vlascope_base.progress import Progress


@dataclasses.dataclass(frozen=True, kw_only=True)
class Diff(DifferenceOptions, CommandOptions):
    """Compares two checkpoints of any formats, parameter by parameter and layer by layer.

    Writes a report in words, tables (Parquet and JSON) and three figures.
    """

    a: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="A")]
    """A step folder, its params/, a safetensors file, a URL (downloaded to the cache first), or a preset's name."""
    b: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="B")]
    """The other one; differences are A - B."""
    like: str | None = None
    """Where A or B is drawn:SEED: the checkpoint that it takes everything but its weights from; the other of the two unless
    given."""
    output_dir: Path = Path("model_difference")
    """Folder to write to; the files of an earlier comparison in it are replaced."""

    def run(self) -> None:
        """Prints what the difference amounts to, and where the files are."""
        try:
            from vlascope_server.checkpoints.difference.files import write_difference
        except ModuleNotFoundError as error:
            package = (error.name or "a package").partition(".")[0]
            raise VlascopeError(f"diff needs {package}: install vlascope-server[diff]") from error
        from vlascope_server.checkpoints import opened
        from vlascope_server.checkpoints.difference import compare
        from vlascope_server.checkpoints.difference.report import insights
        from vlascope_server.checkpoints.drawn import is_drawn, likes_of

        read = [location for location in (self.a, self.b) if not is_drawn(location)]
        likes = likes_of((self.a, self.b), self.like or (read[0] if len(read) == 1 else None))
        with opened(self.a, like=likes[0]) as a, opened(self.b, like=likes[1]) as b, _bar() as progress:
            make_folders(self.output_dir)
            found = compare(a, b, self, self.output_dir, locations=(self.a, self.b), progress=progress)
        files = write_difference(found, self.output_dir, record_of(self))
        rate = readable_bytes(found.bytes_read / max(found.seconds, 1e-9), 3)
        print(f"compared {readable_bytes(found.bytes_read)} at {rate}/s", file=sys.stderr)
        for sentence in insights(found):
            print(sentence)
        for file in files:
            print(file)


@contextlib.contextmanager
def _bar() -> Iterator[Progress]:
    """A progress bar on stderr that counts megabytes and says how many bytes are compared in a second."""
    from vlascope_base.progress import progress_bars

    start = time.monotonic()
    with progress_bars(transient=True) as bars:
        task = bars.add_task("MB")

        def report(what: str, done: int, total: int) -> None:
            rate = readable_bytes(done / max(time.monotonic() - start, 1e-9), 3)
            bars.update(task, description=f"{what}, MB, {rate}/s", completed=done // 10**6, total=total // 10**6)

        yield report
