"""What all verbs share: how errors end a command, and where output goes."""

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

INTERRUPTED, TERMINATED = 130, 143  # 128 + SIGINT, 128 + SIGTERM, as shells have it


class Group(TyperGroup):
    """The root command: whatever goes wrong below it ends in one sentence and the documented exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run a verb and turn its errors into an exit code."""
        try:
            with translate_missing_extra():
                return super().invoke(ctx)
        except DeployError as error:
            _fail(error)
        except KeyboardInterrupt:
            typer.echo("\nInterrupted; nothing half-written was left.", err=True)
            raise typer.Exit(INTERRUPTED) from None
        except OSError as error:
            _fail(_from_os(error))
        except MemoryError:
            _fail(MissingRequirement("There is not enough memory for this; use a smaller batch or size"))
        except Exception as error:
            # typer's own (usage errors, exits) are RuntimeErrors of a module that moved between its versions.
            if os.environ.get("MSAL_DEPLOY_TRACEBACK") or type(error).__module__.startswith(("typer", "click")):
                raise
            _fail(DeployError(f"Unexpected {type(error).__name__}: {error} (MSAL_DEPLOY_TRACEBACK=1 shows where)"))


def command_line(help: str, epilog: str | None = None) -> typer.Typer:
    """Return a command line whose errors end as in `Group`, for verbs to be added to."""
    app = typer.Typer(
        cls=Group,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        help=help,
        epilog=epilog,
    )
    app.callback()(lambda: None)  # without it Typer runs a lone verb at once, and by no `Group`
    return app


def _fail(error: DeployError) -> NoReturn:
    typer.secho(f"Error: {error}", err=True, fg="red" if sys.stderr.isatty() else None)
    raise typer.Exit(error.exit_code) from error


def _from_os(error: OSError) -> DeployError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return MissingRequirement("The disk that is written to is full; free some space and run the command again")
    path = Path(os.fsdecode(error.filename or ""))
    # A temporary name says nothing to the user: it is the folder that cannot be written.
    where = f": {path.parent if '.partial-' in path.name else path}" if error.filename else ""
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return BadInput(f"{error.strerror}{where}; choose a place that can be read and written")
    return BadInput(f"{error.strerror or error}{where}")


def exit_cleanly_on_sigterm() -> None:
    """Let SIGTERM unwind the stack, so that temporary files and folders are removed."""

    def handle(signum: int, frame: FrameType | None) -> NoReturn:
        sys.exit(TERMINATED)

    signal.signal(signal.SIGTERM, handle)
