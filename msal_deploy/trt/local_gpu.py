"""The GPU of this machine, as CUDA sees it."""

import msgspec

from msal_deploy.errors import MissingRequirement


class LocalGpu(msgspec.Struct, frozen=True):
    """The GPU that CUDA uses by default.

    Attributes:
        name: Product name, such as ``NVIDIA L4``; empty if no GPU was found.
        sm: Compute capability, such as ``8.9``; empty if no GPU was found.
        detection_error: Why the GPU could not be detected, such as a missing package; empty if detection ran.
    """

    name: str = ""
    sm: str = ""
    detection_error: str = ""


def current_gpu() -> LocalGpu:
    """Return the GPU that CUDA uses by default, or an empty `LocalGpu` if there is none.

    ::

        current_gpu()  # LocalGpu(name="NVIDIA L4", sm="8.9", detection_error="")
    """
    from msal_deploy.trt.cuda import CudaError, open_cuda

    try:
        cuda = open_cuda()
    except CudaError:
        return LocalGpu()
    except MissingRequirement as error:
        return LocalGpu(detection_error=error.cause)
    return LocalGpu(cuda.device, cuda.sm)
