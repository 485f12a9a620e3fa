"""Export: checkpoint -> bundle with the FP32 graph, golden tensors, and a comparison of the graph with PyTorch."""

import copy
import platform
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
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
from msal_deploy.files import StrPath, atomic_directory
from msal_deploy.graph import check_graph
from msal_deploy.network import DeployedNetwork
from msal_deploy.runtimes import open_engine
from msal_deploy.spec import Axis, ModelSpec, TensorSpec, UInt8Images

GRAPH = graph_name("fp32")
BATCHES = (1, 2, 5)
SIZES = ((256, 256), (512, 512), (768, 512))
LARGEST_ACTIVATION = 2**29  # bytes; both runtimes keep several of that size at once
PACKAGES = ("msal-deploy", "torch", "torchvision", "onnx", "onnxruntime", "numpy")


class Check(msgspec.Struct, frozen=True):
    """Maximum |Δ probability| between torch and ONNX Runtime at one shape."""

    batch: int
    height: int
    width: int
    max_abs_delta: float


class ExportReport(msgspec.Struct, frozen=True):
    """The exported bundle, and how far its graph is from torch.

    Attributes:
        bundle: Folder of the bundle.
        opset: ONNX opset of the graph.
        nodes: Number of nodes of the graph.
        tolerance: Maximum |Δ probability| that the recipe allows.
        checks: The measured shapes.
    """

    bundle: Path
    opset: int
    nodes: int
    tolerance: float
    checks: tuple[Check, ...]

    @property
    def worst(self) -> float:
        """Maximum |Δ probability| over all shapes."""
        return max(check.max_abs_delta for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON types, with the name of the bundle instead of its path."""
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
    out: StrPath,
    *,
    spec: ModelSpec | None = None,
    shapes: Sequence[tuple[int, int, int]] = (),
    finish: Callable[[Path], None] = lambda folder: None,
    progress: bool = False,
) -> ExportReport:
    """Write a bundle with the FP32 graph of `checkpoint`. Nothing is written to `out` unless every check passes::

        report = export(load_checkpoint("runs/r34/best.safetensors"), "bundle")
        print(report.worst)

    Args:
        out: Folder of the bundle; an older bundle there is replaced.
        spec: Input and output of the graph.
        shapes: (batch, height, width) to compare; by default those of `comparison_shapes`.
        finish: Called with the folder of the FP32 bundle before it becomes `out`, to add FP16 and INT8. If it raises,
            nothing is written.
        progress: Show a progress bar on stderr.

    Raises:
        BadInput: The weights do not fit the recipe's network, or `out` contains something else.
        GateFailed: The graph is invalid, or differs from torch by more than the recipe's tolerance.
    """
    out = Path(out)
    spec = spec or ModelSpec()
    network = DeployedNetwork(checkpoint.network(), spec).eval()
    with atomic_directory(out, replaces=is_bundle) as folder:
        _write_checkpoint(checkpoint, folder / CHECKPOINT)
        write_graph(network, spec, folder / GRAPH, checkpoint.recipe.export.opset)
        graph = check_graph(folder / GRAPH)
        _write_golden(network, folder)
        manifest = _manifest(folder, checkpoint, spec)
        write_manifest(folder, manifest)
        checks = tuple(compare(Bundle(folder), shapes or comparison_shapes(network), progress=progress))
        recipe = checkpoint.recipe.export
        report = ExportReport(out, recipe.opset, len(graph.node), recipe.tolerance, checks)
        if not report.worst <= report.tolerance:  # also if it is NaN
            raise GateFailed(
                f"Expected |Δ probability| up to {report.tolerance:.2g} between torch and ONNX Runtime, got "
                f"{report.worst:.2g}",
                "raise export.tolerance in the recipe if you accept this",
            )
        measured = {"torch:fp32 against onnxruntime:fp32": msgspec.to_builtins(checks)}
        write_manifest(folder, msgspec.structs.replace(manifest, checks=measured))
        finish(folder)
    return report


def _write_checkpoint(checkpoint: Checkpoint, target: Path) -> None:
    if checkpoint.file is not None:
        shutil.copyfile(checkpoint.file, target)
    else:
        save_checkpoint(target, checkpoint)


def write_graph(network: DeployedNetwork, spec: ModelSpec, path: Path, opset: int) -> None:
    """Trace `network` into an ONNX file with the names and dynamic axes of `spec`.

    torch's newer exporter (``dynamo=True``) does not write opsets below 18 and splits GlobalAveragePool, while
    TensorRT for Pascal reads at most 17. The tracing exporter writes 17, and its node names contain the module's name.
    """
    names = {tensor.name: _dynamic_axes(tensor) for tensor in (spec.image, spec.probability)}
    # A batch of 2: tracing may treat an extent of 1 as a constant.
    example = torch.zeros(2, 64, 96, 3, dtype=torch.uint8)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that this exporter is deprecated
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
    """Return a copy with batch norms folded into transposed convolutions: the exporter folds only into convolutions."""
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
    """Return uint8[N,H,W,3]: purple blobs on pink, with intensities like H&E. The same seed gives the same images."""
    from scipy.ndimage import gaussian_filter

    random = np.random.default_rng(seed)
    field = gaussian_filter(random.standard_normal((batch, height, width)), (0, 5, 5), mode="wrap")
    share = 1 / (1 + np.exp(-8 * field / field.std()))[..., None]
    colour = share * np.array([110, 70, 150]) + (1 - share) * np.array([230, 190, 215])
    noisy: UInt8Images = np.clip(colour + random.normal(0, 6, colour.shape), 0, 255).astype(np.uint8)
    return noisy


def comparison_shapes(network: nn.Module) -> list[tuple[int, int, int]]:
    """Return `BATCHES` times `SIZES`, with sizes halved until the largest activation of `network` is moderate.

    Only a network that keeps many channels at full resolution needs that: CNN3 has 1024, and comparing five images of
    768×512 px took 19 GB.
    """
    per_pixel = _bytes_per_pixel(network)
    shapes = ((batch, *size) for size in SIZES for batch in BATCHES)
    return list(dict.fromkeys(_halved(shape, per_pixel) for shape in shapes))


def _bytes_per_pixel(network: nn.Module, side: int = 256) -> float:
    """Return the size of the largest activation in bytes for each pixel of the image.

    What goes into a module counts as well: no module returns a concatenation, which is the largest one of a U-Net.
    """
    sizes: list[int] = []

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        sizes.extend(value.nbytes for value in (*inputs, output) if isinstance(value, torch.Tensor))

    hooks = [module.register_forward_hook(note) for module in network.modules()]
    with torch.inference_mode():
        network(torch.zeros(1, side, side, 3, dtype=torch.uint8))
    for hook in hooks:
        hook.remove()
    return max(sizes) / side**2


def _halved(shape: tuple[int, int, int], per_pixel: float) -> tuple[int, int, int]:
    """Halve height and width until an activation fits, as long as they stay multiples of 32."""
    batch, height, width = shape
    while batch * height * width * per_pixel > LARGEST_ACTIVATION and height % 64 == width % 64 == 0:
        height, width = height // 2, width // 2
    return batch, height, width


def compare(bundle: Bundle, shapes: Sequence[tuple[int, int, int]], *, progress: bool = False) -> Iterator[Check]:
    """Yield the maximum |Δ probability| between torch and ONNX Runtime for every shape."""
    console = Console(stderr=True)
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
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):  # msal-deploy itself, if it runs from a source tree
            versions[package] = version(package)
    return versions
