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

import importlib.metadata
import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TextIO, Union

import tyro

from vlascope_base.errors import VlascopeError
from vlascope_base.options import CommandOptions, record_of
from vlascope_base.provenance import git_revision
from vlascope_base.text import printable

_SECRETS = ("api_key",)

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
    if args == ["--version"]:
        print(version_line(name))
        return 0
    try:
        command = parse_command(name, description, subcommands, args)
        if command.print_config:
            print(json.dumps({type(command).__name__.lower(): _shown(command)}, default=str, indent=2))
            return 0
        log_to_stderr(command.log_level.upper())
        for library in quiet:
            logging.getLogger(library).setLevel(max(logging.WARNING, logging.getLogger().level))
        return command.run() or 0
    except VlascopeError as error:
        _say(name, error.for_command())
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
        VlascopeError: the file that the defaults come from cannot be read.
    """
    choices = []
    for word, of in subcommands.items():
        default = None
        if list(args[:1]) == [word] and callable(of_file := getattr(of, "defaults", None)):
            default = of_file(args[1:])
        named = tyro.conf.subcommand(word) if default is None else tyro.conf.subcommand(word, default=default)
        choices.append(Annotated[of, named])
    # a Union of run-time values cannot be written with `|`
    choice: Any = Union[tuple(choices)]  # noqa: UP007
    return tyro.cli(choice, prog=name, description=description, args=list(args))


def version_line(name: str) -> str:
    """The name and version of an installed package, with the git revision where it runs from a checkout."""
    revision = git_revision()
    return f"{name} {importlib.metadata.version(name)}" + (f" ({revision})" if revision else "")


class StderrHandler(logging.StreamHandler):
    """Logs to what `sys.stderr` is at that moment: while progress bars are shown, rich has put something there that prints
    above them.
    """

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self.setFormatter(logging.Formatter("%(levelname)s %(message)s"))

    @property
    def stream(self) -> TextIO:
        """Standard error, as it is now."""
        return sys.stderr


def log_to_stderr(level: int | str) -> None:
    """Sets up logging for a command, unless somebody has done so already.

    Args:
        level: of the least severe messages to show.
    """
    logging.basicConfig(level=level, handlers=[StderrHandler()])


def say_configuration(file: Path) -> None:
    """Says where everything that decides about a run is written down."""
    _log.info("configuration in %s", file)


def _shown(command: CommandOptions) -> dict[str, object]:
    """The options, without what nobody should read on a screen."""
    return _without_secrets(record_of(command))


def _without_secrets(options: dict[str, Any]) -> dict[str, object]:
    return {
        field: _without_secrets(value)
        if isinstance(value, dict)
        else "(given)"
        if field in _SECRETS and value
        else value
        for field, value in options.items()
    }


def _say(name: str, message: object) -> None:
    print(f"{name}: {printable(' '.join(str(message).split()))}", file=sys.stderr)
