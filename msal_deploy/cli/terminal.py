"""What all commands share: how an error ends a command, and where output goes."""

import errno
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from msal_deploy.errors import BadInput, DeployError, MissingRequirement, translate_missing_extra

INTERRUPTED, TERMINATED = 130, 143  # 128 + SIGINT, 128 + SIGTERM, as in shells


class Group(TyperGroup):
    """The root command: every error, also in the usage, ends in one line and the documented exit code."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run the command line, and report usage errors in the same form as all other errors."""
        standalone, extra["standalone_mode"] = extra.get("standalone_mode", True), False
        if not standalone:
            return super().main(*args, **extra)
        try:
            code = super().main(*args, **extra)
        except typer.Abort:
            sys.exit(1)
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
        except DeployError as error:
            _fail(error)
        except KeyboardInterrupt:
            typer.echo("\nInterrupted; no partial files are left.", err=True)
            raise typer.Exit(INTERRUPTED) from None
        except OSError as error:
            _fail(_from_os(error))
        except MemoryError:
            _fail(MissingRequirement("Not enough memory", "use a smaller batch or size"))
        except Exception as error:
            # Typer's own exceptions (usage errors, exits) come from a module that moved between its versions.
            if os.environ.get("MSAL_DEPLOY_TRACEBACK") or type(error).__module__.startswith(("typer", "click")):
                raise
            cause = f"Unexpected {type(error).__name__}: {error}"
            _fail(DeployError(cause, "set MSAL_DEPLOY_TRACEBACK=1 to see where"))


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
    typer.secho(f"Error: {message}", err=True, fg="red" if sys.stderr.isatty() else None)


def _from_os(error: OSError) -> DeployError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return MissingRequirement("The output disk is full", "free some space and run the command again")
    path = Path(os.fsdecode(error.filename or ""))
    # A temporary name means nothing to the user: the folder is what cannot be written.
    where = f": {path.parent if '.partial-' in path.name else path}" if error.filename else ""
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return BadInput(f"{error.strerror}{where}", "choose a path that you can read and write")
    return BadInput(f"{error.strerror or error}{where}")


def exit_cleanly_on_sigterm() -> None:
    """Let SIGTERM unwind the stack, so that temporary files and folders are removed."""

    def handle(signum: int, frame: FrameType | None) -> NoReturn:
        sys.exit(TERMINATED)

    signal.signal(signal.SIGTERM, handle)
