"""The integrations, and the options of `write_package`."""

from collections.abc import Iterable
from functools import partial

import msgspec

from msal_deploy.documents import check_line, parse
from msal_deploy.errors import BadInput, suggest
from msal_deploy.targets import find_target

INTEGRATIONS = {
    "build-kit": "msal_deploy.package.build_kit",
    "cpp": "msal_deploy.package.cpp",
    "triton": "msal_deploy.package.triton",
    "bioimageio": "msal_deploy.package.bioimageio",
}
APPLICABLE = {
    "build-kit": ("--gpu",),
    "cpp": ("--gpu",),
    "triton": ("--gpu", "--backend", "--size"),
    "bioimageio": ("--author",),
}
PREFERRED = "preferred"  # not one precision, but all that the target prefers, best first
DEFAULT_PRECISION = {"build-kit": PREFERRED}  # fp32 for the other integrations
PRECISIONS = ("fp32", "fp16", "int8")


class PackageOptions(msgspec.Struct, frozen=True):
    """Options of an integration; each integration uses those that apply to it.

    >>> PackageOptions("int8", gpu="t4")
    PackageOptions(precision='int8', gpu='t4', backend=None, authors=('msal-deploy',), sizes=())

    Attributes:
        precision: The graph to package: ``fp32``, ``fp16`` or ``int8``.
        gpu: Name of the target GPU, or its TOML file; None for integrations on the CPU.
        backend: Triton's backend: ``tensorrt``, ``onnxruntime`` or ``openvino``; None to choose it from the bundle.
        authors: Authors to name on bioimage.io.
        sizes: Heights and widths in pixels that a server computes before it is ready, besides its usual ones.
    """

    precision: str = "fp32"
    gpu: str | None = None
    backend: str | None = None
    authors: tuple[str, ...] = ("msal-deploy",)
    sizes: tuple[tuple[int, int], ...] = ()


def choose_options(
    integration: str,
    precision: str | None = None,
    gpu: str | None = None,
    backend: str | None = None,
    authors: Iterable[str] = (),
    sizes: Iterable[tuple[int, int]] = (),
) -> PackageOptions:
    """Return the options for an integration, with its default precision if none is given.

    >>> choose_options("build-kit", gpu="t4").precision == PREFERRED
    True
    >>> choose_options("cpp").precision
    'fp32'

    Raises:
        BadInput: The integration, the precision or the GPU is unknown, an option does not apply to the integration, or
            an author is not one line of text.
    """
    if integration not in INTEGRATIONS:
        raise BadInput(f"{integration!r} is not an integration", suggest(integration, INTEGRATIONS))
    if precision is not None and precision not in PRECISIONS:
        raise BadInput(f"{precision!r} is not a precision", suggest(precision, PRECISIONS))
    names = tuple(parse(partial(check_line, name), "An --author", "a name", "write it on one line") for name in authors)
    sizes = tuple(sizes)
    gave = {"--gpu": gpu is not None, "--backend": backend is not None, "--author": bool(names), "--size": bool(sizes)}
    for option, given in gave.items():
        if given and option not in APPLICABLE[integration]:
            raise BadInput(f"{option} does not apply to {integration}", "leave it out")
    if gpu is not None:
        find_target(gpu)
    precision = precision or DEFAULT_PRECISION.get(integration, "fp32")
    return PackageOptions(precision, gpu, backend, names or PackageOptions().authors, sizes)
