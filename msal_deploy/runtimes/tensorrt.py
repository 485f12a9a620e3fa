"""TensorRT and TensorRT-RTX: the bundle's plan for the GPU that is here."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from msal_deploy.errors import BadInput, MissingRequirement
from msal_deploy.files import atomic_file
from msal_deploy.runtimes.base import Engine
from msal_deploy.trt.bindings import Backend, load_backend
from msal_deploy.trt.cuda import CudaError, open_cuda
from msal_deploy.trt.execution import MUTE, Execution, chunks
from msal_deploy.trt.plan_checks import check_shape, find_plan, preflight
from msal_deploy.trt.plan_metadata import Profile, kernel_cache_path, rebuild_command

if TYPE_CHECKING:
    import tensorrt as trt

    from msal_deploy.spec import Float32Maps, UInt8Images


class TensorRtEngine(Engine):
    """Runs a plan with TensorRT 8.6 or later.

    A batch larger than the optimum of the plan's profile is computed in chunks of that optimum, so the profile bounds
    the sizes of images and the smallest batch, but not the largest.
    """

    runtime = "tensorrt"
    no_own_graph: str | None = None

    @property
    def no_graph(self) -> str | None:
        """Why an open engine computes without CUDA graphs of its own, None if nothing speaks against them."""
        return self._execution.no_graph

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
        runtime: trt.Runtime = self._keep(backend.trt.Runtime(backend.messages))
        if self._plan.options.version_compatible:
            runtime.engine_host_code_allowed = True  # such plans carry the code that runs them
        engine: trt.ICudaEngine | None = self._keep(runtime.deserialize_cuda_engine(self._file.read_bytes()))
        if engine is None:
            raise MissingRequirement(
                f"{backend.name} {backend.version} cannot load {self._file} ({backend.errors() or MUTE}); "
                f"build it again with: {rebuild_command(self.bundle.path, self._plan)}"
            )
        self._check(backend, engine)
        context: trt.IExecutionContext | None = self._keep(self._context(backend, engine))
        if context is None:
            raise MissingRequirement(
                f"{self._cuda.device} has no room for {self._file} ({backend.errors() or MUTE}); build it for single "
                f"images with: {rebuild_command(self.bundle.path, self._plan, _single(self._plan.profile))}"
            )
        pixels = int(np.prod(self._plan.profile.opt))
        tensors = (self.spec.image.name, self.spec.probability.name)
        return Execution(self._cuda, context, tensors, pixels, backend.errors, self.no_own_graph)

    def _keep(self, thing: Any) -> Any:
        """Hold what TensorRT made: it must go in the reverse order, and while its GPU is the current one."""
        self._loaded.append(thing)
        return thing

    def _unload(self) -> None:
        while self._loaded:
            self._loaded.pop()

    def _check(self, backend: Backend, engine: trt.ICudaEngine) -> None:
        """Raise `BadInput` unless the plan has the tensors that the spec names, of the types that it names."""
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        is_input = {name: engine.get_tensor_mode(name) == backend.trt.TensorIOMode.INPUT for name in names}
        self._check_names((name for name in names if is_input[name]), (name for name in names if not is_input[name]))
        for tensor, member in ((self.spec.image, "UINT8"), (self.spec.probability, "FLOAT")):
            if (dtype := engine.get_tensor_dtype(tensor.name)) != backend.member("DataType", member):
                command = rebuild_command(self.bundle.path, self._plan)
                raise BadInput(
                    f"{tensor.name} is {dtype} in {self._file} and not {tensor.dtype}; build it again with: {command}"
                )

    def _context(self, backend: Backend, engine: trt.ICudaEngine) -> trt.IExecutionContext | None:
        return engine.create_execution_context()

    def _infer(self, images: UInt8Images) -> Float32Maps:
        number, height, width, _ = images.shape
        (least, *_), (most, *_) = self._plan.profile.min, self._plan.profile.opt
        check_shape(self._file, self.bundle, self._plan, (min(number, most), height, width))
        probability = np.empty((number, 1, height, width), np.float32)
        with self._cuda.current():
            self._execution.run(images, probability, chunks(number, least, most))
        return probability

    def _close(self) -> None:
        with suppress(CudaError), self._cuda.current():  # a GPU that has failed has nothing to give back
            self._execution.close()
            del self._execution  # it holds the context
            self._unload()


def _single(profile: Profile) -> Profile:
    """Return the profile for batches of one."""
    points = (profile.min, profile.opt, profile.max)
    return Profile(*((1, height, width) for _, height, width in points))


class TensorRtRtxEngine(TensorRtEngine):
    """Runs a plan with TensorRT for RTX, which compiles its kernels when it first needs them.

    What it has compiled is kept beside the plan, in a file that it checks and that may be deleted at any time.
    """

    runtime = "tensorrt-rtx"
    no_own_graph = "TensorRT-RTX captures them by itself, once it has compiled the kernels for a shape"

    @property
    def cache_file(self) -> Path:
        """Where compiled kernels are kept."""
        return kernel_cache_path(self._file)

    def _context(self, backend: Backend, engine: trt.ICudaEngine) -> trt.IExecutionContext | None:
        config: trt.IRuntimeConfig = self._keep(engine.create_runtime_config())
        config.cuda_graph_strategy = backend.trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        self._cache: trt.IRuntimeCache = self._keep(config.create_runtime_cache())
        self._cached = self.cache_file.read_bytes() if self.cache_file.is_file() else b""
        if self._cached:
            self._cache.deserialize(self._cached)  # it takes nothing of another version or GPU
        config.set_runtime_cache(self._cache)
        return engine.create_execution_context(runtime_config=config)

    def _close(self) -> None:
        try:
            with suppress(OSError, MissingRequirement):  # a bundle that cannot be written to runs as well
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
