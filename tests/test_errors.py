"""Exit codes and messages, and how the command line turns every error into them."""

import errno
import importlib
import pickle

import pytest
import typer
from typer.testing import CliRunner

from msal_deploy.cli.terminal import Group
from msal_deploy.errors import (
    BadInput,
    DeployError,
    GateFailed,
    InternalFault,
    MissingExtra,
    MissingRequirement,
    suggest,
    translate_missing_extra,
)


def outcome(error: BaseException) -> tuple[int, str]:
    """Run a command that raises `error`; return the exit code and what is printed."""
    app = typer.Typer(cls=Group)

    @app.callback()
    def root() -> None: ...

    @app.command()
    def verb() -> None:
        raise error

    result = CliRunner().invoke(app, ["verb"])
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (GateFailed("no"), 1),
        (BadInput("no"), 2),
        (MissingRequirement("no"), 3),
        (MissingExtra("torch", "train"), 3),
        (InternalFault("no"), 70),
        (KeyboardInterrupt(), 130),
        (OSError(errno.ENOSPC, "No space left on device", "a.json"), 3),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 3),
        (OSError(errno.EROFS, "Read-only file system", "a.json"), 2),
        (PermissionError(errno.EACCES, "Permission denied", "a.json"), 2),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a.json"), 2),
        (OSError("no number, no name"), 2),
        (MemoryError(), 3),
        (ValueError("surprise"), 70),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), 3),
        (OSError(errno.EMFILE, "Too many open files"), 3),
        (OSError(errno.EFBIG, "File too large"), 3),
        (ModuleNotFoundError("No module named 'tensorrt'", name="tensorrt"), 3),
        (typer.Exit(0), 0),
        (typer.Exit(7), 7),
        (typer.BadParameter("no"), 2),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_exit_code_and_no_traceback(error, code):
    got, output = outcome(error)
    assert got == code
    assert "Traceback" not in output


def test_message_is_printed_once_as_an_error():
    assert outcome(BadInput("The width is 33; use 32"))[1] == "Error: The width is 33; use 32\n"


def test_message_is_one_line_of_printable_characters():
    assert outcome(BadInput("a\nb\x1b[2Jc\u202ed", "e  f"))[1] == "Error: a b\\x1b[2Jc\\u202ed; e f\n"


def test_unexpected_error_names_its_type_and_the_traceback_variable(monkeypatch):
    monkeypatch.delenv("MSAL_DEPLOY_TRACEBACK", raising=False)
    _, output = outcome(ValueError("surprise"))
    assert "ValueError" in output and "surprise" in output and "MSAL_DEPLOY_TRACEBACK" in output


def test_message_hides_temporary_names():
    temporary = "out/.report.json.msal-deploy-abcd_123/report.json"
    _, output = outcome(PermissionError(errno.EACCES, "Permission denied", temporary))
    assert output == "Error: Permission denied: out; choose a path that you can read and write\n"


@pytest.mark.parametrize(("module", "extra"), [("tensorrt", "gpu"), ("pycuda.driver", "pascal"), ("torch.x", "train")])
def test_missing_module_names_the_extra(module, extra):
    with pytest.raises(MissingExtra, match=rf"pip install 'msal-deploy\[{extra}\]'"), translate_missing_extra():
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)


def test_other_import_errors_pass_unchanged():
    with pytest.raises(ModuleNotFoundError, match="no_such_module"), translate_missing_extra():
        importlib.import_module("no_such_module")
    with pytest.raises(ImportError, match="name"), translate_missing_extra():
        raise ImportError("cannot import name 'x' from 'torch'")


def test_suggest_returns_the_closest_name_or_all_names():
    assert suggest("openvin", ["torch", "openvino"]) == "did you mean 'openvino'?"
    assert suggest("zebra", ["torch", "openvino"]) == "choose from: openvino, torch"


def test_missing_extra_is_a_missing_requirement():
    assert issubclass(MissingExtra, MissingRequirement) and issubclass(MissingRequirement, DeployError)
    assert not issubclass(BadInput, GateFailed)


@pytest.mark.parametrize(
    "error", [BadInput("a is not b", "use c"), GateFailed("a is not b"), MissingExtra("pyarrow", "slides")]
)
def test_an_error_survives_the_way_from_another_process(error: DeployError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.cause, copy.remedy, str(copy)) == (type(error), error.cause, error.remedy, str(error))
