"""The C++ library: built outside of the checkout, compared with Python, and given all kinds of bad input."""

import re
import shlex
import shutil
import struct
import tomllib
import zlib
from pathlib import Path

import msgspec
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from tiny_bundle import put_graph, write_tiny_bundle

from msal_deploy.bundle import Bundle, artifact, write_manifest
from msal_deploy.errors import BadInput
from msal_deploy.files import sha256
from msal_deploy.instances import separate
from msal_deploy.package import PackageOptions, cpp, write_package
from msal_deploy.runtimes import open_engine
from msal_deploy.runtimes.tiling import segment
from msal_deploy.trt.plan_checks import find_plan, preflight
from msal_deploy.trt.plan_metadata import (
    ActualPrecision,
    BuildOptions,
    PlanMetadata,
    Profile,
    Share,
    metadata_path,
    plan_name,
    write_metadata,
)

ROOT = Path(__file__).parents[2]
SKIPPED = 77


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


# A new user


def test_the_commands_of_the_readme_find_the_nuclei_of_a_png(built):
    found, golden = read(built / "mask.png"), read(built / "golden" / "mask-0.fp32.png")
    assert found.shape == golden.shape and set(np.unique(found)) == {0, 255}
    assert np.mean(found != golden) <= 1e-4


def test_the_commands_of_the_embedding_page_embed_it(built, follow):
    said = follow("EMBEDDING.md")
    share = 100 * np.mean(read(built / "golden" / "mask-0.fp32.png") > 0)
    assert float(re.search(r"^openvino:fp32: (.*) % nuclei$", said, re.MULTILINE)[1]) == pytest.approx(share, abs=0.02)
    assert "passed: " in said  # check_golden.py


def test_the_embedding_page_shows_the_program_that_is_built(built):
    page = (built / "EMBEDDING.md").read_text()
    example = "".join((built / "examples" / "embed" / name).read_text() for name in ("CMakeLists.txt", "main.cpp"))
    shown = re.findall(r"```(?:cmake|cpp)\n(.*?)```", page, re.DOTALL)
    assert len(shown) == 2
    squeezed = " ".join(example.split())
    assert all(" ".join(part.split()) in squeezed for part in shown)


@pytest.mark.parametrize("page", ["docs/use-from-cpp.md", "engines/cpp/README.md"])
def test_the_pages_show_the_view_of_an_opencv_image_that_is_tested(page):
    (line,) = re.findall(r"`(ImageView view\(mat.*?\))`", (ROOT / page).read_text())
    assert f"{line};" in (ROOT / "engines" / "cpp" / "tests" / "any_size.cpp").read_text()
    header = (ROOT / "engines" / "cpp" / "include" / "msal_deploy" / "image.hpp").read_text()
    assert f"{line};" in header.replace("msal_deploy::", "")


def test_a_library_of_another_version_is_not_found(built, run, tmp_path):
    run("cmake", "--install", "build", "--prefix", tmp_path, cwd=str(built))
    shutil.copytree(built / "examples" / "embed", tmp_path / "embed")
    lists = tmp_path / "embed" / "CMakeLists.txt"
    lists.write_text(lists.read_text().replace("msal_deploy 0.1 ", "msal_deploy 0.2 "))
    done = run("cmake", "-S", tmp_path / "embed", "-B", tmp_path / "b", f"-DCMAKE_PREFIX_PATH={tmp_path}", check=False)
    assert done.returncode and "version: 0.1.0" in done.stderr


# The same numbers as Python


@pytest.mark.parametrize("streams", [1, 2])
def test_fp32_is_what_python_computes(built, bundle, run, tmp_path, streams):
    images = np.load(built / "golden" / "image.npy")
    with open_engine(bundle, "openvino:fp32") as engine:
        expected = engine(images)
    tiles = sorted((built / "golden").glob("image-*.png"))
    result = tmp_path / "p.raw"
    run(
        *(built / "build" / "msal-segment", built / "model", *tiles),
        *("--probability", result, "--batch", len(tiles), "--streams", streams),
    )
    found = np.fromfile(result, np.float32).reshape(expected.shape)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_int8_is_bit_for_bit_what_python_computes(built, int8_bundle, run, tmp_path):
    image = np.load(built / "golden" / "image.npy")[:1]
    with open_engine(int8_bundle, "openvino:int8") as engine:
        expected = engine(image)
    tile = built / "golden" / "image-0.png"
    run(
        *(built / "build" / "msal-segment", int8_bundle.path, tile, "--precision", "int8"),
        *("--probability", tmp_path / "p.raw"),
    )
    np.testing.assert_array_equal(np.fromfile(tmp_path / "p.raw", np.float32), expected.ravel())


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Bundle:
    """A graph of one convolution, fast enough for large images. Each result depends on 9 × 9 pixels."""
    weights = np.random.default_rng(0).normal(0, 0.001, (1, 3, 9, 9)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["image"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["cast"], ["x"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["x", "weights"], ["y"], kernel_shape=[9, 9], pads=[4] * 4),
        helper.make_node("Sigmoid", ["y"], ["probability"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", "h", "w", 3])
    probability = helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["n", 1, "h", "w"])
    stored = [numpy_helper.from_array(weights, "weights")]
    graph = helper.make_graph(nodes, "one convolution", [image], [probability], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return put_graph(write_tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle"), "model.fp32.onnx", model)


SIZES = ((16, 50), (17, 33), (33, 700), (512, 512), (600, 1100), (1000, 1000))  # smaller ones: test_cpp_c_api.py
TILES = {
    "the defaults": ({}, SIZES),
    "odd overlap": ({"tile": 96, "overlap": 33}, SIZES[:3]),
    "no overlap": ({"tile": 64, "overlap": 0}, SIZES[:3]),
    "nearly all": ({"tile": 32, "overlap": 30}, [(70, 41), (33, 80)]),
}


def compare_with_python(built, run, folder, bundle, precision, sizes, **tiling):
    """Check that msal-segment and Python return the same bits for images of these sizes."""
    random = np.random.default_rng(1)
    images = [random.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    files = [folder / f"{index}.png" for index in range(len(images))]
    for file, image in zip(files, images, strict=True):
        Image.fromarray(image).save(file)
    with open_engine(bundle, f"openvino:{precision}") as engine:
        expected = np.concatenate([segment(engine, image, **tiling).ravel() for image in images])
    options = [word for name, value in tiling.items() for word in (f"--{name}", value)]
    words = ("--precision", precision, "--probability", folder / "p.raw", *options)
    run(built / "build" / "msal-segment", bundle.path, *files, *words)
    assert len(np.unique(expected)) > 5000  # where all are equal, so are their means
    np.testing.assert_array_equal(np.fromfile(folder / "p.raw", np.float32), expected)


@pytest.mark.parametrize("case", TILES)
def test_an_image_of_any_size_is_bit_for_bit_what_python_computes(built, run, tmp_path, tiny, case):
    tiling, sizes = TILES[case]
    compare_with_python(built, run, tmp_path, tiny, "fp32", sizes, **tiling)


def test_tiles_in_int8_are_bit_for_bit_what_python_computes(built, run, tmp_path, int8_bundle):
    compare_with_python(built, run, tmp_path, int8_bundle, "int8", [(150, 201)], tile=96, overlap=32)


def test_streams_compute_the_tiles_of_an_image_in_parallel(built, run, tmp_path, tiny):
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (150, 200, 3), np.uint8)).save(tmp_path / "i.png")
    for streams in (1, 2):
        words = (
            "--precision",
            "fp32",
            "--tile",
            64,
            "--streams",
            streams,
            "--probability",
            tmp_path / f"{streams}.raw",
        )
        run(built / "build" / "msal-segment", tiny.path, tmp_path / "i.png", *words, "--overlap", 16)
    one, two = (np.fromfile(tmp_path / f"{streams}.raw", np.float32) for streams in (1, 2))
    np.testing.assert_allclose(one, two, rtol=0, atol=1e-6)


def test_the_mask_has_the_size_of_the_image(built, bundle, run, tmp_path):
    image = read(built / "golden" / "image-0.png")[:70, :41]
    Image.fromarray(image).save(tmp_path / "odd.png")
    run(
        *(built / "build" / "msal-segment", built / "model", tmp_path / "odd.png"),
        *("--mask", tmp_path / "m.png", "--probability", tmp_path / "p.raw"),
    )
    found = np.fromfile(tmp_path / "p.raw", np.float32).reshape(70, 41)
    np.testing.assert_array_equal(read(tmp_path / "m.png") == 255, found >= bundle.spec.threshold)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_labels_are_those_of_python(built, bundle, run, tmp_path, suffix):
    words = ("--labels", tmp_path / f"l.{suffix}", "--probability", tmp_path / "p.raw")
    done = run(built / "build" / "msal-segment", built / "model", built / "golden" / "image-0.png", *words)
    probability = np.fromfile(tmp_path / "p.raw", np.float32).reshape(256, 256)
    spec = bundle.spec
    expected = separate(probability, threshold=spec.threshold, microns_per_pixel=spec.microns_per_pixel)
    assert expected.max() >= 2
    np.testing.assert_array_equal(read(tmp_path / f"l.{suffix}"), expected)
    assert done.stdout == f"{tmp_path / f'l.{suffix}'}: 256 × 256 px, {expected.max()} nuclei\n"


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1"])
def test_every_kind_of_png_is_read_as_rgb(built, run, tmp_path, mode):
    colour = Image.open(built / "golden" / "image-0.png").crop((0, 0, 64, 64))
    colour.convert(mode).save(tmp_path / "kind.png")
    colour.convert(mode).convert("RGB").save(tmp_path / "rgb.png")
    masks = tmp_path / "masks"
    run(
        built / "build" / "msal-segment", built / "model", tmp_path / "kind.png", tmp_path / "rgb.png", "--masks", masks
    )
    np.testing.assert_array_equal(read(masks / "kind.png"), read(masks / "rgb.png"))


def test_a_batch_of_images_gives_what_they_give_alone(built, run, tmp_path):
    tiles = sorted((built / "golden").glob("image-*.png"))
    for batch in (1, 2):
        result = tmp_path / f"{batch}.raw"
        run(built / "build" / "msal-segment", built / "model", *tiles, "--probability", result, "--batch", batch)
    one, two = (np.fromfile(tmp_path / f"{batch}.raw", np.float32) for batch in (1, 2))
    np.testing.assert_allclose(one, two, rtol=0, atol=1e-6)


def test_bench_says_how_long_a_call_takes(built, run):
    tile = built / "golden" / "image-0.png"
    done = run(built / "build" / "msal-segment", built / "model", tile, "--bench", 3, "--threads", 1)
    line = r"openvino:fp32, 1 × 256 × 256 px, 3 calls, ms: p50 (\S+)  p90 (\S+)  p99 (\S+)  mean \S+  min (\S+)\n"
    p50, p90, p99, fastest = map(float, re.fullmatch(line, done.stdout).groups())
    assert 0 < fastest <= p50 <= p90 <= p99


# What is built


def test_under_the_sanitizers_tiles_threads_and_bad_input_pass(sanitized, run):
    done = run("ctest", "--test-dir", sanitized, "--output-on-failure", check=False)
    assert done.returncode == 0, done.stdout
    for name in ("golden.openvino.fp32", "bad_input", "options", "threads", "any_size", "shapes"):
        assert re.search(rf"{re.escape(name)} \.+ +Passed", done.stdout), done.stdout


def test_the_sanitizers_are_there(sanitized, run):
    program = sanitized / "tests" / "golden"
    assert "AddressSanitizer" in run("env", "ASAN_OPTIONS=help=1", program, check=False).stderr


def test_the_program_in_c_passes_under_the_sanitizers(sanitized, package, run, tmp_path):
    words = ("gcc", "-std=c99", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    folders = (f"-I{package / 'include'}", f"-L{sanitized}", f"-Wl,-rpath,{sanitized}")
    program, result = tmp_path / "segment_in_c", tmp_path / "p.raw"
    run(*words, *folders, package / "examples" / "c" / "main.c", "-lmsal_deploy", "-o", program)
    words = (program, package / "model", "fp32", package / "golden" / "image-0.rgb", 256, 256, result)
    environment = {"TBB_ENABLE_SANITIZERS": "1", "LSAN_OPTIONS": "suppressions=lsan.supp"}
    run(*words, cwd=str(sanitized / "tests"), **environment)
    assert len(np.unique(np.fromfile(result, np.float32))) > 1000


@pytest.mark.parametrize("backend", ["tensorrt", "onnxruntime"])
def test_other_backends_where_they_are_built(built, run, backend):
    done = run(built / "build/tests/golden", built / "model", built / "golden", backend, "fp32", check=False)
    if done.returncode == SKIPPED:
        assert re.match(r"\w+: not built: needs (NvInfer|onnxruntime_cxx_api)\.h\n|skipped: ", done.stdout)
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_backend_that_is_asked_for_and_not_there_stops_cmake(package, run, tmp_path):
    words = ("-DMSAL_DEPLOY_TENSORRT=ON", "-DCMAKE_DISABLE_FIND_PACKAGE_CUDAToolkit=ON")
    done = run("cmake", "-S", package, "-B", tmp_path / "b", *words, check=False)
    said = " ".join(done.stderr.split())
    assert done.returncode and "tensorrt was not found although MSAL_DEPLOY_TENSORRT is ON; it needs" in said


NO_PROGRAM_PACKAGES = [f"-DCMAKE_DISABLE_FIND_PACKAGE_{name}=ON" for name in ("CLI11", "PNG", "JPEG", "TIFF")]


def test_the_library_alone_needs_none_of_the_packages_of_the_program(package, run, tmp_path):
    run("cmake", "-S", package, "-B", tmp_path / "b", "-DMSAL_DEPLOY_TOOLS=OFF", *NO_PROGRAM_PACKAGES)


@pytest.mark.parametrize("missing", NO_PROGRAM_PACKAGES)
def test_without_the_packages_of_the_program_cmake_says_what_to_install(package, run, tmp_path, missing):
    done = run("cmake", "-S", package, "-B", tmp_path / "b", missing, check=False)
    assert done.returncode and "apt install libcli11-dev libpng-dev libjpeg-dev libtiff-dev" in " ".join(
        done.stderr.split()
    )


def test_without_any_runtime_cmake_says_what_to_install(package, run, tmp_path):
    words = [f"-DMSAL_DEPLOY_{backend}=OFF" for backend in ("OPENVINO", "ONNXRUNTIME", "TENSORRT")]
    done = run("cmake", "-S", package, "-B", tmp_path / "b", *words, check=False)
    assert done.returncode and "python3 -m pip install openvino" in " ".join(done.stderr.split())


# Plans: the same messages as in Python, word for word


PROFILE = Profile((1, 256, 256), (4, 512, 512), (8, 1024, 768))
MACHINE = ("1.7.1.116", "8.6")
SHAPE = (4, 512, 512)


def write(bundle: Bundle, backend: str = "tensorrt-rtx", **changes: object) -> Path:
    """Write a plan of twenty bytes and its sidecar."""
    file = bundle.path / plan_name("fp32", backend, ("8.6",))
    file.write_bytes(b"a plan of some bytes")
    entry = bundle.manifest.artifacts["model.fp32.onnx"]
    plan = PlanMetadata(
        backend=backend,
        backend_version="1.7.1.116" if backend == "tensorrt-rtx" else "10.13.3.9",
        gpu="rtx-3090",
        sm=("8.6",),
        graph="model.fp32.onnx",
        graph_sha256=entry.sha256,
        requested="fp32",
        actual=ActualPrecision("inspector", {"fp32": Share(3, 1.0, 1.0)}, 2),
        profile=PROFILE,
        plan_sha256=sha256(file),
        bytes=file.stat().st_size,
        options=BuildOptions(),
        built="2025-01-01T00:00:00+00:00",
    )
    write_metadata(file, msgspec.structs.replace(plan, **changes))
    return file


@pytest.fixture
def my_bundle(bundle, tmp_path) -> Bundle:
    """A bundle in a folder whose name needs quotes in a shell. It has no graph, because these tests read none."""
    folder = tmp_path / "my bundle's"
    folder.mkdir()
    shutil.copyfile(bundle.path / "manifest.json", folder / "manifest.json")
    return Bundle(folder)


def verdicts(built, run, bundle, machine=MACHINE, shape=SHAPE) -> tuple[str, str]:
    """Return the result of the plan checks in Python and in C++."""
    version, sm = machine
    try:
        file = find_plan(bundle, "fp32", "tensorrt-rtx", sm)
        preflight(file, bundle, backend_version=version, sm=sm, shape=shape)
        python = "usable"
    except BadInput as error:
        python = str(error)
    probe = built / "build" / "tests" / "plan_probe"
    done = run(probe, bundle.path, "fp32", "tensorrt-rtx", version, sm, *shape, check=False)
    assert done.returncode == (0 if python == "usable" else 2)
    return python, done.stdout.strip()


CASES = {
    "good": ({}, {}, "usable"),
    "another graph": ({"graph_sha256": "0" * 64}, {}, "was built from a different model.fp32.onnx"),
    "no such graph": ({"graph": "model.fp8.onnx"}, {}, "was built from model.fp8.onnx, which is not in "),
    "changed": ({"plan_sha256": "0" * 64}, {}, "has changed since it was built (SHA-256 differs); rebuild it with: "),
    "truncated": ({"bytes": 12345678}, {}, "is truncated (20 bytes, expected 12,345,678); rebuild it with: "),
    "longer": ({"bytes": 2}, {}, "is larger than when it was built (20 bytes, expected 2); rebuild it with: "),
    "another version": ({}, {"machine": ("1.7.2", "8.6")}, "was built by tensorrt-rtx 1.7.1.116, not 1.7.2"),
    "another build": ({}, {"machine": ("1.7.1.9", "8.6")}, "usable"),
    "a later version that may load it": (
        {"options": BuildOptions(version_compatible=True)},
        {"machine": ("1.8.0", "8.6")},
        "usable",
    ),
    "an earlier one that may not": (
        {"options": BuildOptions(version_compatible=True, workspace_mib=512, tf32=True)},
        {"machine": ("1.6.9", "8.6")},
        "--workspace 512 --version-compatible --tf32",
    ),
    "another major version": (
        {"options": BuildOptions(version_compatible=True)},
        {"machine": ("2.0.0", "8.6")},
        ", not 2.0.0; rebuild it with: ",
    ),
    "another GPU": ({"sm": ("8.9", "12.0")}, {}, "was built for compute capability 8.9, 12.0, not 8.6"),
    "a GPU that may load it": ({"sm": ("8.0",), "options": BuildOptions(hardware_compatible=True)}, {}, "usable"),
    "one for several GPUs": (
        {"options": BuildOptions(hardware_compatible=True)},
        {"machine": ("1.7.1", "8.9")},
        "usable",
    ),
    "another precision under its name": (
        {"requested": "int8"},
        {},
        "was built in int8 by tensorrt-rtx, not what its name says",
    ),
    "no plan for the GPU": (
        {},
        {"machine": ("1.7.1", "6.1")},
        "(found: model.fp32.sm86.tensorrt-rtx.plan); build one with: ",
    ),
    "a batch too large": ({}, {"shape": (9, 512, 512)}, "--batch 1:4:9"),
    "a side too small": ({}, {"shape": (1, 512, 128)}, "--size 256x128:512:1024x768"),
    "the GPU that was there": ({"gpu": None, "sm": ("7.5",)}, {}, "--backend tensorrt-rtx"),
    "one shape": (
        {"profile": Profile(SHAPE, SHAPE, SHAPE)},
        {"shape": (1, 256, 256)},
        "accepts 4 × 512 × 512 px, not 1 × 256 × 256 px",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_sidecar_is_judged_as_python_judges_it(built, run, my_bundle, case):
    changes, here, part = CASES[case]
    write(my_bundle, **changes)
    python, cxx = verdicts(built, run, my_bundle, **here)
    assert cxx == python
    assert part in cxx


@pytest.mark.parametrize(
    ("written", "part"),
    [
        (None, "has no metadata (model.fp32.sm86.tensorrt-rtx.plan.json is missing)"),
        ("{", "is not valid plan metadata"),
        ("[]", "is not valid plan metadata"),
        ('{"format_version": 1}', "is not valid plan metadata"),
    ],
)
def test_a_sidecar_that_cannot_be_read(built, run, my_bundle, written, part):
    file = metadata_path(write(my_bundle))
    file.unlink() if written is None else file.write_text(written)
    python, cxx = verdicts(built, run, my_bundle)
    assert part in python
    assert part in cxx


def test_a_sidecar_of_another_format(built, run, my_bundle):
    file = metadata_path(write(my_bundle))
    file.write_text(file.read_text().replace('"format_version": 1', '"format_version": 2'))
    python, cxx = verdicts(built, run, my_bundle)
    assert cxx == python and "Expected format version 1 in" in cxx and ", got 2; rebuild the plan with: " in cxx


def test_a_sidecar_whose_optimum_is_no_image_at_all(built, run, my_bundle):
    write(my_bundle, profile=Profile((0, 0, 0), (0, 0, 0), (9, 9, 9)))
    probe = built / "build" / "tests" / "plan_probe"
    done = run(probe, my_bundle.path, "fp32", "tensorrt-rtx", *MACHINE, *SHAPE, check=False)
    assert done.returncode == 2 and "(/profile/optimum/0) number must be positive, but is 0" in done.stdout


# The TensorRT backend on a fake GPU, under the sanitizers


@pytest.fixture
def on_fake_gpu(sanitized, run, my_bundle, tmp_path):
    """Run msal-segment on a batch of 64 × 64 px images; return the process, the images and the computed shapes."""
    write(my_bundle, "tensorrt", profile=Profile((2, 64, 64), (4, 64, 64), (8, 256, 256)))

    def on_fake_gpu(number: int, fails: str = ""):
        images = np.random.default_rng(number).integers(0, 256, (number, 64, 64, 3), np.uint8)
        files = [tmp_path / f"{index}.png" for index in range(number)]
        for file, image in zip(files, images, strict=True):
            Image.fromarray(image).save(file)
        words = ("--precision", "fp32", "--backend", "tensorrt", "--batch", number, "--probability", tmp_path / "p.raw")
        environment = {"FAKE": fails, "FAKE_LOG": str(tmp_path / "log")}
        done = run(sanitized / "msal-segment", my_bundle.path, *files, *words, check=False, **environment)
        log = tmp_path / "log"
        return done, images, log.read_text().splitlines() if log.exists() else []

    return on_fake_gpu


@pytest.mark.parametrize(("number", "chunks"), [(2, [2]), (4, [4]), (5, [4, 2]), (7, [4, 3]), (9, [4, 4, 2])])
def test_tensorrt_computes_a_batch_in_chunks_of_the_optimum(on_fake_gpu, tmp_path, number, chunks):
    done, images, shapes = on_fake_gpu(number)
    assert done.returncode == 0, done.stderr
    assert shapes == [f"{chunk} 64 64" for chunk in chunks]
    found = np.fromfile(tmp_path / "p.raw", np.float32).reshape(number, 64, 64)
    red, green, blue = np.moveaxis(images.astype(np.uint32), -1, 0)
    expected = (0x3E000000 | red << 16 | green << 8 | blue).view(np.float32)  # see fake_nvinfer.cpp
    np.testing.assert_array_equal(found, expected)


FAILS = {
    "no-gpu": "CUDA found no GPU (no CUDA-capable device is detected); find the cause with: msal-deploy doctor",
    "deserialise": "tensorrt 10.13.3 cannot load",
    "context": "The GPU does not have enough memory for",
    "malloc": "CUDA could not allocate memory on the GPU",
    "shape": "TensorRT could not run the plan (Profile kMIN is not satisfied)",
    "enqueue": "TensorRT could not run the plan (an internal error of a kernel)",
    "download": "CUDA could not copy from the GPU",
}


@pytest.mark.parametrize("what", FAILS)
def test_tensorrt_and_cuda_errors_are_reported_in_one_line(on_fake_gpu, tmp_path, what):
    done, _, _ = on_fake_gpu(4, what)
    assert done.returncode == 3, done.stderr
    assert FAILS[what] in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "p.raw").exists()


def test_a_plan_of_other_tensors_or_shapes_is_bad_input(on_fake_gpu):
    done, _, _ = on_fake_gpu(4, "half-image")
    assert done.returncode == 2 and "does not have the tensor 'image' of the manifest" in done.stderr
    done, _, _ = on_fake_gpu(1)
    assert done.returncode == 2 and ", not 1 × 64 × 64 px; rebuild it with: msal-deploy build-trt" in done.stderr


def test_threads_share_a_plan(sanitized, package, run, my_bundle):
    write(my_bundle, "tensorrt", profile=Profile((1, 64, 64), (4, 64, 96), (4, 64, 96)))
    run(sanitized / "tests" / "threads", my_bundle.path, package / "golden", "fp32", "tensorrt")


# msal-segment: exit code and message


BAD = {
    "nothing": ("", 2, "MODEL is required; see msal-segment --help"),
    "no image": ("model", 2, "IMAGE is required; see msal-segment --help"),
    "nothing to write": ("model golden/image-0.png", 2, "No output was requested; add --mask"),
    "an unknown option": ("model golden/image-0.png --masq x", 2, "not expected: --masq; see msal-segment --help"),
    "no value": ("model golden/image-0.png --mask", 2, "--mask: 1 required FILE missing; see msal-segment --help"),
    "no number": ("model golden/image-0.png --bench ten", 2, "--bench: Value ten not in range"),
    "threads": ("model golden/image-0.png --mask m.png --threads 0", 2, "--threads: Value 0 not in range"),
    "threshold": ("model golden/image-0.png --mask m.png --threshold 1.5", 2, "--threshold: Value 1.5 not in range"),
    "no threshold": ("model golden/image-0.png --mask m.png --threshold nan", 2, "--threshold: Value nan not in range"),
    "one mask": (
        "model golden/image-0.png golden/image-1.png --mask m.png",
        2,
        "--mask accepts one image; use --masks FOLDER",
    ),
    "both": ("model golden/image-0.png --mask m.png --bench 3", 2, "--mask excludes --bench"),
    "one name": ("model golden/image-0.png golden/image-0.png --masks m", 2, "got image-0 twice; rename one"),
    "no model": ("nowhere golden/image-0.png --mask m.png", 2, "nowhere is not a bundle (no model.<precision>.onnx)"),
    "no graph": (
        "model golden/image-0.png --mask m.png --precision int8",
        2,
        "model.int8.onnx is not in model; choose from: ",
    ),
    "no such precision": (
        "model golden/image-0.png --mask m.png --precision int7",
        2,
        "openvino does not support 'int7'; choose from: ",
    ),
    "no such backend": (
        "model golden/image-0.png --mask m.png --backend torch",
        2,
        "'torch' is not a backend; choose from: openvino",
    ),
    "no such image": (
        "model no.png --mask m.png",
        2,
        "no.png cannot be opened (No such file or directory); check the name",
    ),
    "not a PNG": (
        "model golden/golden.json --mask m.png",
        2,
        "golden.json is not a PNG, JPEG or TIFF; convert it to one of them",
    ),
    "half a PNG": ("model half.png --mask m.png", 2, "half.png is not a readable PNG ("),
    "too large": (
        "model bomb.png --mask m.png",
        2,
        "Expected up to 268435456 pixels in bomb.png, got 100000 × 100000; cut it into smaller images",
    ),
    "odd sides in a batch": (
        "model odd.png other.png --masks m --batch 2",
        2,
        "Expected a height that is a multiple of 32, got 50; use 32 or 64",
    ),
    "tiles and a batch": ("model golden/image-0.png --mask m.png --batch 2 --tile 64", 2, "--tile excludes --batch"),
    "tile": (
        "model golden/image-0.png --mask m.png --tile 100",
        2,
        "Expected a tile that is a multiple of 32, got 100",
    ),
    "overlap": ("model golden/image-0.png --mask m.png --overlap 512", 2, "Expected an overlap from 0 to 511, got 512"),
    "a negative overlap": ("model golden/image-0.png --mask m.png --overlap -1", 2, "--overlap: Value -1 not in range"),
    "sizes": ("model golden/image-0.png small.png --masks m --batch 2", 2, "Expected images of one size in a batch"),
    "too small": (
        "model tiny.png --mask m.png",
        2,
        "Expected an image of at least 16 px a side, got 7×5 px in tiny.png; cut out a larger region",
    ),
    "another resolution": (
        "model half.tif --mask m.png",
        2,
        "Expected 0.25 µm/px in half.tif, got 0.5; resample it, or run: msal-deploy predict",
    ),
    "labels of two": ("model golden/image-0.png golden/image-1.png --labels l.png", 2, "--labels accepts one image;"),
    "no such format": (
        "model golden/image-0.png --labels l.PNG",
        2,
        "--labels: Expected a name that ends in .png, .tif or .tiff, got l.PNG; choose one",
    ),
    "no folder for labels": ("model golden/image-0.png --labels no/such/l.tif", 3, "no/such/l.tif is not writable ("),
    "no folder": ("model golden/image-0.png --mask no/such/m.png", 3, "no/such/m.png is not writable ("),
    "a folder": ("model golden/image-0.png --probability m", 3, "m is not writable ("),
}


def write_header_of_a_huge_png(file: Path) -> None:
    header = b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\x10IDAT")


@pytest.mark.parametrize("case", BAD)
def test_msal_segment_reports_bad_input_in_one_line(built, run, tmp_path, case):
    words, code, message = BAD[case]
    for name in ("model", "golden"):
        (tmp_path / name).symlink_to(built / name)
    (tmp_path / "half.png").write_bytes((built / "golden" / "image-0.png").read_bytes()[:5000])
    write_header_of_a_huge_png(tmp_path / "bomb.png")
    for name in ("odd.png", "other.png"):
        Image.new("RGB", (64, 50)).save(tmp_path / name)
    Image.new("RGB", (64, 64)).save(tmp_path / "small.png")
    Image.new("RGB", (7, 5)).save(tmp_path / "tiny.png")
    Image.new("RGB", (64, 64)).save(tmp_path / "half.tif", resolution=20000, resolution_unit="cm")  # 0.5 µm/px
    (tmp_path / "m").mkdir()
    before = {path.name for path in tmp_path.iterdir()}
    done = run(built / "build" / "msal-segment", *shlex.split(words), check=False, cwd=str(tmp_path))
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("Error: ") and message in done.stderr and done.stderr.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == before  # nothing half-written


def test_help_names_the_backends(built, run):
    done = run(built / "build" / "msal-segment", "--help")
    assert "Usage: msal-segment [OPTIONS] MODEL IMAGE..." in done.stdout and "in this build: openvino" in done.stdout


def test_a_folder_with_several_graphs_asks_which(built, int8_bundle, run):
    tile = built / "golden" / "image-0.png"
    done = run(built / "build" / "msal-segment", int8_bundle.path, tile, "--mask", "m.png", check=False)
    assert done.returncode == 2 and "choose one with --precision fp32 or int8" in done.stderr


# What `package cpp` writes


def test_a_package_holds_one_precision_and_opens_as_a_bundle(built, bundle):
    names = sorted(path.name for path in (built / "model").iterdir())
    assert names == ["manifest.json", "model.fp32.onnx"]
    assert Bundle(built / "model").file("model.fp32.onnx").is_file()
    assert bundle.manifest.licence in (built / "README.md").read_text()


def test_plans_of_the_precision_travel_with_their_sidecars(bundle, tmp_path):
    copy = Bundle(Path(shutil.copytree(bundle.path, tmp_path / "bundle")))
    file = write(copy)
    entries = {name: artifact(copy.path, name) for name in (file.name, metadata_path(file).name)}
    listed = {**copy.manifest.artifacts, **entries}
    write_manifest(copy.path, msgspec.structs.replace(copy.manifest, artifacts=listed))
    copy = Bundle(copy.path)
    write_package(copy, "cpp", tmp_path / "out", PackageOptions("fp32", gpu="rtx-3090"))
    for name in (file.name, metadata_path(file).name):
        assert (tmp_path / "out" / "model" / name).read_bytes() == (copy.path / name).read_bytes()
    with pytest.raises(BadInput, match="no fp32 plan for gtx-1080-ti; build one with: msal-deploy build-trt"):
        write_package(copy, "cpp", tmp_path / "other", PackageOptions("fp32", gpu="gtx-1080-ti"))
    assert not (tmp_path / "other").exists()


def test_a_graph_that_was_changed_is_not_packaged(bundle, tmp_path):
    copy = Bundle(Path(shutil.copytree(bundle.path, tmp_path / "bundle")))
    (copy.path / "model.fp32.onnx").write_bytes(b"something else")
    with pytest.raises(BadInput, match="SHA-256 differs"):
        write_package(copy, "cpp", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_library_has_the_version_of_the_package():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"project(msal_deploy VERSION {version} " in (ROOT / "engines" / "cpp" / "CMakeLists.txt").read_text()


def test_a_wheel_carries_the_sources(monkeypatch, tmp_path):
    from hatchling.builders.wheel import WheelBuilder

    files = {file.distribution_path for file in WheelBuilder(str(ROOT)).recurse_included_files()}
    kept = [path.relative_to(cpp.IN_CHECKOUT) for path in cpp.IN_CHECKOUT.rglob("*") if path.is_file()]
    wanted = {f"msal_deploy/package/cpp_sources/{path}" for path in kept if path.parts[0][:5] != "build"}
    assert len(wanted) > 30 and wanted <= files
    assert {file.partition("/")[0] for file in files} == {"msal_deploy"}
    monkeypatch.setattr(cpp, "IN_WHEEL", tmp_path)
    assert cpp.sources() == tmp_path
