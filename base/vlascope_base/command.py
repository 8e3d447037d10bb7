"""The `main()` of every command: parse, set up logging, run, and end with one line and an exit code.

1. A subcommand is a frozen dataclass of its options with a method `run`, which returns None or an exit code.
2. The exit code is 0; what `run` returns (1: it ran, and something was found or failed); 2 after an error in what was asked,
   which is one line on stderr; 130 after Ctrl-C.
3. A subcommand whose options may be read from a file has a class method `defaults` too. It gets the words of the command
   line behind the subcommand's name, finds the file among them (`options.word_of`), and returns an instance whose values
   are the defaults of this call (`options.read_fields`), or None. What is given on the command line wins over them.
4. `--print-config` prints the options as JSON on stdout, defaults and the values of files among them, and nothing is run. A
   command that writes its configuration beside its results says where (`say_configuration`).
5. An exception that is neither a `VlascopeError` nor an `OSError` is a fault of ours, and ends with its traceback.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import inspect
import io
import json
import logging
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TextIO, Union

import tyro

from vlascope_base.errors import VlascopeError
from vlascope_base.options import gives
from vlascope_base.provenance import git_revision
from vlascope_base.text import filled, printable, wrapped

_log = logging.getLogger(__name__)


def run_command(
    name: str,
    description: str,
    subcommands: Mapping[str, type],
    args: Sequence[str] | None = None,
    *,
    errors: tuple[type[Exception], ...] = (),
    quiet: Sequence[str] = (),
) -> int:
    """Runs a command.

    Args:
        name: of the command, and of the package that it comes with, such as `vlascope-latents`.
        description: one sentence for `--help`.
        subcommands: by name; each `CommandOptions` with a `run`, and perhaps `defaults`.
        args: of the command line, without the program's name; None takes the process's own.
        errors: classes that are printed as one line too, from packages that do not know `VlascopeError`.
        quiet: loggers of libraries that say less than a warning to nobody.

    Returns:
        The exit code.
    """
    args = list(sys.argv[1:] if args is None else args)
    if args[-1:] == ["--version"]:  # an option of that name takes a word, and is never the last
        print(version_line(name))
        return 0
    try:
        command = parse_command(name, description, subcommands, args)
        if command.print_config:
            print(json.dumps({type(command).__name__.lower(): command.configuration()}, default=str, indent=2))
            return 0
        log_to_stderr(command.log_level.upper())
        for library in quiet:
            logging.getLogger(library).setLevel(max(logging.WARNING, logging.getLogger().level))
        return command.run() or 0
    except VlascopeError as error:
        _say(name, _blamed(error.for_command(), subcommands, args))
    except errors as error:
        _say(name, error)
    except KeyboardInterrupt:
        _say(name, "stopped")
        return 130
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a folder that cannot be made, a full disk
        _say(name, f"{error.filename or 'disk'}: {error.strerror or error}")
    return 2


def parse_command(name: str, description: str, subcommands: Mapping[str, type], args: Sequence[str]) -> Any:
    """The subcommand that a command line asks for, with its options; see `run_command`.

    Raises:
        SystemExit: the command line cannot be read, or asks for help; tyro has said what there is to say.
        VlascopeError: the options refuse their values, or the file that the defaults come from cannot be read.
    """
    choices, version = [], f"The version: `{name} --version`."
    for word, of in subcommands.items():
        default, asked = None, list(args[:1]) == [word]
        if asked and callable(of_file := getattr(of, "defaults", None)):
            default = of_file(args[1:])
        given: dict[str, Any] = {} if default is None else {"default": default}
        # in a list of subcommands the first paragraph is enough
        does = inspect.cleandoc(of.__doc__ or "")
        given["description"] = f"{does}\n\n{version}" if asked else " ".join(does.partition("\n\n")[0].split())
        choices.append(Annotated[of, tyro.conf.subcommand(word, **given)])
    # a Union of run-time values cannot be written with `|`
    choice: Any = Union[tuple(choices)]  # noqa: UP007
    out, err = _Shown(sys.stdout), _Shown(sys.stderr)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            return tyro.cli(choice, prog=name, description=f"{description}\n\n{version}", args=list(args))
    except SystemExit as end:
        if (refused := _refused(end)) is not None:
            err = _Shown(sys.stderr)  # the options themselves say it in one line; tyro would draw a box around it
            raise refused from None
        raise
    finally:
        # what stands above the boxes of tyro's help has no colours, and is not wrapped
        lines = out.getvalue().split("\n")
        sys.stdout.write("\n".join(line if "\x1b" in line else filled(line) for line in lines))
        sys.stderr.write(err.getvalue())


def _refused(end: SystemExit) -> VlascopeError | None:
    """The error of a class of options that has refused its values, for which tyro has ended; None where it did for others."""
    cause = end.__context__
    while cause is not None and not isinstance(cause, VlascopeError):
        cause = None if cause.__suppress_context__ else cause.__context__
    return cause


class _Shown(io.StringIO):
    """What is to be shown on stdout or stderr."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream

    @property
    def encoding(self) -> str:
        """The stream's: it decides what boxes are drawn with."""
        return self._stream.encoding

    def isatty(self) -> bool:
        """As the stream: on a terminal boxes have colours."""
        return self._stream.isatty()


def _blamed(message: str, subcommands: Mapping[str, type], args: Sequence[str]) -> str:
    """An error's message, behind the name of the file where it is about a value that a file has given."""
    of: Any = subcommands.get(next(iter(args), ""))
    about = re.match(r"-{0,2}([a-z][a-z0-9_-]*)(:| [^:]{1,80}:)", message)
    if about is None or not hasattr(of, "given_by_file"):
        return message
    field = about[1].replace("-", "_")
    try:
        file, values = of.given_by_file(args[1:]) or (None, {})
    except VlascopeError:
        return message
    return f"{file}: {message}" if field in values and not gives(args, field) else message


def version_line(name: str) -> str:
    """The name and version of an installed package, with the git revision where it runs from a checkout."""
    revision = git_revision()
    return f"{name} {importlib.metadata.version(name)}" + (f" ({revision})" if revision else "")


class StderrHandler(logging.StreamHandler):
    """Logs to what `sys.stderr` is at that moment: while progress bars are shown, rich has put something there that prints
    above them. On a terminal a line that is too long goes on below, and no word is cut.
    """

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self.setFormatter(logging.Formatter("%(levelname)s %(message)s"))

    @property
    def stream(self) -> TextIO:
        """Standard error, as it is now."""
        return sys.stderr

    def format(self, record: logging.LogRecord) -> str:
        """The line, or lines, of a record."""
        return wrapped(super().format(record), self.stream)


def log_to_stderr(level: int | str) -> None:
    """Sets up logging for a command, unless somebody has done so already.

    Args:
        level: of the least severe messages to show.
    """
    logging.basicConfig(level=level, handlers=[StderrHandler()])


def say_configuration(file: Path) -> None:
    """Says where everything that decides about a run is written down."""
    _log.info("configuration in %s", file)


def _say(name: str, message: object) -> None:
    print(wrapped(f"{name}: {printable(' '.join(str(message).split()))}", sys.stderr), file=sys.stderr)
