"""The seam to CUDA: the little that a TensorRT engine needs of it, from cuda-python or from PyCUDA.

Every handle (an address, a stream, an event, a graph) is an integer, as TensorRT takes them; what a package keeps
behind one stays in here. Whatever fails raises `CudaError`, with CUDA's own words for it and what to do.
"""

from msal_deploy.trt.cuda.base import Buffer, Cuda, CudaError, open_cuda

__all__ = ["Buffer", "Cuda", "CudaError", "open_cuda"]
