"""What `package` can be asked for, and the integrations it knows."""

from collections.abc import Iterable

import msgspec

from msal_deploy.errors import BadInput, suggest

INTEGRATIONS = {
    "build-kit": "msal_deploy.package.build_kit",
    "cpp": "msal_deploy.package.cpp",
    "triton": "msal_deploy.package.triton",
    "bioimageio": "msal_deploy.package.bioimageio",
}
PREFERRED = "all that pay"  # not one graph but those that the GPU's table names, the best first
DEFAULT_PRECISION = {"build-kit": PREFERRED}  # of the other hosts: fp32
PRECISIONS = ("fp32", "fp16", "int8")


class PackageOptions(msgspec.Struct, frozen=True):
    """What a host may be told; each takes what concerns it.

    Attributes:
        precision: which graph of the bundle the host runs.
        gpu: name of a target, for hosts that run on a GPU.
        backend: what runs the graph inside the host, where it has a choice: Triton's ``tensorrt``, ``onnxruntime`` or
            ``openvino``. None leaves it to the host.
        authors: of the weights, for hosts that name them.
    """

    precision: str = "fp32"
    gpu: str | None = None
    backend: str | None = None
    authors: tuple[str, ...] = ("msal-deploy",)


def choose_options(
    host: str,
    precision: str | None = None,
    gpu: str | None = None,
    backend: str | None = None,
    authors: Iterable[str] = (),
) -> PackageOptions:
    """Return the options for `host`, with its own default where no precision is named.

    Raises:
        BadInput: no such host or precision.
    """
    if host not in INTEGRATIONS:
        raise BadInput(f"No host is called {host!r}; {suggest(host, INTEGRATIONS)}")
    if precision is not None and precision not in PRECISIONS:
        raise BadInput(f"No precision is called {precision!r}; {suggest(precision, PRECISIONS)}")
    return PackageOptions(
        precision or DEFAULT_PRECISION.get(host, "fp32"), gpu, backend, tuple(authors) or PackageOptions().authors
    )
