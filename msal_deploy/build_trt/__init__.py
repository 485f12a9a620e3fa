"""Build TensorRT plans from the typed ONNX graphs of a bundle, and reject a plan that misses the requested precision.

==========  ===========================================================================
`run`       `build_trt`: the stage
`request`   what to build, for which GPU, with which TensorRT; checks before the build
`parse`     the ONNX graph as a TensorRT network; parser errors by node name
`builder`   one code path for TensorRT 8.6, 10.x, 11.x and TensorRT-RTX
`progress`  the progress bar and Ctrl-C
`save`      lock, disk and memory checks, plan, sidecar and manifest
`rebuild`   plans that no longer match their graph or TensorRT
`report`    what was built
==========  ===========================================================================
"""

from msal_deploy.build_trt.report import BuildReport
from msal_deploy.build_trt.request import BuildRequest, BuildTarget, find_build_target, first_preferred
from msal_deploy.build_trt.run import build_trt

__all__ = ["BuildReport", "BuildRequest", "BuildTarget", "build_trt", "find_build_target", "first_preferred"]
