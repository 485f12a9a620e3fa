"""Faults planted in the shipped network, on real patches: each is caught, and the message names it.

MSAL-Net/R18 on MoNuSeg's training images, with OpenVINO. The faults of a graph are edits of its ONNX file, the others
are in the engine. The FP32 graph is also the INT8 one, which is a fault of its own and the cheapest second engine.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from msal_deploy import export as export_stage
from msal_deploy.bundle import Bundle, artifact, write_manifest
from msal_deploy.checkpoint import load_checkpoint
from msal_deploy.data import Patch, corner_patches, find_dataset
from msal_deploy.errors import GateFailed
from msal_deploy.graph import load_graph
from msal_deploy.runtimes import open_engine
from msal_deploy.runtimes.openvino import OpenVinoEngine
from msal_deploy.scoring import check_output
from msal_deploy.validate import ValidationReport, validate
from msal_deploy.validate.checks import Check, check_engine, compare_builds
from msal_deploy.validate.diagnose import diagnose
from msal_deploy.validate.precision_check import check_precision
from msal_deploy.validate.probe import Probe, choose_tiles, probe_reference
from msal_deploy.weights import find_weights

MONUSEG = os.environ.get("MSAL_DEPLOY_MONUSEG")
pytestmark = pytest.mark.skipif(not MONUSEG, reason="MSAL_DEPLOY_MONUSEG does not name a MoNuSeg copy")

SIZE = 128
ENGINE = "openvino:fp32"
Fault = Callable[[onnx.ModelProto], None]


@pytest.fixture(scope="module")
def patches() -> tuple[Patch, ...]:
    """The four corners of one training image, then a corner of 13 others."""
    first, *others = find_dataset(Path(MONUSEG or "")).train[1:15]
    return (*corner_patches(first, SIZE), *(corner_patches(image, SIZE)[0] for image in others))


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The shipped R18 weights as an FP32 graph, and that graph once more under the name of an INT8 graph."""
    folder = tmp_path_factory.mktemp("shipped") / "bundle"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_stage, "SIZES", ((64, 64),))
        patch.setattr(export_stage, "BATCHES", (1,))
        export_stage.export(load_checkpoint(find_weights("msal-net-r18")), folder)
    shutil.copyfile(folder / "model.fp32.onnx", folder / "model.int8.onnx")
    return add_graph(Bundle(folder), "model.int8.onnx")


@pytest.fixture(scope="module")
def probe(shipped: Bundle, patches: tuple[Patch, ...]) -> Probe:
    with open_engine(shipped, ENGINE) as reference:
        return probe_reference(reference, choose_tiles(patches, SIZE))


@pytest.fixture
def faulty(shipped: Bundle, tmp_path: Path) -> Callable[[Fault], Bundle]:
    """Return a copy of the bundle whose FP32 graph has a fault."""

    def plant(fault: Fault) -> Bundle:
        folder = Path(shutil.copytree(shipped.path, tmp_path / "faulty"))
        model = load_graph(folder / "model.fp32.onnx")
        fault(model)
        onnx.save(model, folder / "model.fp32.onnx")
        return add_graph(Bundle(folder), "model.fp32.onnx")

    return plant


@pytest.fixture
def infer(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Any]], None]:
    """Let OpenVINO engines compute through a function of the images and their true `_infer`."""

    def replace(fault: Callable[..., Any]) -> None:
        true = OpenVinoEngine._infer
        monkeypatch.setattr(OpenVinoEngine, "_infer", lambda self, images: fault(images, lambda x: true(self, x)))

    return replace


def add_graph(bundle: Bundle, name: str) -> Bundle:
    entries = {**bundle.manifest.artifacts, name: artifact(bundle.path, name)}
    write_manifest(bundle.path, msgspec.structs.replace(bundle.manifest, artifacts=entries))
    return Bundle(bundle.path)


def swap_channels(model: onnx.ModelProto) -> None:
    """BGR instead of RGB: the graph takes the channels in reverse order."""
    transpose = next(node for node in model.graph.node if node.op_type == "Transpose")
    model.graph.initializer.append(numpy_helper.from_array(np.int64([2, 1, 0]), "reverse"))
    gather = helper.make_node("Gather", [transpose.output[0], "reverse"], ["reversed"], axis=1)
    pass_through(model, transpose.output[0], "reversed")
    model.graph.node.insert(list(model.graph.node).index(transpose) + 1, gather)


def drop_normalisation(model: onnx.ModelProto) -> None:
    """The network gets intensities from 0 to 255."""
    subtract, divide = (
        next(n for n in model.graph.node if n.name.endswith(f"normalise/{op}")) for op in ("Sub", "Div")
    )
    pass_through(model, divide.output[0], subtract.input[0])


def only_scale(model: onnx.ModelProto) -> None:
    """The network gets intensities from 0 to 1: mean and standard deviation are left out."""
    subtract, divide = (
        next(n for n in model.graph.node if n.name.endswith(f"normalise/{op}")) for op in ("Sub", "Div")
    )
    model.graph.initializer.append(numpy_helper.from_array(np.float32(255), "white"))
    divide.input[:] = [subtract.input[0], "white"]


def pass_through(model: onnx.ModelProto, before: str, after: str) -> None:
    """Let the consumers of one tensor read another."""
    for node in model.graph.node:
        node.input[:] = [after if name == before else name for name in node.input]


def shift_half(p: np.ndarray, axis: int) -> np.ndarray:
    """Move maps half a pixel towards the end of an axis, by the mean of two neighbours."""
    return ((p + np.roll(p, 1, axis)) / 2).astype(np.float32)


def named(checks: tuple[Check, ...], name: str) -> Check:
    return next(check for check in checks if check.name == name)


def test_a_correct_engine_passes_every_check(shipped: Bundle, probe: Probe) -> None:
    with open_engine(shipped, ENGINE) as engine:
        checks = check_engine(engine, probe)
        assert diagnose(engine, probe) is None
    assert [(check.name, check.passed) for check in checks] == [("batch", True), ("crop", True), ("repeat", True)]
    assert check_precision(shipped, ENGINE).passed
    assert compare_builds(open_engine(shipped, ENGINE), open_engine(shipped, ENGINE), probe.tiles).passed


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (swap_channels, "when red and blue are swapped"),
        (drop_normalisation, "when its input is normalised first"),
        (only_scale, "when its input is normalised by mean and standard deviation first"),
    ],
)
def test_a_fault_of_the_input_is_named(
    fault: Fault, cause: str, faulty: Callable[[Fault], Bundle], probe: Probe
) -> None:
    with open_engine(faulty(fault), ENGINE) as engine:
        sentence = diagnose(engine, probe)
    assert sentence is not None
    assert cause in sentence


@pytest.mark.parametrize(("axis", "direction"), [(2, "0.5 px down"), (3, "0.5 px to the right")])
@pytest.mark.parametrize("where", ["output", "image"])
def test_a_shift_by_half_a_pixel_is_named(
    axis: int, direction: str, where: str, infer: Callable[..., None], shipped: Bundle, probe: Probe
) -> None:
    if where == "output":
        infer(lambda images, true: shift_half(true(images), axis))
    else:
        infer(lambda images, true: true(np.round(shift_half(images.astype(np.float32), axis - 1)).astype(np.uint8)))
    with open_engine(shipped, ENGINE) as engine:
        sentence = diagnose(engine, probe)
    assert sentence is not None
    assert f"shifted {direction} (" in sentence


def test_a_shift_in_larger_images_only_is_named(infer: Callable[..., None], shipped: Bundle, probe: Probe) -> None:
    infer(lambda images, true: shift_half(true(images), 3) if images.shape[1] > SIZE else true(images))
    with open_engine(shipped, ENGINE) as engine:
        checks = check_engine(engine, probe)
    assert [check.name for check in checks if not check.passed] == ["crop"]
    assert f"Tiles of {SIZE}×{SIZE} px against the same pixels in an image of 256×256 px" in named(checks, "crop").text


@pytest.mark.parametrize("row", [0, 2])
def test_one_wrong_row_of_a_batch_is_named(row: int, infer: Callable[..., None], shipped: Bundle, probe: Probe) -> None:
    def previous_row(images: np.ndarray, true: Callable[..., Any]) -> np.ndarray:
        p = true(images)
        if len(p) > row:
            p[row] = p[row - 1]
        return p

    infer(lambda images, true: previous_row(images, true) if len(images) > 1 else true(images))
    with open_engine(shipped, ENGINE) as engine:
        checks = check_engine(engine, probe)
    assert [check.name for check in checks if not check.passed] == ["batch"]
    batch = named(checks, "batch")
    assert batch.position == f"row {row + 1} of a batch of 4"
    assert f"apart at row {row + 1} of a batch of 4 (" in batch.text
    assert f"row {row + 1} has the result of row {(row - 1) % 4 + 1}" in batch.text


def test_an_fp32_graph_under_an_int8_name_is_named(shipped: Bundle) -> None:
    check = check_precision(shipped, "openvino:int8")
    assert not check.passed
    assert "openvino:int8 opens model.int8.onnx, which has no INT8 layer" in check.text
    assert check.text.endswith("it is a copy of model.fp32.onnx")


def failures(bundle: Bundle, engine: str, patches: tuple[Patch, ...]) -> tuple[ValidationReport, str]:
    """Judge an engine on a patch of each of 14 images; return the report and why the engine did not pass."""
    report = validate(bundle, [engine], patches[3:], reference="onnxruntime:fp32", batch=4)
    assert report.images == 14
    with pytest.raises(GateFailed) as caught:
        report.require_passed()
    return report, str(caught.value)


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (swap_channels, "red and blue are swapped"),
        (drop_normalisation, "normalised"),
        (only_scale, "normalised by mean and standard deviation"),
    ],
)
def test_validate_names_the_fault_of_a_graph(
    shipped: Bundle, patches: tuple[Patch, ...], tmp_path: Path, fault: Fault, cause: str
) -> None:
    folder = Path(shutil.copytree(shipped.path, tmp_path / "faulty"))
    model = load_graph(folder / "model.fp32.onnx")
    fault(model)
    onnx.save(model, folder / "model.int8.onnx")
    report, why = failures(add_graph(Bundle(folder), "model.int8.onnx"), "openvino:int8", patches)
    assert report.engines["openvino:int8"].judgement.lossy
    assert cause in why
    assert "which has no INT8 layer" in why


def test_validate_names_a_half_pixel_shift(
    infer: Callable[..., None], shipped: Bundle, patches: tuple[Patch, ...]
) -> None:
    infer(lambda images, true: shift_half(true(images), 3))
    report, why = failures(shipped, ENGINE, patches)
    assert report.engines[ENGINE].judgement.failures
    assert "shifted" in why and "0.5" in why


def test_validate_names_a_wrong_row_of_a_batch(
    infer: Callable[..., None], shipped: Bundle, patches: tuple[Patch, ...]
) -> None:
    def third_is_second(images: np.ndarray, true: Callable[..., Any]) -> np.ndarray:
        probability = true(images)
        if len(images) > 2:
            probability[2] = probability[1]
        return probability

    infer(third_is_second)
    _, why = failures(shipped, ENGINE, patches)
    assert "row 3 of a batch of 4" in why


def test_validate_refuses_an_fp32_graph_under_an_int8_name(shipped: Bundle, patches: tuple[Patch, ...]) -> None:
    report, why = failures(shipped, "openvino:int8", patches)
    assert report.engines["openvino:int8"].judgement.failures == ()  # it loses nothing, which is why it would be missed
    assert "which has no INT8 layer" in why


def test_validate_names_the_one_ruined_image_of_14(
    infer: Callable[..., None], shipped: Bundle, patches: tuple[Patch, ...]
) -> None:
    """The network sees a black image instead of one of the patches."""
    ruined = patches[-2]

    def blank(images: np.ndarray, true: Callable[..., Any]) -> np.ndarray:
        same = images.shape[1:] == ruined.image.shape and np.all(images == ruined.image, axis=(1, 2, 3), keepdims=True)
        return true(images * ~np.asarray(same))

    infer(blank)
    report, why = failures(shipped, ENGINE, patches)
    judgement = report.engines[ENGINE].judgement
    assert [image.stem for image in judgement.ruined_images] == [ruined.stem] == [judgement.worst_image.stem]
    assert f"1 image loses more than 0.02 Dice: {ruined.stem}" in why
    probability = report.engines[ENGINE].differences.flips_by_distance
    flipped = [one.flipped for one in probability]
    assert sum(flipped[2:]) > 0.2 * sum(flipped)  # more than 1 µm from every boundary: nuclei are lost, not edges


def test_a_correct_engine_passes(shipped: Bundle, patches: tuple[Patch, ...]) -> None:
    report = validate(shipped, [ENGINE], patches[3:], reference="onnxruntime:fp32", batch=4)
    report.require_passed()
    assert report.engines[ENGINE].judgement.verdict == "within"


def test_a_missing_sigmoid_is_named(faulty: Callable[[Fault], Bundle], probe: Probe) -> None:
    def drop_sigmoid(model: onnx.ModelProto) -> None:
        model.graph.node[-1].op_type = "Identity"

    with open_engine(faulty(drop_sigmoid), ENGINE) as engine:
        findings = check_output(engine(probe.tiles), probe.tiles)
    assert "check that the graph ends in a sigmoid" in findings.sentences[0]
