"""One command at a time writes to an output, and what a killed one left is removed by the next."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from msal_deploy.errors import BadInput
from msal_deploy.files import atomic as atomic_module
from msal_deploy.files import (
    atomic_directory,
    atomic_file,
    output_file,
    output_folder,
    output_lock,
    regular_file,
    remove_leftovers,
    temporary_folder,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def start(code: str, folder: Path) -> "subprocess.Popen[str]":
    """Start a Python program in a folder, and wait until it has printed a line."""
    environment = {name: value for name, value in os.environ.items() if name != "MSAL_DEPLOY_LOCKED"}
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=folder,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def end(process: "subprocess.Popen[str]") -> None:
    process.communicate("\n")
    assert process.returncode == 0


LOCK = "from msal_deploy.files import output_lock\nwith output_lock('out'):\n print('ready', flush=True); input()"
DIRECTORY = """
from msal_deploy.files import atomic_directory
with atomic_directory('out') as folder:
    (folder / 'half').write_text('half'); print('ready', flush=True); input()
"""
FILE = DIRECTORY.replace("atomic_directory", "atomic_file").replace("(folder / 'half')", "folder")


@pytest.mark.parametrize("code", [LOCK, DIRECTORY])
def test_second_command_is_refused_and_a_third_is_not(tmp_path: Path, code: str) -> None:
    process = start(code, tmp_path)
    with (
        pytest.raises(BadInput, match=r"Another msal-deploy command is writing to .*out; wait until"),
        output_lock(tmp_path / "out"),
    ):
        pytest.fail("it has the lock, too")
    end(process)
    with output_lock(tmp_path / "out"):
        pass
    assert names(tmp_path) == (["out"] if code == DIRECTORY else [])


def test_a_lock_by_another_name_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("out")
    process = start(LOCK, tmp_path)
    with pytest.raises(BadInput), output_lock(tmp_path / "x" / ".." / "link"):
        pass
    end(process)


def test_waiting_command_goes_on_when_the_first_has_ended(tmp_path: Path) -> None:
    process, waiting = start(LOCK, tmp_path), threading.Event()

    def release() -> None:
        waiting.wait()
        end(process)

    thread = threading.Thread(target=release)
    thread.start()
    with output_lock(tmp_path / "out", waiting=waiting.set):
        assert waiting.is_set()
    thread.join()


def test_lock_may_be_taken_again_within_and_by_child_processes(tmp_path: Path) -> None:
    with output_lock(tmp_path / "out"), output_lock(tmp_path / "out"):
        code = "from msal_deploy.files import output_lock\nwith output_lock('out'): print('inside')"
        run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert run.stdout == "inside\n"
    assert names(tmp_path) == []
    assert not os.environ.get("MSAL_DEPLOY_LOCKED")


def test_another_thread_does_not_share_the_lock(tmp_path: Path) -> None:
    refused: list[BaseException] = []

    def attempt() -> None:
        try:
            with output_lock(tmp_path / "out"):
                pass
        except BadInput as error:
            refused.append(error)

    with output_lock(tmp_path / "out"):
        thread = threading.Thread(target=attempt)
        thread.start()
        thread.join()
    assert len(refused) == 1


def test_folders_made_for_a_lock_go_if_nothing_was_written(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), output_lock(tmp_path / "a" / "b" / "out"):
        raise RuntimeError
    assert names(tmp_path) == []


@pytest.mark.parametrize("code", [LOCK, DIRECTORY, FILE])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_next_command_removes_what_a_killed_one_left(tmp_path: Path, code: str, number: int) -> None:
    process = start(code, tmp_path)
    process.send_signal(number)
    process.wait()
    assert names(tmp_path) != []
    with output_lock(tmp_path / "out"):
        pass
    assert names(tmp_path) == []


def test_leftovers_of_running_commands_stay(tmp_path: Path) -> None:
    process = start(DIRECTORY, tmp_path)
    remove_leftovers(tmp_path)
    end(process)
    assert (tmp_path / "out" / "half").read_text() == "half"


@pytest.mark.parametrize("name", [".mine", ".a.msal-deploy-notes", "a.msal-deploy-abcd_123", ".a.partial-7"])
def test_files_of_the_user_are_no_leftovers(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / ".b.msal-deploy-abcd_123").write_text("a file, and leftovers are folders")
    (tmp_path / ".link.msal-deploy-abcd_123").symlink_to(tmp_path / name)
    remove_leftovers(tmp_path, below=True)
    assert len(names(tmp_path)) == 3


def test_temporary_names_cannot_be_foreseen_and_are_for_the_owner_only(tmp_path: Path) -> None:
    with temporary_folder(tmp_path, "a") as first, temporary_folder(tmp_path, "a") as second:
        assert first != second
        assert first.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("exchanges", [True, False])
def test_swap_leaves_nothing_else(tmp_path: Path, exchanges: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not exchanges:
        monkeypatch.setattr(atomic_module, "_exchange", lambda first, second: False)
    for content in ("old", "new"):
        with atomic_directory(tmp_path / "out", replaces=lambda folder: True) as folder:
            (folder / "a").write_text(content)
    assert (tmp_path / "out" / "a").read_text() == "new"
    assert names(tmp_path) == ["out"]


def test_swap_keeps_a_complete_folder_at_every_instant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    monkeypatch.setattr(atomic_module, "_exchange", real := atomic_module._exchange)
    for content in ("old", "new"):
        with atomic_directory(tmp_path / "out", replaces=lambda folder: True) as folder:
            (folder / "a").write_text(content)
            seen.append((tmp_path / "out").exists())
    assert seen == [False, True]
    (tmp_path / "b").mkdir()
    assert real(tmp_path / "out", tmp_path / "b")  # this system has it: the swap above was one step
    assert names(tmp_path / "out") == [] and names(tmp_path / "b") == ["a"]


def test_old_folder_comes_back_if_the_process_is_killed_between_two_renames(tmp_path: Path) -> None:
    code = """
import os
from msal_deploy.files import atomic, atomic_directory
atomic._exchange = lambda first, second: False
old_rename, renames = atomic.Path.rename, []
def rename(self, target):
    old_rename(self, target)
    print('ready', flush=True); input()
with atomic_directory('out', replaces=lambda folder: True) as folder:
    (folder / 'a').write_text('new')
    atomic.Path.rename = rename
"""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").write_text("old")
    process = start(code, tmp_path)
    assert not (tmp_path / "out").exists()
    process.kill()
    process.wait()
    with output_lock(tmp_path / "out"):
        assert (tmp_path / "out" / "a").read_text() == "old"
    assert names(tmp_path) == ["out"]


def fifo(path: Path) -> None:
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.mkdir()


def device(path: Path) -> None:
    try:
        os.mknod(path, 0o600 | 0o020000, os.makedev(1, 3))  # of the same kind as /dev/null
    except PermissionError:
        pytest.skip("only root may create a device node")


def loop(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize("make", [fifo, folder, device, loop])
@pytest.mark.parametrize("linked", [False, True])
def test_what_is_not_a_file_is_neither_read_nor_written(tmp_path: Path, make: object, linked: bool) -> None:
    assert callable(make)
    make(tmp_path / "it")
    before = (tmp_path / "it").lstat()
    path = tmp_path / "it"
    if linked:
        path = tmp_path / "link"
        path.symlink_to(tmp_path / "it")
    with pytest.raises(BadInput):
        regular_file(path, "XML")
    with pytest.raises(BadInput):
        output_file(path)
    with pytest.raises(BadInput), atomic_file(path):
        pytest.fail("the block runs although the output is refused")
    after = (tmp_path / "it").lstat()
    assert (before.st_mode, before.st_ino) == (after.st_mode, after.st_ino)


def test_output_through_a_link_goes_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to("real.json")
    with atomic_file(tmp_path / "link.json") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "real.json").read_text() == "new"


@pytest.mark.parametrize("path", ["", ".", "/", "x" * 300, "file/a.json", "a\0b"])
def test_paths_that_cannot_be_an_output_file(tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    with pytest.raises(BadInput):
        output_file(path)
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("path", ["/", "file", "file/out", "x" * 300])
def test_paths_that_cannot_be_an_output_folder(tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    with pytest.raises(BadInput):
        output_folder(path, lambda folder: False)


def test_empty_mount_point_is_filled_and_a_full_one_refused(small_disk: Path) -> None:
    with atomic_directory(small_disk) as new:
        (new / "a").write_text("1")
        (new / "manifest.json").write_text("2")
    assert names(small_disk) == ["a", "manifest.json"]
    with (
        pytest.raises(BadInput, match="is a mount point and is not empty"),
        atomic_directory(small_disk, replaces=lambda folder: True),
    ):
        pytest.fail("the block runs although the folder is refused")


def test_long_names(tmp_path: Path) -> None:
    name = "ü" * 110
    with atomic_file(tmp_path / name) as temporary:
        temporary.write_text("1")
    assert names(tmp_path) == [name]
