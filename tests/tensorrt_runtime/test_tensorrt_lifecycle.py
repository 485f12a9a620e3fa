"""The life of a TensorRT engine: what it computes, what it allocates and frees, and how the CLI uses it.

Each version of TensorRT runs through cuda-python and PyCUDA on a fake GPU; see `tensorrt_machine`.
"""

import json
import threading
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_tensorrt_parts import darkness
from tensorrt_machine import Machine, assert_computes, graph_calls
from typer.testing import CliRunner, Result

from msal_deploy.cli import app
from msal_deploy.errors import BadInput
from msal_deploy.export import example_images
from msal_deploy.runtimes import Engine, available_engines, open_engine
from msal_deploy.runtimes.tensorrt import TensorRtEngine
from msal_deploy.trt.cuda import CudaError
from msal_deploy.trt.plan_metadata import Profile


@pytest.mark.parametrize("batch", [1, 2, 3, 7])
def test_result_is_the_probability_in_every_version(any_machine, batch):
    with any_machine.engine() as engine:
        for seed in range(3):  # run directly, captured, replayed
            assert_computes(engine, batch, seed=seed)


def test_image_size_may_change_between_calls(any_machine):
    with any_machine.engine() as engine:
        for height, width in ((64, 64), (32, 96), (128, 128), (32, 32), (64, 64), (64, 64)):
            assert_computes(engine, 3, height, width)


def test_precision_selects_the_plan(make_machine):
    machine = make_machine()
    for precision, constant in (("fp32", 0.25), ("fp16", 0.5), ("int8", 0.75)):
        machine.add_plan(precision)
        machine.trt.world.compute = lambda images, value=constant: np.full((len(images), 64, 64), value, np.float32)
        with machine.engine(precision) as engine:
            assert engine.id == f"tensorrt:{precision}"
            assert (engine(example_images(1, 64, 64)) == constant).all()


def test_minimum_batch_of_the_profile_is_enforced(make_machine):
    machine = make_machine()
    machine.add_plan(profile=Profile((3, 32, 32), (4, 64, 64), (4, 64, 64)))
    with machine.engine() as engine:
        for batch in (3, 5, 9):
            assert_computes(engine, batch)
        with pytest.raises(BadInput, match=r"accepts 3 × 32 × 32 px to 4 × 64 × 64 px, not 2 × 64 × 64 px"):
            engine(example_images(2, 64, 64))


# The contract of all engines.


def test_output_belongs_to_the_caller(any_machine):
    images = example_images(2, 64, 64)
    with any_machine.engine() as engine:
        first = engine(images)
        kept = first.copy()
        engine(255 - images)
        assert np.array_equal(first, kept)
        first[:] = 7
        assert np.array_equal(engine(images), kept)
    assert first.max() == 7


def test_images_are_not_changed(machine):
    images = example_images(5, 64, 64)
    before = images.copy()
    images.setflags(write=False)
    with machine.engine() as engine:
        assert np.array_equal(engine(images[..., ::-1]), darkness(images[..., ::-1]))
    assert np.array_equal(images, before)


def test_threads_share_an_engine(any_machine):
    wrong: list[BaseException] = []

    def work(engine: Engine, batch: int) -> None:
        try:
            for seed in range(5):
                assert_computes(engine, batch, seed=seed)
        except BaseException as error:
            wrong.append(error)

    with any_machine.engine() as engine:
        threads = [threading.Thread(target=work, args=(engine, batch)) for batch in (1, 2, 3, 5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_two_engines_can_be_open_together(any_machine):
    with any_machine.engine() as one:
        with any_machine.engine() as other:
            assert_computes(one, 3)
            assert_computes(other, 3, 32, 32)
            assert_computes(one, 3)
        assert_computes(one, 3)


def test_engine_can_be_entered_again(any_machine):
    engine = any_machine.engine()
    for _ in range(2):
        with engine:
            assert_computes(engine, 3)
        assert not any_machine.gpu.left
        with pytest.raises(RuntimeError, match="with statement"):
            engine(example_images(1, 64, 64))


def test_gpu_is_not_touched_before_the_engine_is_entered(any_machine):
    any_machine.gpu.calls.clear()
    any_machine.engine()
    assert not any_machine.gpu.calls


def test_tensorrt_objects_are_freed_in_reverse_order(machine, monkeypatch):
    """The context is freed first, then the engine, then the runtime, while their GPU is the current one."""
    freed = []
    for name in ("IExecutionContext", "ICudaEngine", "Runtime"):
        kind = getattr(machine.trt, name)
        monkeypatch.setattr(kind, "__del__", lambda self: freed.append(type(self).__name__), raising=False)
    with machine.engine() as engine:
        assert_computes(engine, 1)
        assert freed == []
    assert freed == ["IExecutionContext", "ICudaEngine", "Runtime"]


# Memory.


def allocations(machine: Machine) -> dict[str, int]:
    return {call: machine.gpu.calls[call] for call in ("allocate", "pin", "stream", "event", "free", "unpin")}


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_calls_do_not_allocate(any_machine, batch):
    with any_machine.engine() as engine:
        opened = allocations(any_machine)
        for _ in range(3):
            assert_computes(engine, batch)
        assert allocations(any_machine) == opened


def test_buffers_grow_once_for_larger_images(any_machine):
    with any_machine.engine() as engine:
        opened = allocations(any_machine)
        assert_computes(engine, 2, 128, 128)
        grown = allocations(any_machine)
        assert grown["allocate"] > opened["allocate"]
        assert len(any_machine.gpu.device) == len(any_machine.gpu.pinned) == 4, "the smaller buffers are freed"
        for batch, size in ((2, 64), (2, 128), (1, 32), (5, 128)):
            assert_computes(engine, batch, size, size)
        assert allocations(any_machine) == grown


def test_error_of_the_caller_frees_all_resources(any_machine):
    with pytest.raises(KeyError, match="mine"), any_machine.engine() as engine:
        assert_computes(engine, 3)
        raise KeyError("mine")


CALLS_OF_OPENING = {"allocate": 4, "pin": 4, "stream": 2, "event": 4}


@pytest.mark.parametrize(
    ("call", "failing_call"), [(call, n) for call, count in CALLS_OF_OPENING.items() for n in range(count)]
)
def test_failure_during_opening_frees_all_resources(machine, monkeypatch, call, failing_call):
    gpu, count = machine.gpu, iter(range(100))
    called = gpu._called

    def fail(name: str) -> None:
        if name == call and next(count) == failing_call:
            gpu.fails[name] = "cudaErrorMemoryAllocation"
        called(name)

    monkeypatch.setattr(gpu, "_called", fail)
    engine = machine.engine()
    with pytest.raises(CudaError, match="Not enough GPU memory"), engine:
        pass
    assert not gpu.left
    gpu.fails.clear()
    with engine:
        assert_computes(engine, 3)


def test_engine_stays_usable_after_an_image_that_is_too_large(make_machine):
    machine = make_machine(memory=2 * 2 * 64 * 64 * 7 + 1000)
    machine.add_plan()
    with machine.engine() as engine:
        assert_computes(engine, 2)
        with pytest.raises(CudaError, match=r"Not enough GPU memory .*--batch") as caught:
            engine(example_images(2, 128, 128))
        assert caught.value.exit_code == 3
        assert_computes(engine, 2)
        assert_computes(engine, 5)
    assert not machine.gpu.left


# The kernel cache of TensorRT-RTX.


def test_rtx_saves_compiled_kernels_beside_the_plan(rtx, monkeypatch):
    plan = rtx.add_plan()
    cache, taken = plan.with_name(f"{plan.name}.cache"), []
    deserialize = rtx.trt.IRuntimeCache.deserialize
    monkeypatch.setattr(rtx.trt.IRuntimeCache, "deserialize", lambda self, b: taken.append(b) or deserialize(self, b))
    with rtx.engine() as engine:
        assert_computes(engine, 1)
        assert not cache.exists()
    kept = cache.read_bytes()
    assert kept and not taken
    written = cache.stat().st_mtime_ns
    with rtx.engine() as engine:
        assert_computes(engine, 1)
    assert taken == [kept]
    assert cache.stat().st_mtime_ns == written, "an unchanged cache is not written again"


def test_rtx_replaces_kernels_of_another_driver(rtx, monkeypatch):
    plan = rtx.add_plan()
    cache = plan.with_name(f"{plan.name}.cache")
    cache.write_bytes(b"of another driver")
    monkeypatch.setattr(rtx.trt.IRuntimeCache, "deserialize", lambda self, blob: False)
    with rtx.engine() as engine:
        assert_computes(engine, 1)
    assert cache.read_bytes().startswith(b"kernels of")


def test_rtx_runs_from_a_read_only_bundle(rtx, monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("msal_deploy.runtimes.tensorrt.atomic_file", refuse)
    with rtx.engine() as engine:
        assert_computes(engine, 1)
    assert not list(rtx.bundle.path.glob("*.cache"))
    assert not rtx.gpu.left


def test_rtx_captures_its_own_cuda_graphs(rtx, monkeypatch):
    configs = []
    create = rtx.trt.ICudaEngine.create_execution_context

    def seen(self: Any, runtime_config: Any) -> Any:
        configs.append(runtime_config)
        return create(self, runtime_config=runtime_config)

    monkeypatch.setattr(rtx.trt.ICudaEngine, "create_execution_context", seen)
    with rtx.engine() as engine:
        for _ in range(3):
            assert_computes(engine, 2)
        assert "captures CUDA graphs itself" in engine.no_graph
    (config,) = configs
    assert config.cuda_graph_strategy is rtx.trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    assert graph_calls(rtx) == (0, 0)


def test_engines_are_opened_by_id(small_bundle):
    for backend in ("tensorrt", "tensorrt-rtx"):
        for precision in ("fp32", "fp16", "int8"):
            engine = open_engine(small_bundle, f"{backend}:{precision}")
            assert isinstance(engine, TensorRtEngine) and engine.id == f"{backend}:{precision}"
    with pytest.raises(BadInput, match="tensorrt does not support 'int4'"):
        open_engine(small_bundle, "tensorrt:int4")
    with pytest.raises(BadInput, match="did you mean 'tensorrt-rtx'"):
        open_engine(small_bundle, "tensorrt_rtx:fp16")


# Command line.


def bench_cli(machine: Machine, tmp_path: Path, *engines: str) -> tuple[Result, list[str]]:
    words = [word for one in engines for word in ([one] if one.startswith("-") else ["--engine", one])]
    words += ["--batch", "1", "--size", "64", "--seconds", "0.01", "--rounds", "1", "--in-process"]
    words += ["--json", str(tmp_path / "bench")]
    result = CliRunner().invoke(app, ["bench", str(machine.bundle.path), *words])
    timed = json.loads((tmp_path / "bench").read_text())["results"] if result.exit_code == 0 else []
    return result, [one["engine"] for one in timed]


def test_bench_refuses_a_batch_beyond_the_profile_before_anything_is_timed(make_machine, tmp_path):
    machine = make_machine()
    machine.add_plan("fp16")
    result, timed = bench_cli(machine, tmp_path, "openvino:fp32", "tensorrt:fp16", "--batch=64")
    assert (result.exit_code, timed) == (2, []) and result.output.count("Error: ") == 1
    assert "accepts" in result.output and "not 64 × 64 × 64 px" in result.output


def test_bench_adds_fp32_to_a_discouraged_precision(make_machine, tmp_path):
    machine = make_machine("8.6.1", sm=(6, 1))
    machine.add_plan("fp16")
    result, _ = bench_cli(machine, tmp_path, "tensorrt:fp16")
    assert result.exit_code == 2 and "has no fp32 plan" in " ".join(result.output.split())
    machine.add_plan("fp32")
    result, timed = bench_cli(machine, tmp_path, "tensorrt:fp16")
    assert timed == ["tensorrt:fp16", "tensorrt:fp32"], result.output
    assert "1/64 of the FP32 rate" in result.output
    assert bench_cli(machine, tmp_path, "tensorrt:fp32")[1] == ["tensorrt:fp32"]


def test_bench_does_not_add_fp32_to_a_preferred_precision(make_machine, tmp_path):
    machine = make_machine(sm=(8, 6))
    machine.add_plan("fp16")
    assert bench_cli(machine, tmp_path, "tensorrt:fp16")[1] == ["tensorrt:fp16"]


def test_plans_for_the_local_gpu_are_available_engines(make_machine):
    machine = make_machine(sm=(8, 6))
    machine.trt.__spec__ = ModuleSpec("tensorrt", None)
    machine.add_plan("fp16")
    machine.add_plan("int8").rename(machine.bundle.path / "model.int8.sm89.tensorrt.plan")
    engines = available_engines(machine.bundle)
    assert engines[-1] == "tensorrt:fp16" and "openvino:fp32" in engines and "tensorrt:int8" not in engines
