"""Targets: GPU classes, one TOML file each, with the versions that support them and their preferred precisions.

>>> target = find_target("gtx-1080-ti")
>>> target.sm, target.tensorrt, target.preferred
('6.1', '8.6.1', ('int8', 'fp32'))
>>> target.discouraged["fp16"]
'FP16 runs at 1/64 of the FP32 rate on compute capability 6.1'

A file lists only what differs from the target named by `like`. You can write your own::

    name = "gtx-1060"
    like = "gtx-1080-ti"
    gpu = "NVIDIA GeForce GTX 1060"
    memory_gib = 6
    bandwidth_gb_s = 192.2
    [peak]
    fp32 = 4.375
    fp16 = 0.068
    int8 = 17.5

Everything in the built-in files comes from the vendors' documents listed in `sources`. A number that nobody publishes
is marked ``# estimate`` in its file.
"""

from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from msal_deploy.documents import VersionText, parse, read_toml
from msal_deploy.errors import BadInput
from msal_deploy.files import StrPath
from msal_deploy.targets.names import plain_name, remedy_for, written_capability

Precision = Literal["fp32", "fp16", "int8"]
Positive = Annotated[float, msgspec.Meta(gt=0)]
Text = Annotated[str, msgspec.Meta(max_length=200)]
# A requirement of pip that names a package: no option, no address, nothing that a shell or a Dockerfile would expand.
PIN = r"^[A-Za-z0-9][A-Za-z0-9._-]*(\[[A-Za-z0-9,._-]+\])?((==|~=|!=|<=|>=|<|>)[A-Za-z0-9.*+!_-]+,?)+\Z"
Pin = Annotated[str, msgspec.Meta(pattern=PIN, max_length=200)]
Dotted = Annotated[str, msgspec.Meta(pattern=r"^[0-9]+(\.[0-9]+)+\Z")]


class Peak(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Dense peak rates. A multiply-accumulate counts as two operations.

    Attributes:
        fp32: FP32 rate of the CUDA cores in TFLOP/s.
        fp16: FP16 rate in TFLOP/s, of the tensor cores if the GPU has them. The accumulator is the faster of those that
            TensorRT may choose.
        int8: INT8 rate in TOPS, of the tensor cores if they support INT8, otherwise of dp4a.
        tf32: Rate in TFLOP/s of tensor cores on FP32 tensors, which TensorRT uses by default; None without TF32.
    """

    fp32: Positive
    fp16: Positive
    int8: Positive
    tf32: Positive | None = None


class Drivers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Driver branches that support the GPU and its TensorRT.

    Attributes:
        first: Oldest branch, such as 535.
        last: Newest branch, if support has ended; otherwise None.
    """

    first: int
    last: int | None = None


class Container(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The newest NGC release for the GPU: ``tensorrt:<tag>-py3`` to build in, ``tritonserver:<tag>-py3`` to serve.

    A plan loads in Triton only if both have the same TensorRT version, so the pins follow `tensorrt`.

    Attributes:
        tag: Release, such as ``23.07``.
        tensorrt: TensorRT version in the images.
        cuda: CUDA version in the images.
        python: Python version in the images.
    """

    tag: Annotated[str, msgspec.Meta(pattern=r"^[0-9]{2}\.[0-9]{2}\Z")]
    tensorrt: Dotted
    cuda: Dotted
    python: Dotted


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A class of GPU.

    Attributes:
        name: Name for ``--gpu``.
        like: The target that all keys missing in the file are taken from.
        gpu: Product name, as the driver reports it.
        architecture: Name of the architecture, such as ``Pascal``.
        sm: Compute capability, such as ``6.1``.
        memory_gib: Device memory in GiB.
        bandwidth_gb_s: Bandwidth of the device memory in 10⁹ bytes per second.
        peak: Dense peak rates.
        preferred: Preferred precisions, best first. ``--auto`` takes the first that the bundle has. TOML key: ``auto``.
        discouraged: Supported precisions that are not worth building, with the reason. TOML key: ``slow``.
        tensorrt: Newest TensorRT that supports the GPU.
        tensorrt_first: Oldest TensorRT that supports the GPU, of those that msal-deploy supports.
        tensorrt_rtx: Whether TensorRT-RTX supports the GPU.
        cuda: Newest CUDA that supports both this TensorRT and the GPU.
        driver: Driver branches that support the GPU.
        python: Oldest and newest Python that both TensorRT's bindings and msal-deploy support.
        opset: Newest ONNX opset that this TensorRT's parser reads.
        torch: Newest PyTorch with kernels for the GPU, with the CUDA version of its wheel, such as ``2.13.0+cu126``.
        onnxruntime: Newest onnxruntime-gpu that supports the GPU.
        container: NGC images with TensorRT and Triton.
        pins: Requirements for pip, most important first.
        why_last: Why nothing newer than `tensorrt` works; None if it is the newest release.
        sources: Documents that these values come from.
    """

    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]*\Z", max_length=100)]
    like: str | None = None
    gpu: Text
    architecture: Text
    sm: Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,2}\.[0-9]\Z")]
    memory_gib: Positive
    bandwidth_gb_s: Positive
    peak: Peak
    # The TOML keys are older than the attribute names; users' files have them.
    preferred: tuple[Precision, ...] = msgspec.field(name="auto")
    discouraged: dict[Precision, str] = msgspec.field(name="slow", default_factory=dict)
    tensorrt: Dotted
    tensorrt_first: Dotted
    tensorrt_rtx: bool = False
    cuda: Dotted
    driver: Drivers
    python: tuple[Dotted, Dotted]
    opset: Annotated[int, msgspec.Meta(ge=13)]
    torch: VersionText
    onnxruntime: VersionText
    container: Container
    pins: tuple[Pin, ...]
    why_last: str | None = None
    sources: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.preferred:
            raise ValueError("auto must list at least one precision")

    @property
    def sm_number(self) -> tuple[int, int]:
        """The compute capability as (major, minor), for comparisons."""
        major, minor = self.sm.split(".")
        return int(major), int(minor)


def target_names() -> tuple[str, ...]:
    """Return the names of the built-in targets in alphabetical order.

    >>> target_names()
    ('a100', 'gtx-1070', 'gtx-1080-ti', ..., 'v100')
    """
    files = resources.files("msal_deploy.targets").iterdir()
    return tuple(sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml")))


def find_target(name_or_path: StrPath) -> Target:
    """Return a built-in target by its name or compute capability, or the target in a TOML file.

    >>> find_target("l4").gpu
    'NVIDIA L4'
    >>> find_target("GeForce RTX 3090").name, find_target("sm86").name
    ('rtx-3090', 'rtx-3090')
    >>> find_target("a10")
    Traceback (most recent call last):
        ...
    msal_deploy.errors.BadInput: 'a10' is not a known GPU; it has compute capability 8.6: write a target file with ...

    Raises:
        BadInput: The name is unknown, or the file is missing, is not TOML, or has an unknown key or a bad value.
    """
    name = str(name_or_path)
    if Path(name).suffix != ".toml":
        return _named(name)
    try:
        return _parse(name, read_toml(name, "correct that line, and save it as UTF-8"))
    except FileNotFoundError as error:
        raise BadInput(f"Target file {name} is not found", "check the path") from error


def _named(name: str) -> Target:
    if name in target_names():
        return _built_in(name)
    if capability := written_capability(name):
        return target_of_sm(capability)
    plain = plain_name(name)
    same = [target for target in targets() if plain in (plain_name(target.name), plain_name(target.gpu))]
    if not same:
        raise BadInput(f"{name!r} is not a known GPU", remedy_for(name, _capabilities()))
    return same[0]


def _capabilities() -> dict[str, str]:
    return {target.name: target.sm for target in targets()}


def targets() -> tuple[Target, ...]:
    """Return the built-in targets by compute capability, oldest first; of one capability, those without `like` first.

    >>> targets()[0].name
    'gtx-1080-ti'
    """

    def order(target: Target) -> tuple[tuple[int, int], bool, str]:
        return target.sm_number, target.like is not None, target.name

    return tuple(sorted(map(_built_in, target_names()), key=order))


def target_of_sm(sm: str, gpu: str = "") -> Target:
    """Return the built-in target of a compute capability.

    >>> target_of_sm("6.1").name
    'gtx-1080-ti'
    >>> target_of_sm("6.1", "NVIDIA GeForce GTX 1070").name
    'gtx-1070'

    Args:
        sm: Compute capability, such as ``8.9``.
        gpu: Product name; selects among targets of the same capability. The first of `targets` if none has that name.

    Raises:
        BadInput: No target has that compute capability.
    """
    same = [target for target in targets() if target.sm == sm]
    if not same:
        known = ", ".join(sorted({target.sm for target in targets()}, key=lambda text: [*map(int, text.split("."))]))
        raise BadInput(
            f"Compute capability {sm} is not supported by any target (supported: {known})",
            "write your own .toml file with like = TARGET",
        )
    plain = gpu.removeprefix("NVIDIA ")  # older drivers leave the manufacturer out
    return next((target for target in same if target.gpu.removeprefix("NVIDIA ") == plain), same[0])


@cache
def _built_in(name: str) -> Target:
    file = resources.files("msal_deploy.targets").joinpath(f"{name}.toml")
    with resources.as_file(file) as path:
        return _parse(file.name, read_toml(path, "install msal-deploy again"))


def _parse(file: str, values: Mapping[str, Any]) -> Target:
    remedy = "correct the file, or add like = TARGET for missing keys"
    merged = _with_defaults(values)
    return parse(lambda: msgspec.convert(merged, Target), file, "a valid target", remedy)


def _with_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values`, with missing keys taken from the target that `like` names."""
    if "like" not in values:
        return dict(values)
    if values["like"] not in target_names():
        remedy = remedy_for(str(values["like"]), _capabilities())
        raise BadInput(f"like = {str(values['like'])[:50]!r} is not a target", remedy)
    base: dict[str, Any] = msgspec.to_builtins(_built_in(values["like"]))
    return base | dict(values)
