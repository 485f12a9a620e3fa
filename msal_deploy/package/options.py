"""The integrations, and the options of `write_package`."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import msgspec

from msal_deploy.documents import check_line, parse
from msal_deploy.errors import BadInput, suggest
from msal_deploy.targets import find_target

INTEGRATIONS = {
    "build-kit": "msal_deploy.package.build_kit",
    "cpp": "msal_deploy.package.cpp",
    "triton": "msal_deploy.package.triton",
    "bioimageio": "msal_deploy.package.bioimageio",
    "onnx": "msal_deploy.package.plain_onnx",
}
APPLICABLE = {
    "build-kit": ("--gpu",),
    "cpp": ("--gpu",),
    "triton": ("--gpu", "--backend", "--size"),
    "bioimageio": ("--author", "--torch-python"),
    "onnx": ("--io",),  # the others run what takes uint8[N,H,W,3]: the C++ library, model.py, the checks of plans
}
PREFERRED = "preferred"  # not one precision, but all that the target prefers, best first
DEFAULT_PRECISION = {"build-kit": PREFERRED}  # fp32 for the other integrations
PRECISIONS = ("fp32", "fp16", "int8")
UINT8_NHWC, FLOAT32_NCHW = "uint8-nhwc", "float32-nchw"
INPUTS = (UINT8_NHWC, FLOAT32_NCHW)


class PackageOptions(msgspec.Struct, frozen=True):
    """Options of an integration; each integration uses those that apply to it.

    >>> PackageOptions("int8", gpu="t4")
    PackageOptions(precision='int8', gpu='t4', backend=None, authors=('msal-deploy',), sizes=(), io='uint8-nhwc', ...)

    Attributes:
        precision: The graph to package: ``fp32``, ``fp16`` or ``int8``.
        gpu: Name of the target GPU, or its TOML file; None for integrations on the CPU.
        backend: Triton's backend: ``tensorrt``, ``onnxruntime`` or ``openvino``; None to choose it from the bundle.
        authors: Authors to name on bioimage.io.
        sizes: Heights and widths in pixels that a server computes before it is ready, besides its usual ones.
        io: What a plain ONNX graph takes: ``uint8-nhwc``, or ``float32-nchw`` for hosts that normalise images.
        torch_python: Python of an environment with the torch that writes bioimage.io's TorchScript; None for this one.
    """

    precision: str = "fp32"
    gpu: str | None = None
    backend: str | None = None
    authors: tuple[str, ...] = ("msal-deploy",)
    sizes: tuple[tuple[int, int], ...] = ()
    io: str = UINT8_NHWC
    torch_python: Path | None = None


def choose_options(
    integration: str,
    precision: str | None = None,
    gpu: str | None = None,
    backend: str | None = None,
    authors: Iterable[str] = (),
    sizes: Iterable[tuple[int, int]] = (),
    io: str | None = None,
    torch_python: Path | None = None,
) -> PackageOptions:
    """Return the options for an integration, with its default precision if none is given.

    >>> choose_options("build-kit", gpu="t4").precision == PREFERRED
    True
    >>> choose_options("cpp").precision
    'fp32'

    Raises:
        BadInput: The integration, the precision, the input or the GPU is unknown, an option does not apply to the
            integration, or an author is not one line of text.
    """
    if integration not in INTEGRATIONS:
        raise BadInput(f"{integration!r} is not an integration", suggest(integration, INTEGRATIONS))
    if precision is not None and precision not in PRECISIONS:
        raise BadInput(f"{precision!r} is not a precision", suggest(precision, PRECISIONS))
    names = tuple(parse(partial(check_line, name), "An --author", "a name", "write it on one line") for name in authors)
    if io is not None and io not in INPUTS:
        raise BadInput(f"{io!r} is not an input", suggest(io, INPUTS))
    sizes = tuple(sizes)
    chosen = {"--gpu": gpu, "--backend": backend, "--author": names or None, "--size": sizes or None, "--io": io}
    for option, given in (chosen | {"--torch-python": torch_python}).items():
        if given is not None and option not in APPLICABLE[integration]:
            raise BadInput(f"{option} does not apply to {integration}", "leave it out")
    if gpu is not None:
        find_target(gpu)
    precision = precision or DEFAULT_PRECISION.get(integration, "fp32")
    return PackageOptions(
        precision, gpu, backend, names or PackageOptions().authors, sizes, io or UINT8_NHWC, torch_python
    )
