"""engines/pycuda/segment.py, run as a program against PyCUDA and TensorRT 8.6 that exist only in name.

Its real run needs a GPU; nothing here has seen one.
"""

import hashlib
import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from fake_cuda import FakeGpu, Work
from fake_cuda_packages import FakePyCudaDriver
from fake_tensorrt import checked, fake_tensorrt
from fake_tensorrt_parts import darkness
from PIL import Image

PROGRAM = Path(__file__).parents[1] / "engines" / "pycuda" / "segment.py"
SHAPES = {"minimum": [1, 32, 32], "optimum": [3, 64, 96], "maximum": [4, 128, 128]}


class Machine:
    """A GTX 1080 Ti with TensorRT 8.6.1 and PyCUDA, and a plan."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.patch = folder, monkeypatch
        self.gpu, self.trt = FakeGpu(), fake_tensorrt("8.6.1", sm="6.1")
        self.driver = FakePyCudaDriver(self.gpu)
        self.compute_on_gpu()
        package = ModuleType("pycuda")
        package.__path__ = []  # a package without files: `import pycuda.autoinit` asks sys.modules alone
        package.driver = self.driver
        for name, module in {"pycuda": package, "pycuda.driver": self.driver, "tensorrt": self.trt}.items():
            monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.delitem(sys.modules, "pycuda.autoinit", raising=False)
        monkeypatch.setattr(sys, "meta_path", [self, *sys.meta_path])
        self.plan = folder / "model.int8.sm61.tensorrt.plan"
        self.plan.write_bytes(self.build())
        self.describe()

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        """Importing `pycuda.autoinit` makes a context for this thread, or fails where there is no GPU."""
        if name == "pycuda.autoinit":
            self.driver.init()
            self.driver.Device(0).retain_primary_context().push()
            self.patch.setitem(sys.modules, name, ModuleType(name))
            return importable(name)
        return None

    def build(self) -> bytes:
        graph = self.folder / "model.onnx"
        onnx.save(onnx.parser.parse_model(GRAPH), graph)
        logger = self.trt.Logger()
        builder = self.trt.Builder(logger)
        network = builder.create_network(1 << int(self.trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH))
        assert self.trt.OnnxParser(network, logger).parse_from_file(str(graph))
        config, profile = builder.create_builder_config(), builder.create_optimization_profile()
        profile.set_shape("image", *((*shape, 3) for shape in SHAPES.values()))
        config.add_optimization_profile(profile)
        return bytes(builder.build_serialized_network(network, config))

    def describe(self, **changes: Any) -> None:
        digest = hashlib.sha256(self.plan.read_bytes()).hexdigest()
        sidecar = {"backend_version": "8.6.1", "sm": ["6.1"], "plan_sha256": digest, "profile": SHAPES} | changes
        (self.folder / f"{self.plan.name}.json").write_text(json.dumps(sidecar), encoding="utf-8")

    def compute_on_gpu(self) -> None:
        gpu = self.gpu

        def execute_async_v3(context: Any, stream_handle: int) -> bool:
            shape, addresses = context._shape, context._addresses
            size = int(np.prod(shape))

            def run() -> None:
                images = gpu.on_device(addresses["image"], size).reshape(shape)
                target = gpu.on_device(addresses["probability"], size // 3 * 4)
                target.view(np.float32)[:] = darkness(images).ravel()

            gpu.queue(stream_handle, Work("compute", run), size)
            return True

        self.trt.IExecutionContext.execute_async_v3 = checked("enqueue", execute_async_v3, ["stream_handle"])

    def run(self, *arguments: object) -> None:
        self.patch.setattr(sys, "argv", [str(PROGRAM), *map(str, arguments)])
        runpy.run_path(str(PROGRAM), run_name="__main__")


GRAPH = """
    <ir_version: 8, opset_import: ["": 17]>
    small (uint8[N,H,W,3] image) => (float[N,1,H,W] probability) <float[1,3,1,1] weight = {1, 1, 1}> {
        pixels = Cast<to = 1>(image)
        planes = Transpose<perm = [0, 3, 1, 2]>(pixels)
        sums = Conv(planes, weight)
        probability = Sigmoid(sums)
    }
"""


def importable(name: str) -> Any:
    """Return what an import needs to find the module that is in `sys.modules` already."""
    from importlib.machinery import ModuleSpec

    class Loader:
        def create_module(self, spec: ModuleSpec) -> None:
            return None

        def exec_module(self, module: ModuleType) -> None: ...

    return ModuleSpec(name, Loader())


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


@pytest.fixture
def picture(tmp_path: Path) -> Callable[..., Path]:
    def make(height: int, width: int) -> Path:
        path = tmp_path / f"{height}x{width}.png"
        generator = np.random.default_rng(height)
        Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
        return path

    return make


@pytest.mark.parametrize(
    ("height", "width"), [(64, 96), (48, 72), (49, 73), (200, 300), (1, 1), (5, 400), (96, 288), (1000, 1000)]
)
def test_mask_of_an_image_of_any_size(machine, picture, tmp_path, capsys, height, width):
    image = picture(height, width)
    machine.run(machine.plan, image, tmp_path / "mask.png")
    mask = np.asarray(Image.open(tmp_path / "mask.png"))
    expected = darkness(np.asarray(Image.open(image))[None])[0, 0] >= 0.5
    assert mask.dtype == np.uint8 and np.array_equal(mask, expected * 255)
    assert f"{expected.mean():.1%} of the pixels belong to nuclei" in capsys.readouterr().out


def test_threshold_and_grey_images(machine, tmp_path):
    path = tmp_path / "grey.png"
    Image.fromarray(np.tile(np.arange(100, dtype=np.uint8), (80, 1))).save(path)
    machine.run(machine.plan, path, tmp_path / "mask.png", "--threshold", "0.8")
    mask = np.asarray(Image.open(tmp_path / "mask.png"))
    assert np.array_equal(mask[0] > 0, np.float32(1) - np.arange(100, dtype=np.float32) / 255 >= 0.8)


def test_memory_is_taken_once_and_given_back(machine, picture, tmp_path):
    machine.run(machine.plan, picture(300, 300), tmp_path / "mask.png")
    assert machine.gpu.calls["allocate"] == machine.gpu.calls["pin"] == 2
    assert machine.gpu.calls["upload"] > 3


def refused(machine: Machine, *arguments: object) -> str:
    with pytest.raises(SystemExit) as caught:
        machine.run(*arguments)
    assert isinstance(caught.value.code, str), "sys.exit prints a sentence and exits with 1"
    assert "\n" not in caught.value.code
    return caught.value.code


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"backend_version": "8.5.3.1"}, "was built by tensorrt 8.5.3.1, not 8.6.1"),
        ({"sm": ["7.5", "8.6"]}, "was built for compute capability 7.5, 8.6, not 6.1"),
        (
            {"plan_sha256": "0" * 64},
            "has changed since it was built (SHA-256 differs); copy it and model.int8.sm61.tensorrt.plan.json again",
        ),
    ],
)
def test_plan_for_something_else_is_refused(machine, picture, tmp_path, changes, sentence):
    machine.describe(**changes)
    assert sentence in refused(machine, machine.plan, picture(64, 64), tmp_path / "mask.png")
    assert not (tmp_path / "mask.png").exists()


def test_truncated_plan_is_refused(machine, picture, tmp_path):
    machine.plan.write_bytes(machine.plan.read_bytes()[:-1])
    assert "SHA-256 differs" in refused(machine, machine.plan, picture(64, 64), tmp_path / "mask.png")


@pytest.mark.parametrize("content", [None, "", "{}", "[]", "no JSON"])
def test_sidecar_that_cannot_be_read_is_refused(machine, picture, tmp_path, content):
    sidecar = tmp_path / f"{machine.plan.name}.json"
    sidecar.unlink() if content is None else sidecar.write_text(content)
    assert "plan.json is not readable (" in refused(machine, machine.plan, picture(64, 64), tmp_path / "mask.png")


def test_plan_that_tensorrt_does_not_load_is_told(machine, picture, tmp_path):
    machine.trt.world.sm = "7.5"
    assert "TensorRT cannot load" in refused(machine, machine.plan, picture(64, 64), tmp_path / "mask.png")


def test_what_is_no_image_is_refused(machine, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    for image in ("text.png", "missing.png"):
        assert "is not a readable image (" in refused(machine, machine.plan, tmp_path / image, tmp_path / "mask.png")


def test_mask_that_cannot_be_written_is_told(machine, picture, tmp_path):
    assert "is not writable (" in refused(machine, machine.plan, picture(64, 64), tmp_path / "no folder" / "mask.png")


def test_machine_without_a_gpu_is_told(machine, picture, tmp_path):
    machine.gpu.fails["device"] = "cudaErrorNoDevice"
    assert "CUDA found no GPU (" in refused(machine, machine.plan, picture(64, 64), tmp_path / "mask.png")


def test_program_is_short_and_needs_nothing_of_msal_deploy():
    code = PROGRAM.read_text(encoding="utf-8")
    assert len(code.splitlines()) < 150
    imports = {line.split()[1].partition(".")[0] for line in code.splitlines() if line.startswith(("import ", "from "))}
    assert imports - set(sys.stdlib_module_names) == {"numpy", "PIL", "pycuda", "tensorrt"}
