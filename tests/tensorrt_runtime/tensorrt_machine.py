"""A machine with a fake TensorRT and a GPU that exists only in memory, for the tests of the TensorRT engines."""

from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import numpy as np
import pytest
from fake_cuda import FakeGpu, Misuse, Work
from fake_tensorrt import checked, fake_tensorrt
from fake_tensorrt_parts import darkness

from msal_deploy.bundle import Bundle
from msal_deploy.errors import BadInput
from msal_deploy.export import GRAPH, example_images
from msal_deploy.files import sha256
from msal_deploy.runtimes import Engine, open_engine
from msal_deploy.trt.plan_metadata import (
    ActualPrecision,
    BuildOptions,
    PlanMetadata,
    Profile,
    plan_name,
    write_metadata,
)

PROFILE = Profile((1, 32, 32), (2, 64, 64), (4, 128, 128))
OPTIONS = BuildOptions()
PLANS: dict[tuple[object, ...], bytes] = {}  # a cache: many tests use the same few plans
COMPUTE_FACTOR = 8  # simulated duration of a computation, as a multiple of the upload of its images


def compute_on(trt: ModuleType, gpu: FakeGpu) -> None:
    """Let the contexts of `trt` queue their work on `gpu`, and reject what TensorRT rejects."""

    def execute_async_v3(self: Any, stream_handle: int) -> bool:
        assert type(stream_handle) is int, "pybind11 accepts only an integer for a stream"
        shape, (source, target) = self._shape, (self._addresses["image"], self._addresses["probability"])
        if gpu.capturing(stream_handle) and self._prepared != shape:
            self._logger.log(self._logger.ERROR, "enqueueV3: a new shape cannot be captured before it has run")
            return False
        self._prepared = shape
        size = int(np.prod(shape))

        def run() -> None:
            images = gpu.on_device(source, size).reshape(shape)
            gpu.on_device(target, size // 3 * 4).view(np.float32)[:] = trt.world.compute(images).ravel()

        def replays() -> None:
            if self._shape != shape:
                raise Misuse("a graph is launched after the shape has changed")

        gpu.queue(stream_handle, Work("compute", run, replays=replays), size * COMPUTE_FACTOR)
        return True

    trt.IExecutionContext._prepared = None
    trt.IExecutionContext.execute_async_v3 = checked("execute_async_v3", execute_async_v3, ["stream_handle"])


class Machine:
    """A machine with a GPU, a TensorRT, a CUDA package, and a bundle for plans."""

    def __init__(self, version: str, gpu: FakeGpu, bundle: Bundle) -> None:
        self.gpu, self.bundle = gpu, bundle
        self.backend: Any = "tensorrt-rtx" if version == "rtx" else "tensorrt"
        self.sm = "{}.{}".format(*gpu.sm)
        self.trt = fake_tensorrt(version, sm=self.sm)
        compute_on(self.trt, gpu)

    def add_plan(
        self, precision: str = "fp32", *, profile: Profile = PROFILE, options: BuildOptions = OPTIONS, **changes: Any
    ) -> Path:
        """Build a plan with the fake and save it in the bundle. `changes` are made to its metadata."""
        path = self.bundle.path / plan_name(precision, self.backend, (self.sm,))
        key = (self.trt.__version__, self.sm, profile)
        if key not in PLANS:
            PLANS[key] = self.build(profile)
        path.write_bytes(PLANS[key])
        plan = PlanMetadata(
            backend=self.backend,
            backend_version=self.trt.__version__,
            gpu=None,
            sm=(self.sm,),
            graph=GRAPH,
            graph_sha256=sha256(self.bundle.path / GRAPH),
            requested=precision,
            actual=ActualPrecision("network", {}),
            profile=profile,
            plan_sha256=sha256(path),
            bytes=path.stat().st_size,
            options=options,
            built="2025-01-01T00:00:00+00:00",
        )
        write_metadata(path, msgspec.structs.replace(plan, **changes))
        return path

    def build(self, profile: Profile) -> bytes:
        logger = self.trt.Logger()
        builder = self.trt.Builder(logger)
        flags = getattr(self.trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)
        network = builder.create_network(1 << int(flags) if flags is not None else 0)
        assert self.trt.OnnxParser(network, logger).parse_from_file(str(self.bundle.path / GRAPH))
        config, shapes = builder.create_builder_config(), builder.create_optimization_profile()
        points = (profile.min, profile.opt, profile.max)
        shapes.set_shape("image", *((*point, 3) for point in points))
        config.add_optimization_profile(shapes)
        return bytes(builder.build_serialized_network(network, config))

    def engine(self, precision: str = "fp32") -> Engine:
        return open_engine(self.bundle, f"{self.backend}:{precision}")


def assert_computes(engine: Engine, batch: int, height: int = 64, width: int = 64, seed: int = 0) -> None:
    """Compute example images, and compare the result with the function of the fake."""
    images = example_images(batch, height, width, seed=seed)
    probability = engine(images)
    assert probability.dtype == np.float32 and probability.shape == (batch, 1, height, width)
    np.testing.assert_array_equal(probability, darkness(images))


def graph_calls(machine: Machine) -> tuple[int, int]:
    """Return how many CUDA graphs were made, and how often graphs were launched."""
    return machine.gpu.calls["make_graph"], machine.gpu.calls["launch"]


def refusal(machine: Machine, kind: type[Exception] = BadInput, precision: str = "fp32") -> str:
    """Return the message of the error that opening an engine raises."""
    with pytest.raises(kind) as caught, machine.engine(precision):
        pass
    assert "\n" not in str(caught.value)
    assert not machine.gpu.left
    return str(caught.value)
