"""Where a mix goes: the names of its files, and whether a folder may be written, asked before any work is done."""

from __future__ import annotations

from pathlib import Path

from vlascope_base.files import why_unwritable

from vlascope_server.checkpoints.files import NORM_STATS_FILE, TOKENIZER_FILE, TORCH_FILE
from vlascope_server.checkpoints.record import FILE as RECORD_FILE
from vlascope_server.json_file import JsonError, read_json
from vlascope_server.mixing.errors import MixingError
from vlascope_server.mixing.options import MixOptions

JSON, REPORT, FIGURE = "mix.json", "mix_report.txt", "mix_curve.png"
STEP = "0"
"""The folder of an Orbax mix, which the reference calls a step."""
_OURS = {JSON, REPORT, FIGURE, STEP, NORM_STATS_FILE, TORCH_FILE, TOKENIZER_FILE, RECORD_FILE, "assets"}
"""Everything that a mix writes into its folder."""


def free_output(options: MixOptions) -> Path:
    """The folder to write, without links and dots in its path.

    Raises:
        MixingError: it holds an input or lies in one, exists and is not to be replaced or no mix, or cannot be made.
    """
    output = options.output.resolve()
    inputs = [*options.checkpoints, options.base, options.norm_stats, options.data_path]
    for path in (Path(each) for each in inputs if each):
        if not path.exists():
            continue
        if path.resolve().is_relative_to(output):
            raise MixingError(f"output: {options.output} holds {path}, which is read; choose another folder")
        if path.is_dir() and output.is_relative_to(path.resolve()):
            raise MixingError(f"output: {options.output} lies inside {path}, which is read; choose another folder")
    if output.exists():
        _check_replaceable(options, output)
    if why := why_unwritable(output):
        raise MixingError(f"output: {options.output}: {why}; choose a folder elsewhere")
    return output


def _check_replaceable(options: MixOptions, output: Path) -> None:
    if not options.overwrite:
        raise MixingError(
            f"output: {options.output} exists; choose another folder, or replace an earlier mix with --overwrite"
        )
    try:
        ours = {"schema", "method", "inputs"} <= set(read_json(output / JSON))
    except (OSError, JsonError):
        ours = False
    if not ours:
        raise MixingError(f"output: {options.output} is no earlier mix; --overwrite replaces nothing else")
    if foreign := sorted(path.name for path in output.iterdir() if path.name not in _OURS):
        raise MixingError(
            f"output: {options.output} holds {foreign[0]}, which no mix wrote; move it away, or choose another folder"
        )
