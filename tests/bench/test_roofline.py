"""`bench --roofline`: bytes, floors, shares and ratios against values counted by hand; the peaks; the command."""

import io
import json
import math
import shutil
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from tiny_bundle import write_tiny_bundle
from typer.testing import CliRunner

from msal_deploy.bench import Timing, peaks, roofline_run
from msal_deploy.bench.roofline_report import MeasuredPeak, RooflineReport
from msal_deploy.bench.roofline_run import measure_roofline
from msal_deploy.bench.roofline_tables import _short, roofline_tables
from msal_deploy.bundle import Bundle
from msal_deploy.cli import app
from msal_deploy.errors import BadInput
from msal_deploy.graph import Layer, layers
from msal_deploy.roofline import Roofs, bound_layers
from msal_deploy.runtimes import open_engine
from msal_deploy.runtimes.kernels import Kernel, LayerNames
from msal_deploy.runtimes.onnxruntime import _kernel_times
from msal_deploy.runtimes.openvino import CORE

pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.fixture
def small_peaks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("CHANNELS", 16), ("SIDE", 8), ("CONVOLUTIONS", 2), ("MEMORY_BYTES", 2**16)):
        monkeypatch.setattr(peaks, name, value)
    monkeypatch.setattr("msal_deploy.bench.timing.MIN_RUNS", 1)
    monkeypatch.setattr(roofline_run, "last_level_cache", lambda: 2**12)
    monkeypatch.setattr(roofline_run, "PROFILED_RUNS", 2)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle")


# --- operations and bytes --------------------------------------------------------------------------------------------


def one_layer(
    op: str, weight: tuple[int, ...], data: tuple[int, ...], out: tuple[int, ...], **attributes: int
) -> Layer:
    tensors = [numpy_helper.from_array(np.ones(weight, np.float32), "w")]
    node = helper.make_node(op, ["x", "w"], ["y"], "layer", **attributes)
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, data)]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)]
    graph = helper.make_graph([node], "g", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    (layer,) = layers(model, batch=data[0], height=data[1], width=data[2])
    return layer


@pytest.mark.parametrize(
    ("layer", "macs", "moved"),
    [
        # 3×3, stride 2, 8 -> 16 channels, 10×3 -> 4×1: 64 outputs of 72 products; 240 + 1152 + 64 numbers.
        (one_layer("Conv", (16, 8, 3, 3), (1, 8, 10, 3), (1, 16, 4, 1), strides=[2, 2]), 64 * 72, 4 * 1456),
        # Two groups: each output sees half of the channels.
        (one_layer("Conv", (16, 4, 1, 1), (2, 8, 3, 3), (2, 16, 3, 3), group=2), 288 * 4, 4 * (144 + 64 + 288)),
        # Transposed 2×2, stride 2: each of the 8·3·3 inputs meets 5·4 weights.
        (one_layer("ConvTranspose", (8, 5, 2, 2), (1, 8, 3, 3), (1, 5, 6, 6), strides=[2, 2]), 72 * 20, 4 * 412),
    ],
)
def test_operations_and_bytes_are_those_counted_by_hand(layer: Layer, macs: int, moved: int) -> None:
    assert (layer.macs, layer.moved_bytes) == (macs, moved)


def test_bytes_of_an_int8_layer_are_one_for_each_number(tiny: Bundle) -> None:
    first, second, third = layers(onnx.load(tiny.file("model.int8.onnx")), height=32, width=64)
    pixels = 32 * 64
    assert [one.precision for one in (first, second, third)] == ["int8"] * 3
    assert first.moved_bytes == pixels * 3 + 16 * 3 * 9 + pixels * 16
    assert second.moved_bytes == pixels * 16 + 32 * 16 * 9 + pixels * 32
    assert second.macs == pixels * 32 * 16 * 9


# --- bounds ----------------------------------------------------------------------------------------------------------

MACHINE = Roofs("test", {"fp32": 100e9, "bf16": 200e9, "int8": 400e9}, memory=10e9, cache=50e9, cache_bytes=1_000_000)
HEAVY = Layer("/network/a/Conv", "Conv", "a", 1_000_000_000, "fp32", 4_000_000)  # 2 G operations, 4 MB
WIDE = Layer("/network/b/Conv", "Conv", "b", 1_000_000, "fp32", 2_000_000)
SMALL = Layer("/network/c/Conv", "Conv", "c", 1_000_000, "fp32", 500_000)


def test_bound_is_the_larger_of_both_times_and_the_cache_holds_small_layers() -> None:
    heavy, wide, small = bound_layers([HEAVY, WIDE, SMALL], MACHINE)
    assert (heavy.arithmetic_ms, heavy.memory_ms, heavy.bound) == pytest.approx((20, 0.4, "compute"))
    assert (wide.arithmetic_ms, wide.memory_ms, wide.bound) == pytest.approx((0.02, 0.2, "memory"))
    assert (small.arithmetic_ms, small.memory_ms, small.bound) == pytest.approx((0.02, 0.01, "compute"))
    assert (heavy.floor_ms, wide.floor_ms, small.floor_ms) == pytest.approx((20, 0.2, 0.02))
    assert (heavy.intensity, wide.intensity) == pytest.approx((500, 1))


def test_bound_in_another_precision_has_its_rate_and_its_bytes() -> None:
    (wide,) = bound_layers([WIDE], MACHINE, "bf16")
    # 1 MB fits in the cache of 1 MB: 1 MB at 50 GB/s.
    assert (wide.moved_bytes, wide.arithmetic_ms, wide.memory_ms) == pytest.approx((1_000_000, 0.01, 0.02))
    with pytest.raises(ValueError, match="test has no rate for fp16"):
        bound_layers([WIDE], MACHINE, "fp16")


# --- the report ------------------------------------------------------------------------------------------------------


def timing(*medians: float) -> Timing:
    return Timing(tuple((value,) * 3 for value in medians))


def make_report(**changes: object) -> RooflineReport:
    """FP32 at 100, BF16 at 200, INT8 at 400 G/s, 10 and 50 GB/s; in the second window all takes twice as long."""
    int8 = [Layer(one.name, one.op, one.module, one.macs, "int8", one.moved_bytes // 4) for one in (HEAVY, WIDE)]
    small = Layer(SMALL.name, SMALL.op, SMALL.module, SMALL.macs, "fp32", SMALL.moved_bytes)
    amounts = {"convolutions, fp32": 1e9, "convolutions, bf16": 2e9, "convolutions, int8": 4e9}
    measured = {name: MeasuredPeak(int(amount), timing(10, 10, 20)) for name, amount in amounts.items()}
    measured["copy, memory"] = MeasuredPeak(100_000_000, timing(10, 10, 20))
    measured["copy, cache"] = MeasuredPeak(50_000_000, timing(1, 1, 2))
    kernels = (
        Kernel("k1", "Convolution", 8.0, (HEAVY.name, "/network/a/Relu")),
        Kernel("k2", "Convolution", 0.5, (WIDE.name, SMALL.name)),
        Kernel("k3", "Reorder", 0.25, ("", "/network/x")),
        Kernel("k4", "MaxPool", 0.5),
        Kernel("k5", "Reorder", 0.5),
    )
    values = {
        "size": (512, 512), "batch": 1, "threads": 2, "cache_bytes": 1_000_000, "peaks": measured,
        "layers": {"fp32": (HEAVY, WIDE, SMALL), "int8": (*int8, small)},
        "engines": {"openvino:fp32": timing(40, 40, 80), "torch:fp16": timing(9, 9),
                    "openvino:int8": timing(10, 10, 20)},
        "kernels": {"openvino:int8": kernels}, "left_out": {"tensorrt:int8": "no GPU"}, "estimates": (),
        "environment": {"processor": "a chip"},
    }  # fmt: skip
    return RooflineReport(**{**values, **changes})  # type: ignore[arg-type]


def test_roofs_are_amounts_by_median_times() -> None:
    machine = make_report().roofs
    assert machine.operations == pytest.approx({"fp32": 100e9, "bf16": 200e9, "int8": 400e9})
    assert (machine.memory, machine.cache, machine.cache_bytes) == pytest.approx((10e9, 50e9, 1_000_000))


def test_floor_is_the_sum_of_the_layers_at_the_measured_rates() -> None:
    report = make_report()
    assert report.floor_ms("fp32") == pytest.approx(20 + 0.2 + 0.02)
    # INT8: 2 G at 400 G/s; 2 M at 400 G/s against 0.5 MB in the cache; and the layer that stays in FP32.
    assert report.floor_ms("int8") == pytest.approx(5 + 0.01 + 0.02)
    assert report.floor_ms("bf16") == pytest.approx(10 + 0.02 + 0.01)
    assert report.memory_share("fp32") == pytest.approx(0.2 / 20.22)
    assert report.memory_share("int8") == pytest.approx(0.01 / 5.03)
    assert report.precisions == ("fp32", "bf16", "int8")
    assert make_report(layers={"fp32": (HEAVY,)}).precisions == ("fp32", "bf16")


def test_times_the_floor_ignores_a_slowdown_of_the_machine() -> None:
    report = make_report()
    ratio = report.times_the_floor("openvino:int8")
    assert ratio is not None
    assert (ratio.ratio, ratio.low, ratio.high) == pytest.approx((10 / 5.03,) * 3)
    assert report.times_the_floor("torch:fp16") is None  # the machine has no rate for FP16


def test_costs_assign_the_time_of_kernels_to_layers() -> None:
    heavy, wide, small = make_report().costs("openvino:int8")
    assert [one.bound.layer.name for one in (heavy, wide, small)] == [HEAVY.name, WIDE.name, SMALL.name]
    assert (heavy.milliseconds, heavy.beyond_ms) == pytest.approx((8, 3))
    assert heavy.operations_per_s == pytest.approx(250e9)
    # One kernel of 0.5 ms computes two layers with as many operations.
    assert (wide.milliseconds, small.milliseconds) == pytest.approx((0.25, 0.25))
    assert (wide.beyond_ms, small.beyond_ms) == pytest.approx((0.24, 0.23))
    assert make_report().other_ms("openvino:int8") == pytest.approx({"Reorder": 0.75, "MaxPool": 0.5})


def test_json_has_every_layer_with_its_bound() -> None:
    value = json.loads(json.dumps(make_report().to_json(), allow_nan=False))
    assert value["schema"] == "msal-deploy roofline 1"
    heavy, wide, _ = value["floors"]["fp32"]["layers"]
    assert (heavy["operations"], heavy["moved_bytes"], heavy["bound"]) == (2_000_000_000, 4_000_000, "compute")
    assert (wide["bound"], wide["operations_per_byte"]) == ("memory", pytest.approx(1))
    assert heavy["share_of_floor"] == pytest.approx(20 / 20.22)
    assert value["engines"]["openvino:int8"]["layers_ms"][HEAVY.name] == pytest.approx(8)
    assert value["engines"]["openvino:int8"]["times_the_floor"]["ratio"] == pytest.approx(10 / 5.03)
    assert value["engines"]["torch:fp16"]["times_the_floor"] is None
    assert value["roofs"]["memory_bytes_per_s"] == pytest.approx(10e9)
    assert value["left_out"] == {"tensorrt:int8": "no GPU"}
    assert value["environment"] == {"processor": "a chip"}


def test_tables_fit_a_terminal() -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(roofline_tables(make_report()))
    text = console.export_text()
    assert "…" not in text
    assert "1.99 (1.99–1.99)" in text  # openvino:int8, times its floor
    assert "+3.00" in text and "Unstable" in text
    assert "tensorrt:int8 was not measured: no GPU" in text


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("/network/encoder1/encoder1.0/conv1/Conv", "encoder1.0/conv1"),
        ("/network/head/head.0/head.0.0/Conv", "head.0.0"),
        ("/network/decoder1/refinement/first/first.0/Conv", "decoder1/refinement/first.0"),
        ("conv1/conv10/Conv", "conv1/conv10"),
    ],
)
def test_names_of_layers_are_shortened_without_loss(name: str, short: str) -> None:
    assert _short(Layer(name, "Conv", "", 1, "fp32", 1)) == short


# --- kernels ---------------------------------------------------------------------------------------------------------


def test_kernel_times_leave_out_the_first_call() -> None:
    def node(name: str, dur: int) -> dict[str, object]:
        return {"cat": "Node", "name": name, "dur": dur, "args": {"op_name": "Conv"}}

    run = {"cat": "Session", "name": "model_run", "dur": 1, "args": {}}
    events = [node("a_kernel_time", 9000), run, node("a_kernel_time", 1000), node("a_fence_before", 5), run]
    assert _kernel_times([*events, node("a_kernel_time", 2500), run]) == {("a", "Conv"): 3.5}


def test_kernel_of_a_fused_activation_is_found_by_the_tensor_it_writes() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["s"], "conv_1"),
        helper.make_node("Relu", ["s"], ["y_0"], "relu"),
        helper.make_node("Conv", ["y_0", "w"], ["z"], "conv_2"),
    ]
    names = LayerNames(helper.make_model(helper.make_graph(nodes, "g", [], [])))
    assert names.find("y_0_nchwc", "Conv") == ("conv_1",)
    assert names.find("conv_2_token_17", "QLinearConv") == ("conv_2",)
    assert names.find("y_0", "Relu") == names.find("other", "Conv") == ()


@pytest.mark.parametrize("engine_id", ["openvino:fp32", "openvino:int8", "onnxruntime:fp32", "onnxruntime:int8"])
def test_runtimes_report_a_kernel_for_every_layer(engine_id: str, tiny: Bundle) -> None:
    images = np.full((1, 64, 96, 3), 128, np.uint8)
    with open_engine(tiny, engine_id, threads=1) as engine:
        kernels = engine.kernels(images, runs=2)
    computed = {node for kernel in kernels for node in kernel.nodes}
    assert {"/network/encoder1/Conv", "/network/encoder2/Conv", "/network/head/Conv"} <= computed
    assert all(kernel.milliseconds >= 0 for kernel in kernels)


def test_runtime_without_a_profiler_reports_nothing(tiny: Bundle) -> None:
    engine = open_engine(tiny, "triton:http://localhost:9/msal-net")
    assert engine.kernels(np.zeros((1, 32, 32, 3), np.uint8), runs=1) == ()


# --- peaks -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_peaks")
@pytest.mark.parametrize(("precision", "computed"), [("int8", {"i8", "u8"}), ("fp32", {"f32"})])
def test_convolutions_compute_in_their_precision(precision: str, computed: set[str]) -> None:
    model = peaks.convolutions(precision)
    onnx.checker.check_model(model, full_check=True)
    compiled = CORE.compile_model(
        CORE.read_model(model.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    nodes = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    actual = [node["runtimePrecision"].astype(str) for node in nodes if node["layerType"].astype(str) == "Convolution"]
    assert len(actual) == peaks.CONVOLUTIONS and set(actual) <= computed
    weights = [tensor.dims for tensor in model.graph.initializer if len(tensor.dims) == 4]
    assert peaks.operations() == sum(2 * math.prod(shape) * peaks.SIDE**2 for shape in weights)


@pytest.mark.usefixtures("small_peaks")
def test_copies_count_every_byte_read_and_written(monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[int] = []
    monkeypatch.setattr(peaks.np, "copyto", lambda target, source: copied.append(target.nbytes + source.nbytes))
    with ExitStack() as stack:
        for peak in peaks.open_copies(stack, threads=2, cache_bytes=2**15).values():
            copied.clear()
            peak.call()
            assert sum(copied) == peak.amount >= peaks.MEMORY_BYTES
        assert len(copied) == 2 * 8  # two threads; 8 passes over a quarter of the cache make 64 KiB


@pytest.mark.usefixtures("small_peaks")
def test_cache_of_unknown_size_is_not_measured() -> None:
    with ExitStack() as stack:
        assert list(peaks.open_copies(stack, threads=1, cache_bytes=0)) == ["copy, memory"]
    measured = {"convolutions, fp32": (10**6, 1.0), "copy, memory": (10**6, 0.1)}
    assert peaks.roofs(measured, 0).bandwidth(1) == 10e9


def test_last_level_cache_is_the_largest_level(tmp_path: Path) -> None:
    assert peaks.last_level_cache(tmp_path) == 0
    for index, (level, size) in enumerate([("1", "32K"), ("3", "32768K"), ("2", "1024K"), ("4", "?")]):
        folder = tmp_path / f"sys/devices/system/cpu/cpu0/cache/index{index}"
        folder.mkdir(parents=True)
        (folder / "level").write_text(f"{level}\n")
        (folder / "size").write_text(f"{size}\n")
    assert peaks.last_level_cache(tmp_path) == 32 * 2**20


# --- the stage and the command ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_peaks")
def test_every_call_gets_the_next_images(tiny: Bundle) -> None:
    sets = [np.full((1, 32, 32, 3), value, np.uint8) for value in (1, 2, 3)]
    seen: list[int] = []
    call = roofline_run._calls(lambda images: seen.append(images[0, 0, 0, 0]), sets)  # type: ignore[arg-type]
    for _ in range(4):
        call()
    assert seen == [1, 2, 3, 1]


def run(*words: str | Path | float):
    return CliRunner().invoke(app, ["bench", *(str(word) for word in words)])


@pytest.mark.usefixtures("small_peaks")
def test_command_writes_json_and_plot(tiny: Bundle, tmp_path: Path) -> None:
    options = ("--roofline", "--size", 64, "--threads", 1, "--seconds", 0.001, "--windows", 2, "--rounds", 1)
    engines = ("-e", "openvino:int8", "-e", "onnxruntime:fp32", "-e", "triton:http://localhost:9/msal-net")
    result = run(tiny.path, *options, *engines, "--json", tmp_path / "r.json", "--plot", tmp_path / "r.png")
    assert result.exit_code == 0, result.output
    value = json.loads((tmp_path / "r.json").read_text())
    assert set(value["engines"]) == {"openvino:int8", "onnxruntime:fp32"}
    assert "server" in value["left_out"]["triton:http://localhost:9/msal-net"]
    assert set(value["engines"]["onnxruntime:fp32"]["layers_ms"]) == {
        layer["name"] for layer in value["floors"]["fp32"]["layers"]
    }
    assert {one["label"].partition(" ")[0] for one in value["estimates"]} == {"Estimate"}
    assert (value["threads"], value["size"]) == (1, [64, 64])
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
    assert "Layers that cost most beyond their floor" in result.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--roofline", "--tune"), "--tune cannot be combined with --roofline"),
        (("--roofline", "--batch", 1, "--batch", 4), "takes one --batch, got 1, 4"),
        (("--roofline", "--plot", "x.gif"), "x.gif is not a supported image file"),
        (("--plot", "x.png"), "--plot needs --in-flight"),
        (("--roofline", "--size", "500"), "480 or 512"),
        (("--roofline", "-e", "openvinx:int8"), "did you mean 'openvino'"),
        (("--roofline", "-e", "triton:http://localhost:9/msal-net"), "None of the engines can be measured"),
    ],
)
def test_command_refuses_bad_options(words: tuple[object, ...], message: str, tiny: Bundle) -> None:
    result = run(tiny.path, *words)  # type: ignore[arg-type]
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split())


def test_bundle_without_the_fp32_graph_is_refused(tiny: Bundle, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny.path, tmp_path / "bundle"))
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["artifacts"]["model.fp32.onnx"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BadInput, match=r"model\.fp32\.onnx"):
        measure_roofline(Bundle(folder), ["openvino:int8"])
