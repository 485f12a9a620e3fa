"""Targets: classes of GPU, one TOML file each, with what serves them and what pays on them.

A file names only what sets its GPU apart: `like` takes everything else from another target. So does your own::

    name = "gtx-1060"
    like = "gtx-1080-ti"
    gpu = "NVIDIA GeForce GTX 1060"
    memory_gib = 6
    bandwidth_gb_s = 192.2
    [peak]
    fp32 = 4.375
    fp16 = 0.068
    int8 = 17.5

Everything here is data of the vendor's, checked against `sources`; a number that nobody publishes is marked
``# estimate`` in its file.
"""

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from msal_deploy.errors import BadInput, suggest
from msal_deploy.files import StrPath

Precision = Literal["fp32", "fp16", "int8"]
Positive = Annotated[float, msgspec.Meta(gt=0)]
Dotted = Annotated[str, msgspec.Meta(pattern=r"^\d+(\.\d+)+$")]


class Peak(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Dense peak rates in TFLOP/s, and in TOPS for INT8; a multiply-accumulate is two operations.

    Attributes:
        fp32: of the CUDA cores.
        fp16: of the tensor cores where there are any, accumulating as TensorRT may choose (the higher rate).
        int8: likewise; dp4a where there are no INT8 tensor cores.
        tf32: of the tensor cores for FP32 tensors, which TensorRT uses unless it is told not to; None without them.
    """

    fp32: Positive
    fp16: Positive
    int8: Positive
    tf32: Positive | None = None


class Drivers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Branches of the driver that serve GPU and TensorRT: from `first`, and up to `last` where support ended."""

    first: int
    last: int | None = None


class Container(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The newest NGC release for the GPU: ``tensorrt:<tag>-py3`` to build in, ``tritonserver:<tag>-py3`` to serve.

    A plan runs in Triton only where both have the same TensorRT, so the pins follow `tensorrt`.

    Attributes:
        tag: such as ``23.07``.
        tensorrt, cuda, python: what the images bring.
    """

    tag: Annotated[str, msgspec.Meta(pattern=r"^\d\d\.\d\d$")]
    tensorrt: Dotted
    cuda: Dotted
    python: Dotted


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A class of GPU.

    Attributes:
        like: the target that the file takes everything else from.
        gpu: the name as the driver tells it.
        sm: compute capability, such as ``6.1``.
        memory_gib: of the device.
        bandwidth_gb_s: of its memory, in 10⁹ bytes a second.
        auto: the precisions that pay, the best first; ``--auto`` takes the first that the bundle has.
        slow: precision -> why it is allowed and does not pay.
        tensorrt: the last TensorRT that serves the GPU.
        tensorrt_first: the first that serves it, of those that msal-deploy works with.
        tensorrt_rtx: whether TensorRT-RTX serves it.
        cuda: the last CUDA that this TensorRT and the GPU work with.
        python: the smallest and the largest Python that both TensorRT's bindings and msal-deploy work with.
        opset: the largest ONNX opset that this TensorRT's parser reads.
        torch: the last PyTorch with kernels for the GPU, with the CUDA of its wheel, such as ``2.13.0+cu126``.
        onnxruntime: the last onnxruntime-gpu that serves the GPU.
        container: of NGC, for TensorRT and Triton.
        pins: what to install with pip, in the order of importance.
        why_last: why nothing newer than `tensorrt` works, None where it is the newest.
        sources: what these numbers rest on.
    """

    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    like: str | None = None
    gpu: str
    architecture: str
    sm: Dotted
    memory_gib: Positive
    bandwidth_gb_s: Positive
    peak: Peak
    auto: tuple[Precision, ...]
    slow: dict[Precision, str] = {}
    tensorrt: Dotted
    tensorrt_first: Dotted
    tensorrt_rtx: bool = False
    cuda: Dotted
    driver: Drivers
    python: tuple[Dotted, Dotted]
    opset: Annotated[int, msgspec.Meta(ge=13)]
    torch: str
    onnxruntime: str
    container: Container
    pins: tuple[str, ...]
    why_last: str | None = None
    sources: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.auto:
            raise ValueError("auto names at least one precision")

    @property
    def sm_number(self) -> tuple[int, int]:
        """The compute capability as major and minor, to compare with."""
        major, minor = self.sm.split(".")
        return int(major), int(minor)


def target_names() -> tuple[str, ...]:
    """Return the names of the targets that come with the package."""
    files = resources.files("msal_deploy.targets").iterdir()
    return tuple(sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml")))


def find_target(name_or_path: StrPath) -> Target:
    """Return a target by its name, or the one in a TOML file of your own.

    Raises:
        BadInput: no such name or file, no TOML, an unknown key or a value out of range.
    """
    name_or_path = str(name_or_path)
    if name_or_path in target_names():
        return _built_in(name_or_path)
    path = Path(name_or_path)
    if path.suffix != ".toml":
        raise BadInput(
            f"No GPU is called {name_or_path!r} here and it is no .toml file; {suggest(name_or_path, target_names())}"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise BadInput(f"There is no target file {path}") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not valid TOML: {error}") from error
    return _read(str(path), text)


def targets() -> tuple[Target, ...]:
    """Return the targets that come with the package: the oldest compute capability first, then what others are like."""

    def place(target: Target) -> tuple[tuple[int, int], bool, str]:
        return target.sm_number, target.like is not None, target.name

    return tuple(sorted(map(_built_in, target_names()), key=place))


def target_of_sm(sm: str, gpu: str = "") -> Target:
    """Return the target of a compute capability: the one whose GPU is `gpu`, or else the first of `targets`.

    Raises:
        BadInput: no target has that compute capability.
    """
    same = [target for target in targets() if target.sm == sm]
    if not same:
        known = ", ".join(sorted({target.sm for target in targets()}, key=lambda text: [*map(int, text.split("."))]))
        raise BadInput(
            f"No target has compute capability {sm} (known: {known}); write a .toml of your own, with like = a target"
        )
    plain = gpu.removeprefix("NVIDIA ")  # older drivers leave the maker out
    return next((target for target in same if target.gpu.removeprefix("NVIDIA ") == plain), same[0])


@cache
def _built_in(name: str) -> Target:
    file = resources.files("msal_deploy.targets").joinpath(f"{name}.toml")
    return _read(file.name, file.read_text(encoding="utf-8"))


def _read(file: str, text: str) -> Target:
    try:
        values = tomllib.loads(text)
        return msgspec.convert(_completed(values), Target)
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"{file} is not valid TOML: {error}") from error
    except msgspec.ValidationError as error:
        raise BadInput(f"{file} is no target: {error}") from error


def _completed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` with what they leave out taken from the target that `like` names."""
    if "like" not in values:
        return dict(values)
    if values["like"] not in target_names():
        raise BadInput(f"like = {values['like']!r} names no target; {suggest(str(values['like']), target_names())}")
    base: dict[str, Any] = msgspec.to_builtins(_built_in(values["like"]))
    return base | dict(values)
