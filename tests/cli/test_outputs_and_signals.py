"""Where results go, and how a command ends that is told to."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from refusal import assert_refused
from tiny_bundle import write_tiny_bundle
from typer.testing import CliRunner, Result

from msal_deploy.cli import app
from msal_deploy.data import synthesize

# Each verb that writes files, with arguments that would fail if it looked at anything but the output first.
JSON_VERBS = {
    "train": ["--data", "nowhere", "--out", "out"],
    "export": ["nowhere.pt", "--out", "out"],
    "build-trt": ["nowhere", "--fp16"],
    "validate": ["nowhere", "--data", "nowhere"],
    "bench": ["nowhere"],
    "predict": ["nowhere.png", "--out", "out"],
    "package": ["nowhere", "cpp", "--out", "out"],
    "doctor": ["--gpu", "nowhere"],
    "run": ["--data", "nowhere", "--out", "out"],
}
FILE_OPTIONS = [
    *((verb, [*arguments, "--json"]) for verb, arguments in JSON_VERBS.items()),
    ("data", ["verify", "nowhere", "--json"]),
    *(("doctor", ["--gpu", "nowhere", option]) for option in ("--requirements", "--dockerfile", "--compose")),
]
FOLDER_VERBS = {
    "train": ["--data", "monuseg", "--recipe", "demo", "--out", "out"],
    "export": ["--recipe", "demo", "--out", "out"],
    "validate": ["bundle", "--data", "monuseg", "--out", "out"],
    "predict": ["tissue.png", "--bundle", "bundle", "--out", "out"],
    "package": ["bundle", "cpp", "--out", "out"],
    "run": ["--data", "monuseg", "--out", "out"],
    "data": ["synthesize", "out", "--train", "1", "--test", "1", "--size", "256"],
}


def msal_deploy(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def started(code: str, folder: Path) -> "subprocess.Popen[str]":
    """Start a Python program, and wait until it has printed a line."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=folder, stdin=pipe, stdout=pipe, stderr=pipe, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a data set, a bundle and an image."""
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    synthesize("monuseg", train=3, test=2, size=256)
    write_tiny_bundle(Path("bundle"))
    Image.new("RGB", (64, 64), (200, 100, 150)).save("tissue.png")
    return tmp_path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("verb", "arguments"), FILE_OPTIONS, ids=lambda value: value if isinstance(value, str) else value[-1]
)
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["folder", "FIFO"])
def test_file_that_cannot_be_written_is_refused_first(
    tmp_path: Path, verb: str, arguments: list[str], make: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make(Path("it"))
    assert_refused(msal_deploy(verb, *arguments, "it"), 2, "it is a F" if make is os.mkfifo else "it is a folder")
    assert names(tmp_path) == ["it"]


@pytest.mark.parametrize("verb", FOLDER_VERBS)
def test_folder_that_another_command_writes_to_is_refused(inputs: Path, verb: str) -> None:
    before = names(inputs)
    code = "from msal_deploy.files import output_lock\nwith output_lock('out'):\n print('ready', flush=True); input()"
    process = started(code, inputs)
    assert_refused(msal_deploy(verb, *FOLDER_VERBS[verb]), 2, "Another msal-deploy command is writing to", "out")
    process.communicate("\n")
    assert names(inputs) == before


@pytest.mark.usefixtures("small_shapes")
@pytest.mark.parametrize("verb", ["export", "data"])
def test_files_of_the_user_are_never_deleted(inputs: Path, verb: str) -> None:
    assert msal_deploy(verb, *FOLDER_VERBS[verb]).exit_code == 0
    assert msal_deploy(verb, *FOLDER_VERBS[verb]).exit_code == 0
    note = inputs / "out" / "notes.txt"
    note.write_text("mine")
    assert_refused(msal_deploy(verb, *FOLDER_VERBS[verb]), 2, "out already exists and is not empty")
    assert note.read_text() == "mine"


def test_terminal_without_the_characters_keeps_the_result(inputs: Path) -> None:
    command = [sys.executable, "-m", "msal_deploy", "data", "verify", "monuseg", "--json", "verify.json"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=inputs)
    assert result.returncode == 0, result.stderr
    assert "? ok" in result.stdout and result.stdout.isascii()
    assert json.loads((inputs / "verify.json").read_text())["ok"] is True


def test_closed_pipe_keeps_the_result(inputs: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "msal_deploy", "data", "verify", "monuseg", "--json", "verify.json"]
    result = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, cwd=inputs)
    os.close(write)
    assert result.returncode == 128 + signal.SIGPIPE
    assert "Error" not in result.stderr and "Traceback" not in result.stderr
    assert (inputs / "verify.json").exists()


def test_any_verb_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    code = """
import tempfile
from msal_deploy.files import atomic_directory, temporary_folder
with temporary_folder(name='unpacked') as folder, atomic_directory('out'):
    print('ready', flush=True); input()
"""
    process = started(code, tmp_path)
    process.kill()
    process.wait()
    assert len(names(tmp_path)) == 2  # the folder and the lock
    command = [sys.executable, "-m", "msal_deploy", "doctor", "--json", "doctor.json"]
    subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=600)
    assert names(tmp_path) == ["doctor.json"]


# A mutex that is locked twice blocks inside the C library for ever, as a library does that computes for minutes.
IN_A_LIBRARY = """
import ctypes
from msal_deploy.cli.signals import honour_signals
from msal_deploy.files import temporary_folder
honour_signals()
mutex = ctypes.create_string_buffer(64)
lock = ctypes.CDLL(None).pthread_mutex_lock
with temporary_folder('.'):
    print('ready', flush=True)
    lock(mutex)
    lock(mutex)
"""
# An exception in a callback of a C library is lost.
IN_A_CALLBACK = """
import ctypes
from msal_deploy.cli.signals import honour_signals
from msal_deploy.files import temporary_folder
honour_signals()
def compare(first, second):
    for _ in range(50_000_000):
        pass
    return 0
compare = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(compare)
array = (ctypes.c_int * 2)()
with temporary_folder('.'):
    print('ready', flush=True)
    while True:
        ctypes.CDLL(None).qsort(array, 2, 4, compare)
"""
IN_PYTHON = """
from msal_deploy.cli.signals import honour_signals
from msal_deploy.files import temporary_folder
honour_signals()
with temporary_folder('.'):
    print('ready', flush=True)
    while True:
        pass
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("code", [IN_PYTHON, IN_A_LIBRARY, IN_A_CALLBACK], ids=["python", "library", "callback"])
def test_a_signal_ends_the_process_whatever_it_does(tmp_path: Path, code: str, number: signal.Signals) -> None:
    process = started(code, tmp_path)
    process.send_signal(number)
    _, errors = process.communicate()
    assert process.returncode in (128 + number, -number)
    # Ctrl-C in Python code is an exception, which Python reports if there is no command line around it.
    assert number == signal.SIGINT or "Traceback" not in errors
    assert names(tmp_path) == []


def test_a_signal_ends_the_process_also_if_nobody_reads_its_errors(tmp_path: Path) -> None:
    process = started(IN_A_LIBRARY, tmp_path)
    assert process.stderr is not None
    process.stderr.close()
    process.terminate()
    assert process.wait() == 128 + signal.SIGTERM
    assert names(tmp_path) == []


def test_child_processes_leave_signals_to_their_parent(tmp_path: Path) -> None:
    code = """
import os, signal
from msal_deploy.cli.signals import honour_signals
honour_signals()
child = os.fork()
if child == 0:
    os.kill(os.getpid(), signal.SIGINT)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)
_, status = os.waitpid(child, 0)
assert os.WTERMSIG(status) == signal.SIGTERM
print('ready', flush=True)
input()
print('alive')
"""
    process = started(code, tmp_path)
    time.sleep(2.5)  # longer than a parent that had heard of the child's signal would live
    output, _ = process.communicate("\n")
    assert output == "alive\n"
