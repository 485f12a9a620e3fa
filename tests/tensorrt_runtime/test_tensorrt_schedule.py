"""The schedule of a TensorRT engine: chunks, overlapped copies and CUDA graphs.

The fake GPU runs work as late as possible or in random order, so a missing wait gives wrong pixels.
"""

import logging
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from fake_cuda import FakeGpu, Span
from fake_tensorrt import VERSIONS
from tensorrt_machine import Machine, assert_computes, graph_calls

from msal_deploy.trt.execution import split_batch

# Chunks.


@pytest.mark.parametrize("order", range(12))
@pytest.mark.parametrize("version", ["8.6.1", "rtx"])
def test_result_does_not_depend_on_the_order_of_gpu_work(make_machine, version, order):
    machine = make_machine(version, order=order)
    machine.add_plan()
    with machine.engine() as engine:
        for batch in (5, 5, 1, 8, 4, 4, 4):
            assert_computes(engine, batch, seed=batch)


@pytest.mark.parametrize(
    ("batch", "min_size", "max_size", "expected"),
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
def test_chunks_cover_all_images_and_fit_the_profile(batch, min_size, max_size, expected):
    assert [(chunk.start, chunk.stop) for chunk in split_batch(batch, min_size, max_size)] == expected


# Overlap of copies and computations.


def spans(gpu: FakeGpu, kind: str) -> list[Span]:
    return [span for span in gpu.spans if span.kind == kind]


def test_copies_overlap_with_computations(any_machine):
    gpu = any_machine.gpu
    with any_machine.engine() as engine:
        gpu.spans.clear()
        assert_computes(engine, 10)
    uploads, computes, downloads = (spans(gpu, kind) for kind in ("upload", "compute", "download"))
    assert len(uploads) == len(computes) == len(downloads) == 5
    for chunk in range(4):
        assert uploads[chunk + 1].overlaps(computes[chunk])
        assert downloads[chunk].overlaps(computes[chunk + 1])
    copies = sum(span.end - span.start for span in (*uploads, *downloads))
    elapsed = downloads[-1].end - uploads[0].start
    assert elapsed < sum(span.end - span.start for span in computes) + copies / 2
    assert {span.stream for span in computes}.isdisjoint(span.stream for span in (*uploads, *downloads))


def test_computations_have_no_gaps(machine):
    with machine.engine() as engine:
        machine.gpu.spans.clear()
        assert_computes(engine, 10)
    computes = spans(machine.gpu, "compute")
    assert all(later.start == earlier.end for earlier, later in pairwise(computes))


def test_uploads_are_queued_before_downloads(machine):
    with machine.engine() as engine:
        machine.gpu.spans.clear()
        assert_computes(engine, 6)
    order = [span.kind for span in machine.gpu.spans]
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


@pytest.fixture(params=[version for version in VERSIONS if version != "rtx"])
def graph_machine(request: pytest.FixtureRequest, make_machine: Callable[..., Machine]) -> Iterator[Machine]:
    made = make_machine(request.param)
    made.add_plan()
    yield made
    assert not made.gpu.left


def test_second_call_of_a_shape_captures_a_graph_that_later_calls_launch(graph_machine):
    with graph_machine.engine() as engine:
        seen = []
        for seed in range(4):
            assert_computes(engine, 2, seed=seed)
            seen.append(graph_calls(graph_machine))
        assert seen == [(0, 0), (1, 1), (1, 2), (1, 3)]
        assert engine.no_graph is None


def test_each_slot_has_its_own_graph(graph_machine):
    with graph_machine.engine() as engine:
        assert_computes(engine, 8)
        assert graph_calls(graph_machine) == (2, 3)
        assert_computes(engine, 8, seed=1)
        assert graph_calls(graph_machine) == (2, 7)


def test_new_shape_replaces_the_graphs(graph_machine):
    with graph_machine.engine() as engine:
        for size in (64, 64, 32, 32, 32, 64, 64):
            assert_computes(engine, 2, size, size, seed=size)
        assert graph_calls(graph_machine) == (3, 4)
        assert len(graph_machine.gpu.graphs) == 1, "graphs of other shapes are destroyed"


def test_larger_buffers_replace_the_graphs(graph_machine):
    with graph_machine.engine() as engine:
        for size in (64, 64, 128, 128, 64, 64, 64):
            assert_computes(engine, 2, size, size)
        assert len(graph_machine.gpu.graphs) == 1


@pytest.mark.parametrize("call", ["begin_capture", "end_capture", "make_graph"])
def test_failed_capture_warns_once_and_runs_without_graphs(machine, caplog, call):
    machine.gpu.fails[call] = "cudaErrorStreamCaptureUnsupported"
    with machine.engine() as engine, caplog.at_level(logging.WARNING):
        for seed in range(4):
            assert_computes(engine, 4, seed=seed)
        assert "cudaErrorStreamCaptureUnsupported" in engine.no_graph
        assert machine.gpu.calls[call] == 1
    (record,) = caplog.records
    assert record.getMessage().startswith("TensorRT runs without CUDA graphs: ")
    assert not machine.gpu.left


def test_tensorrt_that_rejects_capture_runs_without_graphs(machine, monkeypatch):
    kind = machine.trt.IExecutionContext
    execute = kind.execute_async_v3

    def refuse(self: Any, stream_handle: int) -> bool:
        return False if machine.gpu.capturing(stream_handle) else execute(self, stream_handle)

    monkeypatch.setattr(kind, "execute_async_v3", refuse)
    with machine.engine() as engine:
        for seed in range(3):
            assert_computes(engine, 4, seed=seed)
        assert "TensorRT failed" in engine.no_graph
    assert not machine.gpu.left


def test_pycuda_runs_without_graphs(make_machine):
    machine = make_machine("8.6.1", "PyCUDA")
    machine.add_plan("int8")
    with machine.engine("int8") as engine:
        assert_computes(engine, 2)
        assert_computes(engine, 2)
        assert "PyCUDA does not support CUDA graphs" in engine.no_graph
