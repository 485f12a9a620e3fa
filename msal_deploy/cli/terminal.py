"""What all commands share: how an error ends a command, and where output goes."""

import errno
import io
import os
import signal
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from msal_deploy.cli.signals import INTERRUPTED, default_signals, exit_code, honour_signals
from msal_deploy.errors import BadInput, DeployError, InternalFault, MissingRequirement, translate_missing_extra
from msal_deploy.files.temporary import LEFTOVER, remove_leftovers
from msal_deploy.memory import is_out_of_memory, not_enough_memory

AGAIN = "run the command again"
LACKING = {  # errors of the system -> what the machine lacks, and what to do
    errno.ENOSPC: ("The output disk is full", f"free some space and {AGAIN}"),
    errno.EDQUOT: ("The disk quota is used up", f"free some space and {AGAIN}"),
    errno.EFBIG: ("A file became larger than this system allows", "raise the limit (ulimit -f), or use another disk"),
    errno.EMFILE: ("Too many open files", f"raise the limit (ulimit -n) and {AGAIN}"),
    errno.ENFILE: ("Too many open files on this machine", f"close other programs and {AGAIN}"),
    errno.EAGAIN: ("No more processes or threads can be started", f"raise the limit (ulimit -u) and {AGAIN}"),
}


class Group(TyperGroup):
    """The root command: every error, also in the usage, ends in one line and the documented exit code."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run the command line, and report usage errors in the same form as all other errors."""
        standalone, extra["standalone_mode"] = extra.get("standalone_mode", True), False
        if not standalone:
            return super().main(*args, **extra)
        try:
            code = super().main(*args, **extra)
            sys.stdout.flush()  # a full disk or a closed pipe shows here
        except typer.Abort:
            sys.exit(1)
        except (BrokenPipeError, SystemExit) as error:
            # Nobody reads the output any more, as in: msal-deploy bench | head -1. Rich exits with 1 then.
            if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python complains when it closes stdout
            sys.exit(exit_code(signal.SIGPIPE))
        except OSError as error:
            _print_error(str(_from_os(error)))
            sys.exit(_from_os(error).exit_code)
        except Exception as error:
            # Typer brings its own copy of click, under a private name: usage errors are told by their interface.
            if not hasattr(error, "format_message"):
                raise
            if error.format_message():  # empty where no command was given: the help is printed already
                _print_error(_usage_message(error))
            sys.exit(getattr(error, "exit_code", BadInput.exit_code))
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: Any) -> Any:
        """Run a command and turn its errors into an exit code."""
        try:
            with translate_missing_extra():
                return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except KeyboardInterrupt:
            typer.echo(INTERRUPTED, err=True)
            raise typer.Exit(exit_code(signal.SIGINT)) from None
        except Exception as error:
            told = _translated(error)
            # Typer's own exceptions (usage errors, exits) come from a module that moved between its versions.
            unexpected = isinstance(told, InternalFault) and os.environ.get("MSAL_DEPLOY_TRACEBACK")
            if unexpected or type(error).__module__.startswith(("typer", "click")):
                raise
            _fail(told)


def _translated(error: Exception) -> DeployError:
    """Return what the user is told of an error."""
    if is_out_of_memory(error):  # also where a stage took it for damage of a file
        return not_enough_memory(error)
    if isinstance(error, DeployError):
        return error
    if isinstance(error, OSError):
        return _from_os(error)
    if str(error).startswith("Symlink loop from"):  # by Path.resolve; since Python 3.13, it is an OSError
        return BadInput(f"{os.strerror(errno.ELOOP)}: {str(error)[18:]}", "check the path")
    cause = f"Unexpected {type(error).__name__}: {error}"
    return InternalFault(cause, "please report it; MSAL_DEPLOY_TRACEBACK=1 shows where it happened")


def command_line(help: str, epilog: str | None = None) -> typer.Typer:
    """Return a Typer app whose errors end as in `Group`; add commands to it."""
    app = typer.Typer(
        cls=Group,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
        context_settings={"help_option_names": ["-h", "--help"]},
        help=help,
        epilog=epilog,
    )
    app.callback()(lambda: None)  # without a callback Typer runs a lone command directly, bypassing `Group`
    return app


def _usage_message(error: Any) -> str:
    """Return click's message as ``cause; remedy``, the remedy being the help of the command that was used wrongly."""
    message = str(error.format_message()).rstrip(".")
    context = getattr(error, "ctx", None)
    return f"{message}; see {context.command_path} --help" if context is not None else message


def _fail(error: DeployError) -> NoReturn:
    _print_error(str(error))
    raise typer.Exit(error.exit_code) from error


def _print_error(message: str) -> None:
    line = " ".join(message.split())
    # Names in files may hold anything, also what moves the cursor of a terminal.
    line = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)
    typer.secho(f"Error: {line}", err=True, fg="red" if sys.stderr.isatty() else None)


def _from_os(error: OSError) -> DeployError:
    if error.errno in LACKING:
        return MissingRequirement(*LACKING[error.errno])
    where = f": {_named(error.filename)}" if error.filename else ""
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return BadInput(f"{error.strerror}{where}", "choose a path that you can read and write")
    return BadInput(f"{error.strerror or error}{where}", "check the path")


def _named(name: str | bytes | int) -> str:
    """Return the file that an error is about. A temporary name means nothing to the user."""
    path = Path(os.fsdecode(name) if isinstance(name, (str, bytes)) else f"file {name}")
    temporary = next((parent for parent in (path, *path.parents) if LEFTOVER.fullmatch(parent.name)), None)
    shown = str(path if temporary is None else temporary.parent)
    return shown if shown.isprintable() else repr(shown)


def run_command_line(app: typer.Typer) -> None:
    """Run a command line as a program; every error and signal ends it as documented."""
    honour_signals()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that has no ✓ or µ shows a ?
    try:
        _tidy(sys.argv[1:])
        app()
    finally:
        default_signals()


def _tidy(words: list[str]) -> None:
    """Remove what killed commands left among temporary files and beside every path of the command line."""
    folders = {Path(tempfile.gettempdir())}
    for word in words:
        with suppress(OSError, ValueError):  # not a path
            path = Path(os.path.realpath(word.rpartition("=")[2]))  # Path.resolve raises at a circle of links
            folders |= {path.parent, path} if path.is_dir() else {path.parent}
    for folder in folders:
        remove_leftovers(folder)
