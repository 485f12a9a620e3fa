"""Engines of TensorRT and TensorRT-RTX: they run the bundle's plan for the local GPU."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from msal_deploy.errors import BadInput, DeployError, MissingRequirement
from msal_deploy.files import atomic_file
from msal_deploy.runtimes.base import Engine
from msal_deploy.trt.bindings import Backend, load_backend
from msal_deploy.trt.cuda import CudaError, open_cuda
from msal_deploy.trt.execution import NO_MESSAGE, Execution, split_batch
from msal_deploy.trt.plan_checks import check_shape, find_plan, preflight
from msal_deploy.trt.plan_metadata import Profile, kernel_cache_path, rebuild_remedy

if TYPE_CHECKING:
    import tensorrt as trt

    from msal_deploy.spec import Float32Maps, UInt8Images


class TensorRtEngine(Engine):
    """Run a plan with TensorRT 8.6 or later.

    A batch larger than `opt` of the plan's profile is computed in chunks of `opt`. So the profile limits the image size
    and the smallest batch, but not the largest batch.

    ::

        with open_engine(bundle, "tensorrt:fp16") as engine:
            probability = engine(images)  # uint8[N,H,W,3] -> float32[N,1,H,W]
    """

    runtime = "tensorrt"
    precisions = ("fp32", "fp16", "int8")
    no_graph_reason: str | None = None

    @property
    def no_graph(self) -> str | None:
        """Why the open engine does not use CUDA graphs; None if it does."""
        return self._execution.no_graph

    @property
    def profile(self) -> Profile:
        """Optimization profile of the open engine's plan."""
        return self._plan.profile

    def _open(self) -> None:
        backend = load_backend(self.runtime)
        self._cuda = open_cuda()
        self._file = find_plan(self.bundle, self.precision, backend.name, self._cuda.sm)
        self._plan = preflight(self._file, self.bundle, backend_version=backend.version, sm=self._cuda.sm)
        self._loaded: list[Any] = []
        with self._cuda.current():
            try:
                self._execution = self._load(backend)
            except BaseException:
                self._unload()
                raise

    def _load(self, backend: Backend) -> Execution:
        runtime: trt.Runtime = self._keep(backend.trt.Runtime(backend.logger))
        if self._plan.options.version_compatible:
            runtime.engine_host_code_allowed = True  # such plans contain the code that runs them
        engine: trt.ICudaEngine | None = self._keep(runtime.deserialize_cuda_engine(self._file.read_bytes()))
        if engine is None:
            raise MissingRequirement(
                f"{backend.name} {backend.version} cannot load {self._file} ({backend.errors() or NO_MESSAGE})",
                rebuild_remedy(self.bundle.path, self._plan),
            )
        self._check(backend, engine)
        context: trt.IExecutionContext | None = self._keep(self._context(backend, engine))
        if context is None:
            raise MissingRequirement(
                f"{self._cuda.device} does not have enough memory for {self._file} ({backend.errors() or NO_MESSAGE})",
                rebuild_remedy(self.bundle.path, self._plan, _single(self._plan.profile)),
            )
        pixels = int(np.prod(self._plan.profile.opt))
        tensors = (self.spec.image.name, self.spec.probability.name)
        return Execution(self._cuda, context, tensors, pixels, backend.errors, self.no_graph_reason)

    def _keep(self, value: Any) -> Any:
        """Keep an object of TensorRT: objects must be freed in reverse order, while their GPU is the current one."""
        self._loaded.append(value)
        return value

    def _unload(self) -> None:
        while self._loaded:
            self._loaded.pop()

    def _check(self, backend: Backend, engine: trt.ICudaEngine) -> None:
        """Raise `BadInput` unless the plan has the tensors of the spec, with its types."""
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        is_input = {name: engine.get_tensor_mode(name) == backend.trt.TensorIOMode.INPUT for name in names}
        found = {kind: {name: "" for name in names if is_input[name] is kind} for kind in (True, False)}
        self._check_tensors(found[True], found[False])  # the types below: TensorRT has its own names for them
        for tensor, member in ((self.spec.image, "UINT8"), (self.spec.probability, "FLOAT")):
            if (dtype := engine.get_tensor_dtype(tensor.name)) != backend.member("DataType", member):
                cause = f"Expected {tensor.dtype} for {tensor.name} in {self._file}, got {dtype}"
                raise BadInput(cause, rebuild_remedy(self.bundle.path, self._plan))

    def _context(self, backend: Backend, engine: trt.ICudaEngine) -> trt.IExecutionContext | None:
        return engine.create_execution_context()

    def _infer(self, images: UInt8Images) -> Float32Maps:
        batch, height, width, _ = images.shape
        (min_batch, *_), (opt_batch, *_) = self._plan.profile.min, self._plan.profile.opt
        check_shape(self._file, self.bundle, self._plan, (min(batch, opt_batch), height, width))
        probability = np.empty((batch, 1, height, width), np.float32)
        with self._cuda.current():
            self._execution.run(images, probability, split_batch(batch, min_batch, opt_batch))
        return probability

    def _close(self) -> None:
        with suppress(CudaError), self._cuda.current():  # a failed GPU has nothing to free
            self._execution.close()
            del self._execution  # it holds the context
            self._unload()


def _single(profile: Profile) -> Profile:
    """Return the profile for a batch of one."""
    points = (profile.min, profile.opt, profile.max)
    return Profile(*((1, height, width) for _, height, width in points))


class TensorRtRtxEngine(TensorRtEngine):
    """Run a plan with TensorRT for RTX, which compiles its kernels when they are first used.

    Compiled kernels are cached in a file beside the plan. TensorRT-RTX validates it, and it may be deleted at any time.
    """

    runtime = "tensorrt-rtx"
    no_graph_reason = "TensorRT-RTX captures CUDA graphs itself, after it has compiled the kernels for a shape"

    @property
    def cache_file(self) -> Path:
        """Path of the compiled kernels."""
        return kernel_cache_path(self._file)

    def _context(self, backend: Backend, engine: trt.ICudaEngine) -> trt.IExecutionContext | None:
        config: trt.IRuntimeConfig = self._keep(engine.create_runtime_config())
        config.cuda_graph_strategy = backend.trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        self._cache: trt.IRuntimeCache = self._keep(config.create_runtime_cache())
        self._cached = self.cache_file.read_bytes() if self.cache_file.is_file() else b""
        if self._cached:
            self._cache.deserialize(self._cached)  # it rejects the kernels of another version or GPU
        config.set_runtime_cache(self._cache)
        return engine.create_execution_context(runtime_config=config)

    def _close(self) -> None:
        try:
            with suppress(OSError, DeployError):  # a read-only bundle runs too
                self._save_cache()
        finally:
            del self._cache
            super()._close()

    def _save_cache(self) -> None:
        with self._cuda.current():
            compiled = bytes(self._cache.serialize())
        if compiled != self._cached:
            with atomic_file(self.cache_file) as temporary:
                temporary.write_bytes(compiled)
