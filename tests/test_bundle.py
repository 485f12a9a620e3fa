"""A bundle opens only if its manifest is valid, and returns only files that match the manifest."""

import json
import shutil
from pathlib import Path

import msgspec
import onnx
import pytest
from tiny_bundle import tiny_graph

from msal_deploy.bundle import CHECKPOINT, MANIFEST, Bundle, Manifest, artifact, write_manifest
from msal_deploy.errors import BadInput
from msal_deploy.recipe import Recipe
from msal_deploy.spec import ModelSpec


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle of two small files."""
    (tmp_path / CHECKPOINT).write_bytes(b"weights")
    onnx.save(tiny_graph("fp32"), tmp_path / "model.fp32.onnx")
    artifacts = {CHECKPOINT: artifact(tmp_path, CHECKPOINT)}
    artifacts["model.fp32.onnx"] = artifact(tmp_path, "model.fp32.onnx", CHECKPOINT)
    write_manifest(tmp_path, Manifest(ModelSpec(threshold=0.4), Recipe(), "MIT", {"torch": "2"}, artifacts, {"a": [1]}))
    return tmp_path


def change(folder: Path, **entries: object) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | entries))


def test_manifest_round_trips(folder):
    bundle = Bundle(folder)
    assert bundle.spec.threshold == 0.4
    assert (bundle.manifest.licence, bundle.manifest.recipe) == ("MIT", Recipe())
    assert bundle.manifest.checks == {"a": [1]}
    assert bundle.manifest.artifacts["model.fp32.onnx"].made_from == (CHECKPOINT,)


def test_moved_bundle_still_opens(folder, tmp_path_factory):
    moved = Path(shutil.copytree(folder, tmp_path_factory.mktemp("moved") / "b"))
    assert Bundle(moved).file(CHECKPOINT).read_bytes() == b"weights"
    assert str(folder) not in (moved / MANIFEST).read_text()


def test_file_returns_the_path_of_an_unchanged_file(folder):
    assert Bundle(folder).file("model.fp32.onnx") == folder / "model.fp32.onnx"


@pytest.mark.parametrize("content", [b"", b"grap", b"graph ", b"Graph"])
def test_file_rejects_a_changed_file(folder, content):
    bundle = Bundle(folder)
    (folder / "model.fp32.onnx").write_bytes(content)
    with pytest.raises(
        BadInput, match=r"fp32\.onnx has changed since export \(SHA-256 differs\); export the bundle again"
    ):
        bundle.file("model.fp32.onnx")
    assert bundle.file(CHECKPOINT).is_file()


def test_file_rejects_a_missing_file(folder):
    (folder / CHECKPOINT).unlink()
    with pytest.raises(BadInput, match="is missing but listed in the manifest; export the bundle again"):
        Bundle(folder).file(CHECKPOINT)
    (folder / CHECKPOINT).mkdir()
    with pytest.raises(BadInput, match="is missing but listed in the manifest; export the bundle again"):
        Bundle(folder).file(CHECKPOINT)


@pytest.mark.parametrize("name", ["model.int8.onnx", "", MANIFEST, "../secret", "."])
def test_file_rejects_a_name_that_is_not_in_the_manifest(folder, name):
    with pytest.raises(BadInput, match=rf"is not in .*; choose from: {CHECKPOINT}, model\.fp32\.onnx"):
        Bundle(folder).file(name)


@pytest.mark.parametrize("where", ["nowhere", "empty", CHECKPOINT])
def test_folder_without_manifest_is_not_a_bundle(folder, where):
    (folder / "empty").mkdir()
    with pytest.raises(BadInput, match=r"is not a bundle \(no manifest\.json\); create one with: msal-deploy export"):
        Bundle(folder / where)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"{}", b"\xff\xfe", b'{"name": "a web app"}'])
def test_bundle_rejects_a_damaged_manifest(folder, content):
    (folder / MANIFEST).write_bytes(content)
    with pytest.raises(BadInput, match="is not a valid manifest"):
        Bundle(folder)


@pytest.mark.parametrize(
    "entries",
    [
        {"artifacts": {CHECKPOINT: {}}},
        {"artifacts": [CHECKPOINT]},
        {"spec": {"threshold": "half"}},
        {"recipe": {"train": {"patch": 33}}},
        {"licence": None},
        {"signature": "unknown"},
    ],
    ids=str,
)
def test_bundle_rejects_a_manifest_with_other_fields(folder, entries):
    change(folder, **entries)
    with pytest.raises(BadInput, match="is not a valid manifest"):
        Bundle(folder)


def test_bundle_rejects_a_later_format_version(folder):
    change(folder, format_version=2)
    with pytest.raises(BadInput, match=r"Expected format version 1 in .*, got 2; export the bundle again"):
        Bundle(folder)


@pytest.mark.parametrize("axes", [[1, 2], [{"name": "batch", "minimum": 1, "maximum": 2, "multiple": 0}, 32, 32, 3]])
def test_bundle_rejects_impossible_axes(folder, axes):
    spec = msgspec.to_builtins(ModelSpec())
    spec["image"]["axes"] = axes
    change(folder, spec=spec)
    with pytest.raises(BadInput):
        Bundle(folder)
