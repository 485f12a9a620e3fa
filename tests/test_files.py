"""Files and folders are whole or not there, also when the block fails, the disk is full, or the target is taken."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from msal_deploy.errors import BadInput, MissingRequirement
from msal_deploy.files import atomic_directory, atomic_file, sha256, write_json

MARKER = "manifest.json"


def is_marked(folder: Path) -> bool:
    return (folder / MARKER).is_file()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_atomic_file_appears_when_the_block_ends(tmp_path):
    target = tmp_path / "new" / "a.json"
    with atomic_file(target) as temporary:
        temporary.write_text("whole")
        assert not target.exists()
        assert temporary.suffix == ".json"  # savers choose their format by it
    assert target.read_text() == "whole"
    assert names(target.parent) == ["a.json"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_failing_block_leaves_the_old_file(tmp_path, error):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(error), atomic_file(target) as temporary:
        temporary.write_text("ha")
        raise error
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_failing_block_leaves_no_new_file(tmp_path):
    with pytest.raises(RuntimeError), atomic_file(tmp_path / "a.txt") as temporary:
        temporary.write_text("ha")
        raise RuntimeError
    assert names(tmp_path) == []


def test_full_disk_leaves_the_old_file(small_disk):
    target = small_disk / "a.bin"
    target.write_bytes(b"old")
    with pytest.raises(MissingRequirement, match="is full"), atomic_file(target) as temporary:
        temporary.write_bytes(bytes(5_000_000))
    assert target.read_bytes() == b"old"
    assert names(small_disk) == ["a.bin"]


def test_read_only_disk(read_only_disk):
    with pytest.raises(BadInput, match="cannot be written"), atomic_file(read_only_disk / "old.json") as temporary:
        temporary.write_text("new")
    with pytest.raises(OSError), atomic_directory(read_only_disk / "bundle"):
        pass
    assert names(read_only_disk) == ["old.json"]


def test_atomic_directory_appears_when_the_block_ends(tmp_path):
    target = tmp_path / "deep" / "bundle"
    with atomic_directory(target) as temporary:
        (temporary / "golden").mkdir()
        (temporary / "golden" / "a").write_text("1")
        assert not target.exists()
    assert (target / "golden" / "a").read_text() == "1"
    assert names(target.parent) == ["bundle"]
    assert target.stat().st_mode & 0o777 == 0o755  # others of the group may read it


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_failing_block_leaves_the_old_folder(tmp_path, error):
    target = tmp_path / "bundle"
    target.mkdir()
    (target / MARKER).write_text("old")
    with pytest.raises(error), atomic_directory(target, replaces=is_marked) as temporary:
        (temporary / MARKER).write_text("new")
        raise error
    assert (target / MARKER).read_text() == "old"
    assert names(tmp_path) == ["bundle"]


def test_full_disk_leaves_no_folder(small_disk):
    with pytest.raises(MissingRequirement, match="is full"), atomic_directory(small_disk / "bundle") as temporary:
        (temporary / "a").write_bytes(bytes(5_000_000))
    assert names(small_disk) == []


def test_atomic_directory_replaces_a_folder_of_the_same_kind(tmp_path):
    target = tmp_path / "bundle"
    for content in ("first", "second"):
        with atomic_directory(target, replaces=is_marked) as temporary:
            (temporary / MARKER).write_text("{}")
            (temporary / content).write_text(content)
    assert names(target) == [MARKER, "second"]
    assert names(tmp_path) == ["bundle"]


def test_atomic_directory_accepts_an_empty_folder(tmp_path):
    with atomic_directory(tmp_path / "empty") as temporary:
        (temporary / "a").write_text("1")
    (tmp_path / "empty" / "a").unlink()
    with atomic_directory(tmp_path / "empty") as temporary:
        (temporary / "b").write_text("1")
    assert names(tmp_path / "empty") == ["b"]


@pytest.mark.parametrize("content", ["precious.txt", ".git"])
@pytest.mark.parametrize("options", [{}, {"replaces": is_marked}])
def test_atomic_directory_rejects_a_foreign_folder_untouched(tmp_path, content, options):
    (tmp_path / content).write_text("precious")
    with pytest.raises(BadInput, match="not empty"), atomic_directory(tmp_path, **options):
        pytest.fail("the block runs although the folder is refused")
    assert (tmp_path / content).read_text() == "precious"
    assert names(tmp_path) == [content]


def test_atomic_directory_rejects_a_file(tmp_path):
    (tmp_path / "bundle").write_text("precious")
    with pytest.raises(BadInput), atomic_directory(tmp_path / "bundle", replaces=is_marked):
        pass
    assert (tmp_path / "bundle").read_text() == "precious"


def test_atomic_directory_follows_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with atomic_directory(tmp_path / "link") as temporary:
        (temporary / "a").write_text("1")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "a").read_text() == "1"


def test_atomic_directory_keeps_files_that_appear_meanwhile(tmp_path):
    target = tmp_path / "bundle"
    with pytest.raises(BadInput), atomic_directory(target, replaces=is_marked) as temporary:
        (temporary / MARKER).write_text("{}")
        target.mkdir()
        (target / "precious").write_text("precious")
    assert (target / "precious").read_text() == "precious"


def test_atomic_directory_writes_or_rejects_a_mount_point(small_disk):
    try:
        with atomic_directory(small_disk) as temporary:
            (temporary / "a").write_text("1")
    except BadInput:
        return
    assert names(small_disk) == ["a"]


def test_relative_path_survives_a_change_of_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    with atomic_directory(Path("bundle")) as temporary:
        (temporary / "a").write_text("1")
        os.chdir("elsewhere")
    assert (tmp_path / "bundle" / "a").is_file()


def test_sha256_hashes_the_bytes(tmp_path):
    content = bytes(range(256)) * 5000
    (tmp_path / "a").write_bytes(content)
    assert sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_write_json_round_trips_and_ends_with_a_newline(tmp_path):
    value = {"Δ": [1, 2.5, None, True], "nested": {"a": "ü"}}
    write_json(tmp_path / "a.json", value)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == value
    assert text.endswith("}\n")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_write_json_rejects_nan_and_infinity(tmp_path, value):
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"a": value})
    assert names(tmp_path) == []
