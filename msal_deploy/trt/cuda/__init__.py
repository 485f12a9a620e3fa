"""A thin interface to CUDA, with the functions that a TensorRT engine needs, over cuda-python or PyCUDA.

Every handle (address, stream, event, graph) is an integer, as TensorRT expects. Any failure raises `CudaError` with
CUDA's own message and a remedy.
"""

from msal_deploy.trt.cuda.base import Buffer, Cuda, CudaError, open_cuda

__all__ = ["Buffer", "Cuda", "CudaError", "open_cuda"]
