"""A bundle opens only if its manifest is valid, and returns only files that match the manifest."""

import io
import json
import os
import shutil
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from tiny_bundle import tiny_graph

from msal_deploy.bundle import (
    CHECKPOINT,
    GOLDEN_IMAGE,
    GOLDEN_PROBABILITY,
    MANIFEST,
    Bundle,
    Manifest,
    artifact,
    write_manifest,
)
from msal_deploy.errors import BadInput
from msal_deploy.files import sha256
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


@pytest.mark.parametrize("name", [f"../{CHECKPOINT}", "/etc/passwd", "a/../b", "$(touch x)", "a\nb", "a b", ".", ""])
def test_bundle_rejects_names_that_are_no_plain_file_names(folder, name):
    entries = json.loads((folder / MANIFEST).read_text())["artifacts"]
    change(folder, artifacts={name: entries[CHECKPOINT]})
    with pytest.raises(BadInput, match="is not a valid manifest"):
        Bundle(folder)


def test_links_are_opened_if_their_content_matches(folder, tmp_path_factory):
    """The caches of Hugging Face, DVC and Bazel are folders of links to files named by their hash."""
    blobs = tmp_path_factory.mktemp("blobs")
    for name in (CHECKPOINT, "model.fp32.onnx", MANIFEST):
        blob = (folder / name).rename(blobs / sha256(folder / name))
        (folder / name).symlink_to(blob)
    assert Bundle(folder).file(CHECKPOINT).read_bytes() == b"weights"
    assert Bundle(folder).graph("fp32") == folder / "model.fp32.onnx"
    (folder / CHECKPOINT).unlink()
    (folder / CHECKPOINT).symlink_to("/etc/passwd")
    with pytest.raises(BadInput, match="has changed since export"):
        Bundle(folder).file(CHECKPOINT)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\xff\xfe{", b'{"a": ' * 50_000, b"[" * 50_000, b'{"format_version": ' + b"9" * 5000 + b"}", b"\0" * 10,
        b'{"licence": "\xff"}', b'{"checks": {"a": 1e999}}', b"{} {}", b'{"licence": "\\ud800"}',
    ],
    ids=range(10),
)  # fmt: skip
def test_manifest_that_is_no_document_is_one_sentence(folder, content):
    (folder / MANIFEST).write_bytes(content)
    with pytest.raises(BadInput) as caught:
        Bundle(folder)
    assert len(str(caught.value)) < 500 and "\n" not in str(caught.value)


def test_manifest_with_a_byte_order_mark_and_crlf_is_read(folder):
    text = (folder / MANIFEST).read_bytes()
    (folder / MANIFEST).write_bytes(b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n"))
    assert Bundle(folder).spec.threshold == 0.4


def test_fifos_and_folders_are_refused_and_never_waited_for(folder):
    bundle = Bundle(folder)
    for name in (CHECKPOINT, MANIFEST):
        (folder / name).unlink()
        os.mkfifo(folder / name)
    with pytest.raises(BadInput, match="missing but listed"):
        bundle.file(CHECKPOINT)
    with pytest.raises(BadInput, match=r"manifest\.json is a FIFO"):
        Bundle(folder)


def external(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")


def second_input(model: onnx.ModelProto) -> None:
    model.graph.input.add().CopyFrom(model.graph.input[0])
    model.graph.input[1].name = "other"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda model: model.Clear(), "has no nodes"),
        (external, "keeps weights in another file"),
        (second_input, "Expected a tensor named 'image'"),
        (lambda model: setattr(model.graph.input[0], "name", "other"), "Expected a tensor named 'image'"),
        (lambda model: setattr(model.graph.output[0], "name", "other"), "Expected a tensor named 'probability'"),
        (lambda model: setattr(model.graph.input[0].type.tensor_type, "elem_type", 1), "Expected uint8 for 'image'"),
        (lambda model: model.graph.input[0].type.tensor_type.shape.dim.pop(), "Expected the axes of the manifest"),
        (lambda model: setattr(model.graph.node[1], "op_type", "NoSuchOperator"), "is not a valid ONNX file"),
        (lambda model: model.graph.node.pop(0), "is not a valid ONNX file"),
    ],
    ids=range(9),
)
def test_graph_of_another_kind_is_refused_whatever_its_hash(folder, change, words):
    model = tiny_graph("fp32")
    change(model)
    sign(folder, "model.fp32.onnx", model.SerializeToString())
    with pytest.raises(BadInput, match=words):
        Bundle(folder).graph("fp32")


def sign(folder: Path, name: str, content: bytes) -> None:
    """Put a file into a bundle and its hash into the manifest, as a stranger would."""
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    entries = json.loads((folder / MANIFEST).read_text())["artifacts"]
    change(folder, artifacts=entries | {name: {"sha256": sha256(folder / name)}})


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


IMAGE, PROBABILITY = np.zeros((1, 32, 64, 3), np.uint8), np.zeros((1, 1, 32, 64), np.float32)
HUGE = npy(IMAGE).replace(b"(1, 32, 64, 3)", b"(9999999999,)")


@pytest.mark.parametrize(
    ("image", "probability"),
    [
        (b"", npy(PROBABILITY)), (npy(IMAGE)[:500], npy(PROBABILITY)), (b"PK\3\4", npy(PROBABILITY)),
        (HUGE, npy(PROBABILITY)), (npy(np.array([{}], object)), npy(PROBABILITY)), (npy(IMAGE[:0]), npy(PROBABILITY)),
        (npy(IMAGE[..., :1]), npy(PROBABILITY)), (npy(IMAGE[:, :31]), npy(PROBABILITY)),
        (npy(IMAGE.astype(np.float32)), npy(PROBABILITY)), (npy(IMAGE[0]), npy(PROBABILITY)),
        (npy(IMAGE), npy(PROBABILITY - 1)), (npy(IMAGE), npy(PROBABILITY * np.nan)), (npy(IMAGE), npy(PROBABILITY + 2)),
        (npy(IMAGE), npy(PROBABILITY.astype(np.float64))), (npy(IMAGE), npy(PROBABILITY[:, :, :, :32])),
        (npy(IMAGE), npy(PROBABILITY[0])), (npy(IMAGE), b"\x93NUMPY\1\0"),
    ],
    ids=range(17),
)  # fmt: skip
def test_golden_tiles_of_another_kind_are_refused_whatever_their_hash(folder, image, probability):
    sign(folder, GOLDEN_IMAGE, image)
    sign(folder, GOLDEN_PROBABILITY, probability)
    with pytest.raises(BadInput) as caught:
        Bundle(folder).golden()
    assert "\n" not in str(caught.value)


def test_golden_tiles_are_returned(folder):
    sign(folder, GOLDEN_IMAGE, npy(IMAGE))
    sign(folder, GOLDEN_PROBABILITY, npy(PROBABILITY))
    images, probability = Bundle(folder).golden()
    assert (images.shape, probability.shape) == (IMAGE.shape, PROBABILITY.shape)


@pytest.mark.parametrize("axes", [[1, 2], [{"name": "batch", "minimum": 1, "maximum": 2, "multiple": 0}, 32, 32, 3]])
def test_bundle_rejects_impossible_axes(folder, axes):
    spec = msgspec.to_builtins(ModelSpec())
    spec["image"]["axes"] = axes
    change(folder, spec=spec)
    with pytest.raises(BadInput):
        Bundle(folder)
