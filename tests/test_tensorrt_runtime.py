"""The TensorRT engines, against the recorded names of every TensorRT and a GPU that exists only in memory.

Each version runs through cuda-python and PyCUDA, with the GPU's work done as late as it can be and in random order: a
wait that is missing shows as wrong pixels. Nothing here has run on a real GPU.
"""

import json
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from fake_cuda import FakeGpu, Misuse, Span, Work
from fake_cuda_packages import FakeCudaRuntime, FakePyCudaDriver
from fake_tensorrt import VERSIONS, checked, fake_tensorrt
from fake_tensorrt_parts import darkness
from typer.testing import CliRunner, Result

from msal_deploy.bundle import Bundle, Manifest, artifact, write_manifest
from msal_deploy.cli import app
from msal_deploy.errors import BadInput, MissingExtra, MissingRequirement
from msal_deploy.export import GRAPH, example_images
from msal_deploy.files import sha256
from msal_deploy.recipe import Recipe
from msal_deploy.runtimes import Engine, available_engines, open_engine
from msal_deploy.runtimes.tensorrt import TensorRtEngine
from msal_deploy.spec import ModelSpec
from msal_deploy.trt.cuda import CudaError
from msal_deploy.trt.execution import chunks
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
BUILT: dict[tuple[object, ...], bytes] = {}  # plans, of which tests need many and few kinds
SLOW = 8  # a computation takes so many times as long as the upload of its images: that is what the clock is told


def compute_on(trt: ModuleType, gpu: FakeGpu) -> None:
    """Let the contexts of `trt` queue their work on `gpu`, and refuse what TensorRT refuses."""

    def execute_async_v3(self: Any, stream_handle: int) -> bool:
        assert type(stream_handle) is int, "pybind11 takes no object for a stream"
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

        gpu.queue(stream_handle, Work("compute", run, replays=replays), size * SLOW)
        return True

    trt.IExecutionContext._prepared = None
    trt.IExecutionContext.execute_async_v3 = checked("execute_async_v3", execute_async_v3, ["stream_handle"])


class Setting:
    """A machine with a GPU, a TensorRT, a package for CUDA, and a bundle to put plans in."""

    def __init__(self, version: str, gpu: FakeGpu, bundle: Bundle) -> None:
        self.gpu, self.bundle = gpu, bundle
        self.backend: Any = "tensorrt-rtx" if version == "rtx" else "tensorrt"
        self.sm = "{}.{}".format(*gpu.sm)
        self.trt = fake_tensorrt(version, sm=self.sm)
        compute_on(self.trt, gpu)

    def add_plan(
        self, precision: str = "fp32", *, profile: Profile = PROFILE, options: BuildOptions = OPTIONS, **changes: Any
    ) -> Path:
        """Build a plan with the fake, put it into the bundle, and describe it, changed by `changes`."""
        path = self.bundle.path / plan_name(precision, self.backend, (self.sm,))
        key = (self.trt.__version__, self.sm, profile)
        if key not in BUILT:
            BUILT[key] = self.build(profile)
        path.write_bytes(BUILT[key])
        plan = PlanMetadata(
            backend=self.backend,
            backend_version=self.trt.__version__,
            gpu=None,
            sm=(self.sm,),
            graph=GRAPH,
            graph_sha256=sha256(self.bundle.path / GRAPH),
            requested=precision,
            realised=ActualPrecision("network", {}),
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


@pytest.fixture
def small_bundle(tmp_path: Path) -> Bundle:
    """A bundle with a graph of one convolution: the plans' content does not matter here."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    graph = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17]>
        small (uint8[N,H,W,3] image) => (float[N,1,H,W] probability) <float[1,3,1,1] weight = {1, 1, 1}> {
            pixels = Cast<to = 1>(image)
            planes = Transpose<perm = [0, 3, 1, 2]>(pixels)
            sums = Conv(planes, weight)
            probability = Sigmoid(sums)
        }
    """)
    onnx.save(graph, folder / GRAPH)
    files = {GRAPH: artifact(folder, GRAPH)}
    write_manifest(folder, Manifest(ModelSpec(), Recipe(name="small"), "CC0-1.0", {}, files))
    return Bundle(folder)


@pytest.fixture
def make_setting(small_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Setting]:
    def make(version: str = "10.16.1.11", package: str = "cuda-python", **gpu: Any) -> Setting:
        setting = Setting(version, FakeGpu(**gpu), small_bundle)
        for name in ("tensorrt", "tensorrt_rtx", "cuda.bindings.runtime", "cuda.cudart", "pycuda.driver"):
            monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.setitem(sys.modules, setting.backend.replace("-", "_"), setting.trt)
        if package == "cuda-python":
            monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", FakeCudaRuntime(setting.gpu))
        else:
            monkeypatch.setitem(sys.modules, "pycuda.driver", FakePyCudaDriver(setting.gpu))
        return setting

    return make


@pytest.fixture
def setting(make_setting: Callable[..., Setting]) -> Setting:
    made = make_setting()
    made.add_plan()
    return made


@pytest.fixture(params=[(version, package) for version in VERSIONS for package in ("cuda-python", "PyCUDA")], ids=str)
def any_setting(request: pytest.FixtureRequest, make_setting: Callable[..., Setting]) -> Iterator[Setting]:
    """Every version of TensorRT with either package; afterwards nothing may be left on the GPU."""
    made = make_setting(*request.param)
    made.add_plan()
    yield made
    assert not made.gpu.left


def check(engine: Engine, number: int, height: int = 64, width: int = 64, seed: int = 0) -> None:
    images = example_images(number, height, width, seed=seed)
    probability = engine(images)
    assert probability.dtype == np.float32 and probability.shape == (number, 1, height, width)
    np.testing.assert_array_equal(probability, darkness(images))


# What it computes.


@pytest.mark.parametrize("number", [1, 2, 3, 7])
def test_every_version_gives_the_probability(any_setting, number):
    with any_setting.engine() as engine:
        for seed in range(3):  # as it is, captured, replayed
            check(engine, number, seed=seed)


def test_sizes_may_change_from_call_to_call(any_setting):
    with any_setting.engine() as engine:
        for height, width in ((64, 64), (32, 96), (128, 128), (32, 32), (64, 64), (64, 64)):
            check(engine, 3, height, width)


@pytest.mark.parametrize("order", range(12))
@pytest.mark.parametrize("version", ["8.6.1", "rtx"])
def test_order_in_which_the_gpu_works_does_not_matter(make_setting, version, order):
    setting = make_setting(version, order=order)
    setting.add_plan()
    with setting.engine() as engine:
        for number in (5, 5, 1, 8, 4, 4, 4):
            check(engine, number, seed=number)


def test_plan_of_the_precision_is_taken(make_setting):
    setting = make_setting()
    for precision, constant in (("fp32", 0.25), ("fp16", 0.5), ("int8", 0.75)):
        setting.add_plan(precision)
        setting.trt.world.compute = lambda images, value=constant: np.full((len(images), 64, 64), value, np.float32)
        with setting.engine(precision) as engine:
            assert engine.id == f"tensorrt:{precision}"
            assert (engine(example_images(1, 64, 64)) == constant).all()


@pytest.mark.parametrize(
    ("images", "least", "most", "expected"),
    [
        (1, 1, 4, [(0, 1)]),
        (4, 1, 4, [(0, 4)]),
        (5, 1, 4, [(0, 4), (4, 5)]),
        (9, 1, 4, [(0, 4), (4, 8), (8, 9)]),
        (5, 3, 4, [(0, 4), (2, 5)]),
        (3, 3, 4, [(0, 3)]),
        (8, 4, 4, [(0, 4), (4, 8)]),
    ],
)
def test_chunks_cover_all_images_and_fit_the_profile(images, least, most, expected):
    assert [(part.start, part.stop) for part in chunks(images, least, most)] == expected


def test_smallest_batch_of_the_profile_is_kept(make_setting):
    setting = make_setting()
    setting.add_plan(profile=Profile((3, 32, 32), (4, 64, 64), (4, 64, 64)))
    with setting.engine() as engine:
        for number in (3, 5, 9):
            check(engine, number)
        with pytest.raises(BadInput, match=r"takes 3 × 32 × 32 px to 4 × 64 × 64 px and not 2 × 64 × 64 px"):
            engine(example_images(2, 64, 64))


# The contract of every engine.


def test_output_belongs_to_the_caller(any_setting):
    images = example_images(2, 64, 64)
    with any_setting.engine() as engine:
        first = engine(images)
        kept = first.copy()
        engine(255 - images)
        assert np.array_equal(first, kept)
        first[:] = 7
        assert np.array_equal(engine(images), kept)
    assert first.max() == 7


def test_images_are_read_only_during_the_call(setting):
    images = example_images(5, 64, 64)
    before = images.copy()
    images.setflags(write=False)
    with setting.engine() as engine:
        assert np.array_equal(engine(images[..., ::-1]), darkness(images[..., ::-1]))
    assert np.array_equal(images, before)


def test_threads_share_an_engine(any_setting):
    wrong: list[BaseException] = []

    def work(engine: Engine, number: int) -> None:
        try:
            for seed in range(5):
                check(engine, number, seed=seed)
        except BaseException as error:
            wrong.append(error)

    with any_setting.engine() as engine:
        threads = [threading.Thread(target=work, args=(engine, number)) for number in (1, 2, 3, 5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_two_engines_side_by_side(any_setting):
    with any_setting.engine() as one:
        with any_setting.engine() as other:
            check(one, 3)
            check(other, 3, 32, 32)
            check(one, 3)
        check(one, 3)


def test_engine_can_be_entered_again(any_setting):
    engine = any_setting.engine()
    for _ in range(2):
        with engine:
            check(engine, 3)
        assert not any_setting.gpu.left
        with pytest.raises(RuntimeError, match="with statement"):
            engine(example_images(1, 64, 64))


def test_gpu_is_not_touched_before_the_engine_is_entered(any_setting):
    any_setting.gpu.calls.clear()
    any_setting.engine()
    assert not any_setting.gpu.calls


def test_tensorrt_goes_before_what_it_was_made_from(setting, monkeypatch):
    """It is freed while its GPU is the current one: the context, then the engine, then the runtime."""
    gone = []
    for name in ("IExecutionContext", "ICudaEngine", "Runtime"):
        kind = getattr(setting.trt, name)
        monkeypatch.setattr(kind, "__del__", lambda self: gone.append(type(self).__name__), raising=False)
    with setting.engine() as engine:
        check(engine, 1)
        assert gone == []
    assert gone == ["IExecutionContext", "ICudaEngine", "Runtime"]


# Memory.


def allocations(setting: Setting) -> dict[str, int]:
    return {call: setting.gpu.calls[call] for call in ("allocate", "pin", "stream", "event", "free", "unpin")}


@pytest.mark.parametrize("number", [1, 2, 7])
def test_calls_allocate_nothing(any_setting, number):
    with any_setting.engine() as engine:
        opened = allocations(any_setting)
        for _ in range(3):
            check(engine, number)
        assert allocations(any_setting) == opened


def test_buffers_grow_once_for_larger_images(any_setting):
    with any_setting.engine() as engine:
        opened = allocations(any_setting)
        check(engine, 2, 128, 128)
        grown = allocations(any_setting)
        assert grown["allocate"] > opened["allocate"]
        assert len(any_setting.gpu.device) == len(any_setting.gpu.pinned) == 4, "the smaller ones are given back"
        for number, size in ((2, 64), (2, 128), (1, 32), (5, 128)):
            check(engine, number, size, size)
        assert allocations(any_setting) == grown


def test_error_of_the_caller_frees_everything(any_setting):
    with pytest.raises(KeyError, match="mine"), any_setting.engine() as engine:
        check(engine, 3)
        raise KeyError("mine")


CALLS_OF_OPENING = {"allocate": 4, "pin": 4, "stream": 2, "event": 4}


@pytest.mark.parametrize(
    ("call", "number"), [(call, n) for call, most in CALLS_OF_OPENING.items() for n in range(most)]
)
def test_opening_that_fails_halfway_frees_everything(setting, monkeypatch, call, number):
    gpu, count = setting.gpu, iter(range(100))
    called = gpu._called

    def fail(name: str) -> None:
        if name == call and next(count) == number:
            gpu.fails[name] = "cudaErrorMemoryAllocation"
        called(name)

    monkeypatch.setattr(gpu, "_called", fail)
    engine = setting.engine()
    with pytest.raises(CudaError, match="memory does not suffice"), engine:
        pass
    assert not gpu.left
    gpu.fails.clear()
    with engine:
        check(engine, 3)


def test_too_little_memory_for_larger_images_leaves_the_engine_usable(make_setting):
    setting = make_setting(memory=2 * 2 * 64 * 64 * 7 + 1000)
    setting.add_plan()
    with setting.engine() as engine:
        check(engine, 2)
        with pytest.raises(CudaError, match=r"memory does not suffice .*--batch") as caught:
            engine(example_images(2, 128, 128))
        assert caught.value.exit_code == 3
        check(engine, 2)
        check(engine, 5)
    assert not setting.gpu.left


# Failures while it computes.


@pytest.mark.parametrize("lost", [True, False])
def test_gpu_that_is_lost_is_told_and_leaving_does_not_hide_it(setting, lost):
    with pytest.raises(CudaError, match=r"The GPU failed in cudaStreamSynchronize"), setting.engine() as engine:
        setting.gpu.fails = dict.fromkeys(("synchronise", "free", "unpin"), "cudaErrorLaunchFailure")
        try:
            engine(example_images(1, 64, 64))
        finally:
            if lost:
                setting.gpu.fails["current"] = "cudaErrorLaunchFailure"


@pytest.mark.parametrize("call", ["upload", "download", "synchronise"])
def test_failure_of_the_gpu_is_told_and_frees_everything(any_setting, call):
    with pytest.raises(CudaError, match="cudaErrorIllegalAddress"), any_setting.engine() as engine:
        check(engine, 3)
        any_setting.gpu.fails[call] = "cudaErrorIllegalAddress"
        engine(example_images(3, 64, 64))
    any_setting.gpu.fails.clear()


def test_failure_of_tensorrt_is_told_and_the_engine_lives_on(any_setting, monkeypatch):
    kind = any_setting.trt.IExecutionContext
    execute = kind.execute_async_v3

    def fail(self: Any, stream_handle: int) -> bool:
        self._logger.log(self._logger.ERROR, "Error Code 1: Cask (no kernel image)")
        return False

    with any_setting.engine() as engine:
        check(engine, 3)
        monkeypatch.setattr(kind, "execute_async_v3", fail)
        with pytest.raises(MissingRequirement, match=r"Cask \(no kernel image\).*msal-deploy doctor") as caught:
            engine(example_images(3, 32, 32))
        assert caught.value.exit_code == 3
        monkeypatch.setattr(kind, "execute_async_v3", execute)
        check(engine, 3, 32, 32)


def test_ctrl_c_during_a_call_waits_for_what_is_under_way(setting, monkeypatch):
    with setting.engine() as engine:
        check(engine, 7)
        monkeypatch.setattr(np, "copyto", interrupted_at(np.copyto, 3))
        with pytest.raises(KeyboardInterrupt):
            engine(example_images(7, 64, 64))
        monkeypatch.undo()
        assert not any(stream.queue for stream in setting.gpu.streams.values())


def interrupted_at(function: Callable[..., None], number: int) -> Callable[..., None]:
    count = iter(range(1000))

    def call(*arguments: Any) -> None:
        if next(count) == number:
            raise KeyboardInterrupt
        function(*arguments)

    return call


# Copies and computations at once.


def spans(gpu: FakeGpu, kind: str) -> list[Span]:
    return [span for span in gpu.spans if span.kind == kind]


def test_copies_run_while_other_chunks_are_computed(any_setting):
    gpu = any_setting.gpu
    with any_setting.engine() as engine:
        gpu.spans.clear()
        check(engine, 10)
    uploads, computes, downloads = (spans(gpu, kind) for kind in ("upload", "compute", "download"))
    assert len(uploads) == len(computes) == len(downloads) == 5
    for number in range(4):
        assert uploads[number + 1].overlaps(computes[number])
        assert downloads[number].overlaps(computes[number + 1])
    copies = sum(span.end - span.start for span in (*uploads, *downloads))
    took = downloads[-1].end - uploads[0].start
    assert took < sum(span.end - span.start for span in computes) + copies / 2
    assert {span.stream for span in computes}.isdisjoint(span.stream for span in (*uploads, *downloads))


def test_gpu_computes_without_a_pause(setting):
    with setting.engine() as engine:
        setting.gpu.spans.clear()
        check(engine, 10)
    computes = spans(setting.gpu, "compute")
    assert all(later.start == earlier.end for earlier, later in pairwise(computes))


def test_copies_are_queued_in_the_order_that_lets_them_overlap(setting):
    with setting.engine() as engine:
        setting.gpu.spans.clear()
        check(engine, 6)
    order = [span.kind for span in setting.gpu.spans]
    assert order == [
        "upload",
        "compute",
        "upload",
        "compute",
        "download",
        "upload",
        "compute",
        "download",
        "download",
    ]


# CUDA graphs.


def graph_calls(setting: Setting) -> tuple[int, int]:
    return setting.gpu.calls["make_graph"], setting.gpu.calls["launch"]


@pytest.fixture(params=[version for version in VERSIONS if version != "rtx"])
def graph_setting(request: pytest.FixtureRequest, make_setting: Callable[..., Setting]) -> Iterator[Setting]:
    made = make_setting(request.param)
    made.add_plan()
    yield made
    assert not made.gpu.left


def test_second_call_of_a_shape_makes_a_graph_and_later_ones_launch_it(graph_setting):
    with graph_setting.engine() as engine:
        seen = []
        for seed in range(4):
            check(engine, 2, seed=seed)
            seen.append(graph_calls(graph_setting))
        assert seen == [(0, 0), (1, 1), (1, 2), (1, 3)]
        assert engine.no_graph is None


def test_each_slot_has_its_graph(graph_setting):
    with graph_setting.engine() as engine:
        check(engine, 8)
        assert graph_calls(graph_setting) == (2, 3)
        check(engine, 8, seed=1)
        assert graph_calls(graph_setting) == (2, 7)


def test_new_shape_makes_new_graphs(graph_setting):
    with graph_setting.engine() as engine:
        for size in (64, 64, 32, 32, 32, 64, 64):
            check(engine, 2, size, size, seed=size)
        assert graph_calls(graph_setting) == (3, 4)
        assert len(graph_setting.gpu.graphs) == 1, "graphs of other shapes are given back"


def test_larger_buffers_make_new_graphs(graph_setting):
    with graph_setting.engine() as engine:
        for size in (64, 64, 128, 128, 64, 64, 64):
            check(engine, 2, size, size)
        assert len(graph_setting.gpu.graphs) == 1


@pytest.mark.parametrize("call", ["begin_capture", "end_capture", "make_graph"])
def test_capture_that_fails_is_told_once_and_computed_without(setting, caplog, call):
    setting.gpu.fails[call] = "cudaErrorStreamCaptureUnsupported"
    with setting.engine() as engine, caplog.at_level(logging.WARNING):
        for seed in range(4):
            check(engine, 4, seed=seed)
        assert "cudaErrorStreamCaptureUnsupported" in engine.no_graph
        assert setting.gpu.calls[call] == 1
    (record,) = caplog.records
    assert record.getMessage().startswith("TensorRT runs without CUDA graphs: ")
    assert not setting.gpu.left


def test_tensorrt_that_cannot_be_captured_is_computed_without(setting, monkeypatch):
    kind = setting.trt.IExecutionContext
    execute = kind.execute_async_v3

    def refuse(self: Any, stream_handle: int) -> bool:
        return False if setting.gpu.capturing(stream_handle) else execute(self, stream_handle)

    monkeypatch.setattr(kind, "execute_async_v3", refuse)
    with setting.engine() as engine:
        for seed in range(3):
            check(engine, 4, seed=seed)
        assert "TensorRT failed" in engine.no_graph
    assert not setting.gpu.left


def test_pycuda_runs_without_graphs_and_says_why(make_setting):
    setting = make_setting("8.6.1", "PyCUDA")
    setting.add_plan("int8")
    with setting.engine("int8") as engine:
        check(engine, 2)
        check(engine, 2)
        assert "PyCUDA has none" in engine.no_graph


# The plan is looked at before it is loaded.


def refused(setting: Setting, kind: type[Exception] = BadInput, precision: str = "fp32") -> str:
    with pytest.raises(kind) as caught, setting.engine(precision):
        pass
    assert "\n" not in str(caught.value)
    assert not setting.gpu.left
    return str(caught.value)


def test_bundle_without_a_plan(setting):
    sentence = refused(setting, precision="int8")
    assert "has no int8 plan of tensorrt for compute capability 6.1" in sentence
    assert f"msal-deploy build-trt {setting.bundle.path} --int8 --backend tensorrt" in sentence


def test_plan_of_another_tensorrt(setting):
    setting.add_plan(backend_version="10.4.0.26")
    assert "was built by tensorrt 10.4.0.26 and not 10.16.1.11; build it again with: msal-deploy" in refused(setting)


def test_plan_of_another_gpu(setting):
    setting.add_plan(sm=("8.9",))
    assert "was built for compute capability 8.9 and not 6.1; build it again with: msal-deploy" in refused(setting)


def test_plan_of_another_graph(setting):
    setting.add_plan(graph_sha256="0" * 64)
    assert f"was built from another {GRAPH} than the bundle's; build it again with: msal-deploy" in refused(setting)


def test_truncated_plan(setting):
    path = setting.add_plan()
    path.write_bytes(path.read_bytes()[:-100])
    assert "it is truncated; build it again with: msal-deploy" in refused(setting)


def test_plan_without_its_sidecar(setting):
    path = setting.add_plan()
    path.with_name(f"{path.name}.json").unlink()
    assert "build it again with: msal-deploy build-trt" in refused(setting)


def test_shape_outside_the_profile_names_it_and_the_command(any_setting):
    with any_setting.engine() as engine:
        check(engine, 3)
        with pytest.raises(BadInput) as caught:
            engine(example_images(1, 160, 64))
        assert "takes 1 × 32 × 32 px to 4 × 128 × 128 px and not 1 × 160 × 64 px" in str(caught.value)
        assert "msal-deploy build-trt" in str(caught.value) and "--size 32:64:160x128" in str(caught.value)
        check(engine, 3)


def test_plan_that_tensorrt_does_not_load(any_setting):
    any_setting.trt.world.sm = "9.0"
    sentence = refused(any_setting, MissingRequirement)
    assert "cannot load" in sentence and "Error Code 1: the plan is for compute capability" in sentence
    assert "build it again with: msal-deploy build-trt" in sentence


def test_gpu_without_room_for_the_activations(any_setting, monkeypatch):
    def create(self: Any, **_: Any) -> None:
        self._logger.log(self._logger.ERROR, "Error Code 2: OutOfMemory (requested size was 9000000000 bytes)")

    monkeypatch.setattr(any_setting.trt.ICudaEngine, "create_execution_context", create)
    sentence = refused(any_setting, MissingRequirement)
    assert "NVIDIA GeForce GTX 1080 Ti has no room for" in sentence and "OutOfMemory" in sentence
    assert "build it for single images with: msal-deploy build-trt" in sentence and "--batch 1:1:1" in sentence


@pytest.mark.parametrize(("old", "new"), [(b'"image"', b'"input"'), (b'"probability"', b'"mask"')])
def test_plan_with_other_tensors(setting, old, new):
    path = setting.add_plan()
    path.write_bytes(path.read_bytes().replace(b"[" + old, b"[" + new))
    setting_plan(path)
    assert "has no " in refused(setting)


@pytest.mark.parametrize(
    ("old", "new"), [(b'"UINT8"', b'"FLOAT"'), (b'"probability", "FLOAT"', b'"probability", "HALF"')]
)
def test_plan_with_other_types(setting, old, new):
    path = setting.add_plan()
    path.write_bytes(path.read_bytes().replace(old, new))
    setting_plan(path)
    assert "build it again with: msal-deploy" in refused(setting)


def setting_plan(path: Path) -> None:
    """Describe the plan as it is now."""
    sidecar = path.with_name(f"{path.name}.json")
    described = msgspec.json.decode(sidecar.read_bytes()) | {"plan_sha256": sha256(path), "bytes": path.stat().st_size}
    sidecar.write_bytes(msgspec.json.encode(described))


@pytest.mark.parametrize("compatible", [True, False])
def test_host_code_is_allowed_only_to_version_compatible_plans(setting, monkeypatch, compatible):
    setting.add_plan(options=BuildOptions(version_compatible=compatible))
    allowed = []
    load = setting.trt.Runtime.deserialize_cuda_engine

    def seen(self: Any, plan: bytes) -> Any:
        allowed.append(self.engine_host_code_allowed)
        return load(self, plan)

    monkeypatch.setattr(setting.trt.Runtime, "deserialize_cuda_engine", seen)
    with setting.engine():
        assert allowed == ([True] if compatible else [None])


# What the machine lacks.


@pytest.mark.parametrize("package", ["cuda-python", "PyCUDA"])
@pytest.mark.parametrize("version", VERSIONS)
def test_machine_without_a_driver_ends_in_exit_3(make_setting, version, package):
    setting = make_setting(version, package)
    setting.add_plan()
    setting.gpu.fails["device"] = "cudaErrorNoDevice"
    assert "No NVIDIA GPU can be used here" in refused(setting, CudaError)


@pytest.mark.parametrize(("backend", "extra"), [("tensorrt", "gpu"), ("tensorrt-rtx", "rtx")])
def test_machine_without_tensorrt_is_told_the_pip_command(small_bundle, monkeypatch, backend, extra):
    monkeypatch.setitem(sys.modules, backend.replace("-", "_"), None)
    with (
        pytest.raises(MissingExtra, match=rf"pip install 'msal-deploy\[{extra}\]'"),
        open_engine(small_bundle, f"{backend}:fp32"),
    ):
        pass


def test_real_tensorrt_rtx_without_a_driver_ends_in_exit_3(small_bundle):
    pytest.importorskip("tensorrt_rtx")
    runtime = pytest.importorskip("cuda.bindings.runtime")
    if runtime.cudaGetDevice()[0] == runtime.cudaError_t.cudaSuccess:
        pytest.skip("there is a GPU")
    with (
        pytest.raises(MissingRequirement, match="No NVIDIA GPU can be used here") as caught,
        open_engine(small_bundle, "tensorrt-rtx:fp16"),
    ):
        pass
    assert caught.value.exit_code == 3


# TensorRT-RTX keeps what it has compiled.


@pytest.fixture
def rtx(make_setting: Callable[..., Setting]) -> Setting:
    made = make_setting("rtx")
    made.add_plan()
    return made


def test_compiled_kernels_are_kept_beside_the_plan(rtx, monkeypatch):
    plan = rtx.add_plan()
    cache, taken = plan.with_name(f"{plan.name}.cache"), []
    deserialize = rtx.trt.IRuntimeCache.deserialize
    monkeypatch.setattr(rtx.trt.IRuntimeCache, "deserialize", lambda self, b: taken.append(b) or deserialize(self, b))
    with rtx.engine() as engine:
        check(engine, 1)
        assert not cache.exists()
    kept = cache.read_bytes()
    assert kept and not taken
    written = cache.stat().st_mtime_ns
    with rtx.engine() as engine:
        check(engine, 1)
    assert taken == [kept]
    assert cache.stat().st_mtime_ns == written, "what has not changed is not written again"


def test_kernels_that_do_not_fit_are_compiled_and_kept_anew(rtx, monkeypatch):
    plan = rtx.add_plan()
    cache = plan.with_name(f"{plan.name}.cache")
    cache.write_bytes(b"of another driver")
    monkeypatch.setattr(rtx.trt.IRuntimeCache, "deserialize", lambda self, blob: False)
    with rtx.engine() as engine:
        check(engine, 1)
    assert cache.read_bytes().startswith(b"kernels of")


def test_bundle_that_cannot_be_written_to_runs_as_well(rtx, monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("msal_deploy.runtimes.tensorrt.atomic_file", refuse)
    with rtx.engine() as engine:
        check(engine, 1)
    assert not list(rtx.bundle.path.glob("*.cache"))
    assert not rtx.gpu.left


def test_tensorrt_rtx_makes_its_graphs_itself(rtx, monkeypatch):
    configs = []
    create = rtx.trt.ICudaEngine.create_execution_context

    def seen(self: Any, runtime_config: Any) -> Any:
        configs.append(runtime_config)
        return create(self, runtime_config=runtime_config)

    monkeypatch.setattr(rtx.trt.ICudaEngine, "create_execution_context", seen)
    with rtx.engine() as engine:
        for _ in range(3):
            check(engine, 2)
        assert "by itself" in engine.no_graph
    (config,) = configs
    assert config.cuda_graph_strategy is rtx.trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    assert graph_calls(rtx) == (0, 0)


def test_engines_are_known_by_their_names(small_bundle):
    for backend in ("tensorrt", "tensorrt-rtx"):
        for precision in ("fp32", "fp16", "int8"):
            engine = open_engine(small_bundle, f"{backend}:{precision}")
            assert isinstance(engine, TensorRtEngine) and engine.id == f"{backend}:{precision}"
    with pytest.raises(BadInput, match="tensorrt runs no 'int4'"):
        open_engine(small_bundle, "tensorrt:int4")
    with pytest.raises(BadInput, match="did you mean 'tensorrt-rtx'"):
        open_engine(small_bundle, "tensorrt_rtx:fp16")


# What the command line makes of them.


def bench_cli(setting: Setting, tmp_path: Path, *engines: str) -> tuple[Result, list[str]]:
    words = [word for engine in engines for word in ("--engine", engine)]
    words += ["--batch", "1", "--size", "64", "--seconds", "0.01", "--windows", "2", "--json", str(tmp_path / "bench")]
    result = CliRunner().invoke(app, ["bench", str(setting.bundle.path), *words])
    timed = json.loads((tmp_path / "bench").read_text())["results"] if result.exit_code == 0 else []
    return result, [one["engine"] for one in timed]


def test_bench_times_fp32_beside_a_precision_that_does_not_pay(make_setting, tmp_path):
    setting = make_setting("8.6.1", sm=(6, 1))
    setting.add_plan("fp16")
    result, _ = bench_cli(setting, tmp_path, "tensorrt:fp16")
    assert result.exit_code == 2 and "has no fp32 plan" in " ".join(result.output.split())
    setting.add_plan("fp32")
    result, timed = bench_cli(setting, tmp_path, "tensorrt:fp16")
    assert timed == ["tensorrt:fp16", "tensorrt:fp32"], result.output
    assert "1/64 of the FP32 rate" in result.output
    assert bench_cli(setting, tmp_path, "tensorrt:fp32")[1] == ["tensorrt:fp32"]


def test_bench_leaves_a_precision_that_pays_alone(make_setting, tmp_path):
    setting = make_setting(sm=(8, 6))
    setting.add_plan("fp16")
    assert bench_cli(setting, tmp_path, "tensorrt:fp16")[1] == ["tensorrt:fp16"]


def test_plans_for_the_gpu_that_is_here_are_engines_that_are_available(make_setting):
    setting = make_setting(sm=(8, 6))
    setting.trt.__spec__ = ModuleSpec("tensorrt", None)
    setting.add_plan("fp16")
    setting.add_plan("int8").rename(setting.bundle.path / "model.int8.sm89.tensorrt.plan")
    engines = available_engines(setting.bundle)
    assert engines[-1] == "tensorrt:fp16" and "openvino:fp32" in engines and "tensorrt:int8" not in engines
