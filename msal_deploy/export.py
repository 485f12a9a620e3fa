"""Export: checkpoint -> bundle, with the FP32 graph, golden tensors and the proof that the graph computes the same."""

import copy
import platform
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from msal_deploy.bundle import (
    CHECKPOINT,
    GOLDEN,
    GOLDEN_IMAGE,
    GOLDEN_PROBABILITY,
    Bundle,
    Manifest,
    artifact,
    graph_name,
    is_bundle,
    write_manifest,
)
from msal_deploy.checkpoint import Checkpoint, save_checkpoint
from msal_deploy.errors import GateFailed
from msal_deploy.files import atomic_directory
from msal_deploy.graph import check_graph
from msal_deploy.network import DeployedNetwork
from msal_deploy.runtimes import open_engine
from msal_deploy.spec import Axis, ModelSpec, TensorSpec, UInt8Images

GRAPH = graph_name("fp32")
BATCHES = (1, 2, 5)
SIZES = ((256, 256), (512, 512), (768, 512))
PACKAGES = ("msal-deploy", "torch", "torchvision", "onnx", "onnxruntime", "numpy")


class Check(msgspec.Struct, frozen=True):
    """Torch against ONNX Runtime at one shape: the largest |Δ probability|."""

    batch: int
    height: int
    width: int
    max_abs_delta: float


class ExportReport(msgspec.Struct, frozen=True):
    """What was exported and how far the graph is from torch."""

    bundle: Path
    opset: int
    nodes: int
    tolerance: float
    checks: tuple[Check, ...]

    @property
    def worst(self) -> float:
        """The largest |Δ probability| over all shapes."""
        return max(check.max_abs_delta for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON types; of the bundle only its name."""
        return {
            "bundle": self.bundle.name,
            "opset": self.opset,
            "nodes": self.nodes,
            "tolerance": self.tolerance,
            "max_abs_delta": self.worst,
            "checks": msgspec.to_builtins(self.checks),
        }


def export(
    checkpoint: Checkpoint,
    out: Path,
    *,
    spec: ModelSpec | None = None,
    shapes: Sequence[tuple[int, int, int]] = (),
    finish: Callable[[Path], None] = lambda folder: None,
    progress: bool = False,
) -> ExportReport:
    """Write a bundle with the FP32 graph of `checkpoint`; nothing is left at `out` unless every check passes.

    Args:
        out: the bundle's folder; an older bundle there is replaced.
        shapes: (batch, height, width) to compare at; by default `BATCHES` times `SIZES`.
        finish: called with the folder of the finished FP32 bundle before it becomes `out`, to add what belongs to it;
            where it raises, nothing is written.

    Raises:
        BadInput: the weights do not fit the recipe's network, or `out` holds something else.
        GateFailed: the graph is invalid, or differs from torch by more than the recipe's tolerance.
    """
    spec = spec or ModelSpec()
    network = DeployedNetwork(checkpoint.network(), spec).eval()
    with atomic_directory(out, replaces=is_bundle) as folder:
        _put_checkpoint(checkpoint, folder / CHECKPOINT)
        write_graph(network, spec, folder / GRAPH, checkpoint.recipe.export.opset)
        graph = check_graph(folder / GRAPH)
        _write_golden(network, folder)
        manifest = _manifest(folder, checkpoint, spec)
        write_manifest(folder, manifest)
        checks = tuple(compare(Bundle(folder), shapes, progress=progress))
        recipe = checkpoint.recipe.export
        report = ExportReport(out, recipe.opset, len(graph.node), recipe.tolerance, checks)
        if not report.worst <= report.tolerance:  # also where it is NaN
            raise GateFailed(
                f"ONNX Runtime's probabilities differ from torch's by up to {report.worst:.2g}, more than the recipe's "
                f"tolerance of {report.tolerance:.2g}; nothing was written"
            )
        proof = {"torch:fp32 against onnxruntime:fp32": msgspec.to_builtins(checks)}
        write_manifest(folder, msgspec.structs.replace(manifest, checks=proof))
        finish(folder)
    return report


def _put_checkpoint(checkpoint: Checkpoint, target: Path) -> None:
    if checkpoint.file is not None:
        shutil.copyfile(checkpoint.file, target)
    else:
        save_checkpoint(target, checkpoint)


def write_graph(network: DeployedNetwork, spec: ModelSpec, path: Path, opset: int) -> None:
    """Trace `network` into an ONNX file with the names and dynamic axes of `spec`.

    torch's newer exporter (``dynamo=True``) writes no opset below 18 and splits GlobalAveragePool; Pascal's TensorRT
    reads 17 at most. So this takes the tracing one, whose node names also say which module they come from.
    """
    names = {tensor.name: _dynamic_axes(tensor) for tensor in (spec.image, spec.probability)}
    # A batch of 2: an extent of 1 may be taken for a constant.
    example = torch.zeros(2, 64, 96, 3, dtype=torch.uint8)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that this exporter is the older one
        torch.onnx.export(
            fuse_deconv_norms(network),
            (example,),
            str(path),
            input_names=[spec.image.name],
            output_names=[spec.probability.name],
            dynamic_axes=names,
            opset_version=opset,
            dynamo=False,
        )


def _dynamic_axes(tensor: TensorSpec) -> dict[int, str]:
    return {index: axis.name for index, axis in enumerate(tensor.axes) if isinstance(axis, Axis)}


def fuse_deconv_norms(network: DeployedNetwork) -> nn.Module:
    """Return a copy with batch norms folded into transposed convolutions; the exporter folds only the others."""
    network = copy.deepcopy(network)
    for block in network.modules():
        if isinstance(block, nn.Sequential) and len(block) > 1 and isinstance(block[0], nn.ConvTranspose2d):
            norm = block[1]
            assert isinstance(norm, nn.BatchNorm2d)
            block[0] = fuse_conv_bn_eval(block[0], norm, transpose=True)
            block[1] = nn.Identity()
    return network


def _write_golden(network: DeployedNetwork, folder: Path) -> None:
    image = example_images(2, 256, 256)
    (folder / GOLDEN).mkdir()
    np.save(folder / GOLDEN_IMAGE, image)
    with torch.inference_mode():
        np.save(folder / GOLDEN_PROBABILITY, network(torch.from_numpy(image)).numpy())


def example_images(batch: int, height: int, width: int, seed: int = 0) -> UInt8Images:
    """Return uint8[N,H,W,3]: purple blobs on pink, the intensities of H&E without being a picture of anything."""
    from scipy.ndimage import gaussian_filter

    random = np.random.default_rng(seed)
    field = gaussian_filter(random.standard_normal((batch, height, width)), (0, 5, 5), mode="wrap")
    share = 1 / (1 + np.exp(-8 * field / field.std()))[..., None]
    colour = share * np.array([110, 70, 150]) + (1 - share) * np.array([230, 190, 215])
    noisy: UInt8Images = np.clip(colour + random.normal(0, 6, colour.shape), 0, 255).astype(np.uint8)
    return noisy


def compare(bundle: Bundle, shapes: Sequence[tuple[int, int, int]] = (), *, progress: bool = False) -> Iterator[Check]:
    """Yield the largest |Δ probability| between torch and ONNX Runtime for every batch and size."""
    console = Console(stderr=True)
    shapes = shapes or [(batch, *size) for size in SIZES for batch in BATCHES]
    with open_engine(bundle, "torch:fp32") as torch_engine, open_engine(bundle, "onnxruntime:fp32") as onnx_engine:
        for batch, height, width in track(shapes, "torch against ONNX Runtime", console=console, disable=not progress):
            images = example_images(batch, height, width)
            delta = np.abs(torch_engine(images) - onnx_engine(images)).max()
            yield Check(batch, height, width, float(delta))


def _manifest(folder: Path, checkpoint: Checkpoint, spec: ModelSpec) -> Manifest:
    artifacts = {
        CHECKPOINT: artifact(folder, CHECKPOINT),
        GRAPH: artifact(folder, GRAPH, CHECKPOINT),
        GOLDEN_IMAGE: artifact(folder, GOLDEN_IMAGE),
        GOLDEN_PROBABILITY: artifact(folder, GOLDEN_PROBABILITY, CHECKPOINT, GOLDEN_IMAGE),
    }
    return Manifest(spec, checkpoint.recipe, checkpoint.licence, _versions(), artifacts)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from a source tree
            continue
    return found
