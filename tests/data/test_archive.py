import errno
import io
import stat
import tempfile
import zipfile
from pathlib import Path

import pytest

from msal_deploy.data import archive, open_dataset
from msal_deploy.data.archive import unpack
from msal_deploy.errors import BadInput, MissingRequirement


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A separate folder for temporary files, so that tests can check that nothing is left in it."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def zipped(folder: Path, *, under: str = "") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            opened.write(path, under + path.relative_to(folder).as_posix())
    return buffer.getvalue()


def zip_of(path: Path, members: dict[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in members.items():
            opened.writestr(name, content)
    return path


def refused(path: Path, temporary: Path) -> str:
    """Open a zip that must be rejected, check that nothing is left behind, and return the message."""
    with pytest.raises(BadInput) as caught, open_dataset(path):
        pass
    assert list(temporary.iterdir()) == []
    return str(caught.value)


def test_open_dataset_unpacks_a_zip_and_cleans_up(official: Path, tmp_path: Path, temporary: Path) -> None:
    path = tmp_path / "set.zip"
    path.write_bytes(zipped(official, under="MoNuSeg/"))
    with open_dataset(path) as dataset:
        assert [len(dataset.train), len(dataset.test)] == [2, 1]
        assert dataset.root.is_relative_to(temporary)
        assert dataset.train[0].mask().any()
    assert list(temporary.iterdir()) == []


def test_open_dataset_cleans_up_after_an_error(official: Path, tmp_path: Path, temporary: Path) -> None:
    path = tmp_path / "set.zip"
    path.write_bytes(zipped(official))
    with pytest.raises(KeyboardInterrupt), open_dataset(path):
        raise KeyboardInterrupt
    assert list(temporary.iterdir()) == []


def test_names_of_nested_zips_decide_the_split(official: Path, tmp_path: Path) -> None:
    train, test = zipped(official / "MoNuSeg 2018 Training Data"), zipped(official / "MoNuSegTestData")
    inner = zip_of(tmp_path / "inner.zip", {"a/Train.zip": train, "a/Test.zip": test, "__MACOSX/a/._Train.zip": b""})
    outer = zip_of(tmp_path / "outer.zip", {"data/inner.zip": inner.read_bytes()})
    with open_dataset(outer) as dataset:
        assert [len(dataset.train), len(dataset.test)] == [2, 1]


def test_unpack_accepts_windows_separators(official: Path, tmp_path: Path) -> None:
    members = {f"train\\images\\{name}": b"x" for name in ("a.tif", "b.tif")}
    unpack(zip_of(tmp_path / "w.zip", members), tmp_path / "out")  # type: ignore[arg-type]
    assert (tmp_path / "out" / "train" / "images" / "a.tif").read_bytes() == b"x"


@pytest.mark.parametrize("name", ["../out.tif", "a/../../out.tif", "/out.tif", "..\\out.tif", "C:\\out.tif"])
def test_unpack_rejects_members_outside_the_folder(name: str, tmp_path: Path, temporary: Path) -> None:
    path = zip_of(tmp_path / "set.zip", {"fine.tif": b"x", name: b"x"})
    assert "points outside" in refused(path, temporary)
    assert not list(tmp_path.rglob("*out.tif"))


def test_unpack_rejects_links(tmp_path: Path, temporary: Path) -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    assert "is a link" in refused(zip_of(tmp_path / "set.zip", {"fine.tif": b"x", link: b"/etc"}), temporary)


def test_unpack_checks_members_of_nested_zips(tmp_path: Path, temporary: Path) -> None:
    inner = zip_of(tmp_path / "inner.zip", {"../../out.tif": b"x"})
    outer = zip_of(tmp_path / "outer.zip", {"a.zip": inner.read_bytes()})
    assert "points outside" in refused(outer, temporary)


@pytest.mark.parametrize("damage", ["no zip", "truncated", "flipped", "empty"])
def test_unpack_rejects_damaged_zips(damage: str, official: Path, tmp_path: Path, temporary: Path) -> None:
    content = bytearray(zipped(official))
    if damage == "flipped":
        content[len(content) // 2] ^= 0xFF
    texts = {
        "no zip": b"MoNuSeg",
        "truncated": bytes(content[: len(content) // 2]),
        "flipped": bytes(content),
        "empty": b"",
    }
    path = tmp_path / "set.zip"
    path.write_bytes(texts[damage])
    assert "not a zip or is damaged" in refused(path, temporary)


def test_unpack_rejects_zip_bombs_by_their_headers(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "bomb.zip", {"a.tif": bytes(10**6)})
    with pytest.raises(BadInput, match="unpacks to more than"):
        unpack(path, tmp_path / "out", limit=10**5)
    assert not (tmp_path / "out").exists()


def test_unpack_limits_the_total_size_of_nested_zips(tmp_path: Path) -> None:
    inner = zip_of(tmp_path / "inner.zip", {"a.tif": bytes(60_000)}).read_bytes()
    path = zip_of(tmp_path / "bomb.zip", {"a.zip": inner, "b.zip": inner})
    with pytest.raises(BadInput, match="unpacks to more than"):
        unpack(path, tmp_path / "out", limit=10**5)


def test_unpack_stops_at_the_limit_if_headers_are_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zip_of(tmp_path / "bomb.zip", {"a.tif": bytes(10**6)})
    monkeypatch.setattr(archive, "BLOCK", 1000)
    honest = archive._checked_members
    monkeypatch.setattr(archive, "_checked_members", lambda opened, name, limit: honest(opened, name, 10**9))
    with pytest.raises(BadInput, match="unpacks to more than"):
        unpack(path, tmp_path / "out", limit=10**5)
    assert (tmp_path / "out" / "a.tif").stat().st_size <= 10**5


def test_unpack_rejects_members_larger_than_declared(tmp_path: Path, temporary: Path) -> None:
    path = zip_of(tmp_path / "liar.zip", {"a.tif": bytes(10**6)})
    path.write_bytes(path.read_bytes().replace((10**6).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    assert "not a zip or is damaged" in refused(path, temporary)


def test_unpack_rejects_deep_nesting(tmp_path: Path, temporary: Path) -> None:
    path = zip_of(tmp_path / "0.zip", {"a.tif": b"x"})
    for level in range(1, 6):
        path = zip_of(tmp_path / f"{level}.zip", {f"{level - 1}.zip": path.read_bytes()})
    assert "zips deep" in refused(path, temporary)


def test_unpack_rejects_duplicate_names(tmp_path: Path, temporary: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(tmp_path / "set.zip", "w") as opened:
        opened.writestr("a.tif", b"1")
        opened.writestr("a.tif", b"2")
    assert refused(tmp_path / "set.zip", temporary) == "set.zip holds 'a.tif' twice; make the zip again"


def test_unpack_rejects_encrypted_zips(tmp_path: Path, temporary: Path) -> None:
    path = zip_of(tmp_path / "set.zip", {"a.tif": b"x"})
    content = bytearray(path.read_bytes())
    content[6] |= 1  # the flag in the local header, and in the central one
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(bytes(content))
    assert "cannot be unpacked by Python" in refused(path, temporary)


def test_unpack_on_a_full_disk_raises_missing_requirement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, temporary: Path
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(archive, "_write_members", full)
    with (
        pytest.raises(MissingRequirement, match="disk is full"),
        open_dataset(zip_of(tmp_path / "a.zip", {"a.tif": b"x"})),
    ):
        pass
    assert list(temporary.iterdir()) == []
