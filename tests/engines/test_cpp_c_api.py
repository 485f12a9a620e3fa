"""The C interface: a program in C99, and Python's ctypes in the place of other languages that call C."""

import ctypes
import re
import threading
from collections.abc import Callable, Iterator
from ctypes import POINTER, byref, c_char_p, c_double, c_float, c_int32, c_uint8, c_uint64, c_void_p
from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import write_tiny_bundle

import msal_deploy
from msal_deploy.bundle import Bundle
from msal_deploy.instances import separate
from msal_deploy.runtimes import open_engine
from msal_deploy.runtimes.tiling import segment

UNSET = -1
RGB, BGR, RGBA, BGRA = range(4)
LOG = ctypes.CFUNCTYPE(None, c_void_p, c_int32, c_char_p)
OLD_SIZE = 24  # of structures whose later fields an older header does not have


class Failure(ctypes.Structure):
    _fields_ = [("code", c_int32), ("message", ctypes.c_char * 1020)]


class Options(ctypes.Structure):
    _fields_ = [
        *(("struct_size", c_uint64), ("backend", c_char_p), ("threads", c_int32), ("streams", c_int32)),
        *(("device", c_int32), ("shapes", c_int32), ("cache", c_char_p), ("cuda_graphs", c_int32)),
        *(("reserved", c_int32), ("log", LOG), ("log_user", c_void_p)),
    ]


class View(ctypes.Structure):
    _fields_ = [
        *(("data", c_void_p), ("height", c_uint64), ("width", c_uint64), ("row_bytes", c_uint64)),
        *(("format", c_int32), ("reserved", c_int32)),
    ]


class Tiling(ctypes.Structure):
    _fields_ = [("struct_size", c_uint64), ("tile", c_uint64), ("overlap", c_uint64), ("batch", c_uint64)]


class Separation(ctypes.Structure):
    _fields_ = [
        *(("struct_size", c_uint64), ("microns_per_pixel", c_double), ("min_area", c_double), ("max_hole", c_double)),
        *(("smoothing", c_double), ("saddle", c_double), ("levels", POINTER(c_float)), ("level_count", c_uint64)),
        *(("threshold", c_float), ("reserved", c_int32)),
    ]


class Axis(ctypes.Structure):
    _fields_ = [("min", c_uint64), ("max", c_uint64), ("multiple", c_uint64)]


class Spec(ctypes.Structure):
    _fields_ = [
        *(("struct_size", c_uint64), ("batch", Axis), ("height", Axis), ("width", Axis)),
        *(("microns_per_pixel", c_double), ("threshold", c_float), ("reserved", c_int32)),
    ]


ARGUMENTS = {
    "open": (c_char_p, c_char_p, POINTER(Options), POINTER(c_void_p)),
    "get_spec": (c_void_p, POINTER(Spec), c_uint64),
    "prepare": (c_void_p, c_uint64, c_uint64, c_uint64),
    "segment": (c_void_p, POINTER(View), POINTER(Tiling), c_void_p, c_uint64),
    "segment_images": (c_void_p, POINTER(View), c_uint64, POINTER(Tiling), c_void_p, c_uint64),
    "segment_batch": (c_void_p, c_void_p, c_uint64, c_uint64, c_uint64, c_uint64, c_void_p, c_uint64),
    "segment_on_device": (c_void_p, c_void_p, c_uint64, c_uint64, c_uint64, c_void_p, c_void_p),
    "mask": (c_void_p, c_uint64, c_float, c_void_p),
    "labels": (c_void_p, c_uint64, c_uint64, POINTER(Separation), c_void_p, POINTER(c_int32)),
}
Call = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def library(built: Path) -> ctypes.CDLL:
    """The library, with the types of its functions."""
    library = ctypes.CDLL(str(built / "build" / "libmsal_deploy.so"))
    for name, arguments in ARGUMENTS.items():
        function = getattr(library, f"msal_deploy_{name}")
        function.argtypes, function.restype = [*arguments, POINTER(Failure)], c_int32
    for name, kind in (("options", Options), ("tiling", Tiling), ("separation", Separation)):
        function = getattr(library, f"msal_deploy_{name}_init")
        function.argtypes, function.restype = [POINTER(kind), c_uint64], None
    for name, kinds in (("version", []), ("backend", [c_uint64]), ("engine", [c_void_p])):
        function = getattr(library, f"msal_deploy_{name}")
        function.argtypes, function.restype = kinds, c_char_p
    library.msal_deploy_close.argtypes, library.msal_deploy_close.restype = [c_void_p], None
    return library


@pytest.fixture(scope="module")
def call(library: ctypes.CDLL) -> Call:
    """Call a function that can fail; return the code and the message, which agree."""

    def call(name: str, *arguments: object) -> tuple[int, str]:
        failure = Failure(99, b"what an earlier call left")
        code = getattr(library, f"msal_deploy_{name}")(*arguments, byref(failure))
        assert failure.code == code and (code == 0) == (failure.message == b"")
        return code, failure.message.decode()

    return call


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_tiny_bundle(tmp_path_factory.mktemp("c") / "bundle")


@pytest.fixture(scope="module")
def segmenter(library: ctypes.CDLL, call: Call, tiny: Bundle) -> Iterator[c_void_p]:
    handle = c_void_p()
    assert call("open", bytes(tiny.path), b"fp32", None, byref(handle)) == (0, "")
    yield handle
    library.msal_deploy_close(handle)


def initial(library: ctypes.CDLL, name: str, kind: type) -> ctypes.Structure:
    one = kind()
    getattr(library, f"msal_deploy_{name}_init")(byref(one), ctypes.sizeof(kind))
    return one


def picture(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, channels), np.uint8)


def view(image: np.ndarray, pixel_format: int = RGB, row_bytes: int = 0) -> View:
    return View(image.ctypes.data, image.shape[0], image.shape[1], row_bytes, pixel_format, 0)


# C


def test_a_program_in_c99_computes_what_python_computes(built, bundle, run, tmp_path):
    words = ("gcc", "-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror")
    folders = (f"-I{built / 'include'}", f"-L{built / 'build'}", f"-Wl,-rpath,{built / 'build'}")
    program, result = tmp_path / "segment_in_c", tmp_path / "p.raw"
    run(*words, *folders, built / "examples" / "c" / "main.c", "-lmsal_deploy", "-o", program)
    done = run(program, built / "model", "fp32", built / "golden" / "image-0.rgb", 256, 256, result)
    with open_engine(bundle, "openvino:fp32") as engine:
        expected = segment(engine, np.load(built / "golden" / "image.npy")[0])
    np.testing.assert_array_equal(np.fromfile(result, np.float32).reshape(256, 256), expected)
    spec = bundle.spec
    nuclei = separate(expected, threshold=spec.threshold, microns_per_pixel=spec.microns_per_pixel).max()
    assert nuclei >= 2 and done.stdout == f"openvino:fp32: {nuclei} nuclei\n"
    failed = run(program, built / "golden", "fp32", built / "golden" / "image-0.rgb", 256, 256, result, check=False)
    assert failed.returncode == 2 and " is not a bundle" in failed.stderr


def test_the_header_is_c99_and_c_plus_plus_and_has_types_of_fixed_width(built, run):
    header = built / "include" / "msal_deploy.h"
    for language, standard in (("c", "c99"), ("c++", "c++17")):
        words = ("-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only")
        run("gcc", "-x", language, f"-std={standard}", *words, header)
    code = re.sub(r"//.*", "", header.read_text())
    assert not re.search(r"\b(int|long|short|unsigned|size_t|bool|enum \w+) (?!\{)", code)


def test_every_function_of_the_header_is_exported_and_tested_here(built, library):
    header = (built / "include" / "msal_deploy.h").read_text()
    declared = set(re.findall(r"\bmsal_deploy_(\w+)\(", re.sub(r"//.*", "", header)))
    inits = {f"{name}_init" for name in ("options", "tiling", "separation")}
    assert declared == {*ARGUMENTS, *inits, "version", "backend", "engine", "close"}
    assert all(hasattr(library, f"msal_deploy_{name}") for name in declared)


# The same results as Python


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (2, 3), (33, 31), (33, 700), (512, 512), (600, 1100)])
def test_an_image_of_any_size_is_bit_for_bit_what_python_computes(call, segmenter, tiny, size):
    image = picture(*size)
    with open_engine(tiny, "openvino:fp32") as engine:
        expected = segment(engine, image)
    found = np.full(size, -1, np.float32)
    assert call("segment", segmenter, byref(view(image)), None, found.ctypes.data, found.size) == (0, "")
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("pixel_format", [RGB, BGR, RGBA, BGRA])
def test_formats_regions_and_tiling(library, call, segmenter, tiny, pixel_format):
    rgb = picture(120, 90)
    tiling = initial(library, "tiling", Tiling)
    assert (tiling.struct_size, tiling.tile, tiling.overlap, tiling.batch) == (32, 512, 64, 1)
    tiling.tile, tiling.overlap, tiling.batch = 64, 16, 2
    with open_engine(tiny, "openvino:fp32") as engine:
        expected = segment(engine, rgb, tile=64, overlap=16, batch=2)
    pixels = rgb[..., ::-1] if pixel_format in (BGR, BGRA) else rgb
    alpha = [picture(120, 90, 1)] if pixel_format in (RGBA, BGRA) else []
    wide = np.zeros((130, 100, 3 + len(alpha)), np.uint8)
    region = wide[7:127, 5:95]
    region[:] = np.dstack([pixels, *alpha])
    found = np.full((120, 90), -1, np.float32)
    one = view(region, pixel_format, wide.strides[0])
    assert call("segment", segmenter, byref(one), byref(tiling), found.ctypes.data, found.size) == (0, "")
    np.testing.assert_array_equal(found, expected)


def test_images_of_different_sizes_follow_each_other(call, segmenter, tiny):
    images = [picture(40, 70), picture(64, 64), picture(33, 31)]
    with open_engine(tiny, "openvino:fp32") as engine:
        expected = np.concatenate([segment(engine, image).ravel() for image in images])
    found = np.full(expected.size + 1, -1, np.float32)
    views = (View * 3)(*map(view, images))
    assert call("segment_images", segmenter, views, 3, None, found.ctypes.data, expected.size) == (0, "")
    np.testing.assert_array_equal(found[:-1], expected)
    assert found[-1] == -1
    found[:] = -1
    code, message = call("segment_images", segmenter, views, 3, None, found.ctypes.data, expected.size - 1)
    assert code == 2 and message.startswith("Expected a place for the probabilities of all images, got one for ")
    assert (found == -1).all()


def test_a_batch_is_computed_in_one_pass(call, segmenter, tiny):
    images = np.stack([picture(64, 96), picture(64, 96)[::-1]])
    with open_engine(tiny, "openvino:fp32") as engine:
        expected = engine(images)
    found = np.full((2, 64, 96), -1, np.float32)
    where, room = found.ctypes.data, found.size
    shape = (2, 64, 96)
    assert call("prepare", segmenter, *shape) == (0, "")
    assert call("segment_batch", segmenter, images.ctypes.data, images.size, *shape, where, room) == (0, "")
    np.testing.assert_allclose(found, expected.reshape(found.shape), rtol=0, atol=1e-6)
    for bytes_in, floats, part in ((images.size - 1, room, "bytes of RGB"), (images.size, room - 1, "floats in the")):
        code, message = call("segment_batch", segmenter, images.ctypes.data, bytes_in, *shape, where, floats)
        assert code == 2 and part in message


def test_masks_and_labels(library, call):
    probability = np.zeros((40, 60), np.float32)
    probability[5:25, 5:25] = probability[10:30, 32:52] = 0.75
    mask, labels, nuclei = np.full((40, 60), 7, np.uint8), np.full((40, 60), -1, np.int32), c_int32(-1)
    assert call("mask", probability.ctypes.data, probability.size, 0.75, mask.ctypes.data) == (0, "")
    np.testing.assert_array_equal(mask, probability > 0)
    where = (probability.ctypes.data, 40, 60)
    assert call("labels", *where, None, labels.ctypes.data, byref(nuclei)) == (0, "")
    np.testing.assert_array_equal(labels, separate(probability))
    assert nuclei.value == 2
    chosen = initial(library, "separation", Separation)
    defaults = [chosen.levels[index] for index in range(chosen.level_count)]
    assert (chosen.threshold, chosen.microns_per_pixel, defaults) == (0.5, 0.25, pytest.approx([0.9, 0.95, 0.98]))
    assert (chosen.min_area, chosen.max_hole, chosen.smoothing, chosen.saddle) == (4.0, 30.0, 0.4, 0.95)
    chosen.threshold, chosen.level_count, chosen.levels = 0.76, 0, None
    assert call("labels", *where, byref(chosen), labels.ctypes.data, None) == (0, "")
    assert not labels.any()


def test_what_the_library_says_about_itself(library, call, segmenter, tiny):
    assert library.msal_deploy_version().decode() == msal_deploy.__version__
    assert library.msal_deploy_backend(0) == b"openvino" and library.msal_deploy_backend(99) is None
    assert library.msal_deploy_engine(segmenter) == b"openvino:fp32" and library.msal_deploy_engine(None) == b""
    spec = Spec()
    assert call("get_spec", segmenter, byref(spec), ctypes.sizeof(spec)) == (0, "")
    assert spec.struct_size == ctypes.sizeof(spec)
    assert (spec.microns_per_pixel, spec.threshold) == (tiny.spec.microns_per_pixel, tiny.spec.threshold)
    for found, expected in zip((spec.batch, spec.height, spec.width), tiny.spec.image.axes[:3], strict=True):
        assert (found.min, found.max, found.multiple) == (expected.minimum, expected.maximum, expected.multiple)


# Errors


def test_null_is_refused_and_close_accepts_it(library, call, segmenter, tiny):
    image, found = picture(4, 4), np.zeros(16, np.float32)
    one, folder = view(image), bytes(tiny.path)
    calls = {
        "a segmenter": ("segment", None, byref(one), None, found.ctypes.data, 16),
        "an image": ("segment", segmenter, None, None, found.ctypes.data, 16),
        "16 floats in the buffer": ("segment", segmenter, byref(one), None, None, 16),
        "images": ("segment_images", segmenter, None, 1, None, found.ctypes.data, 16),
        "a place for the probabilities": ("segment_images", segmenter, byref(one), 1, None, None, 16),
        "a spec": ("get_spec", segmenter, None, 8),
        "a folder": ("open", None, b"fp32", None, byref(c_void_p())),
        "a precision": ("open", folder, None, None, byref(c_void_p())),
        "a place for the segmenter": ("open", folder, b"fp32", None, None),
        "a place for the mask": ("mask", found.ctypes.data, 16, 0.5, None),
        "a place for the labels": ("labels", found.ctypes.data, 4, 4, None, None, None),
        "probabilities": ("labels", None, 4, 4, None, found.ctypes.data, None),
    }
    for what, words in calls.items():
        code, message = call(*words)
        assert code == 2 and message.startswith(f"Expected {what}") and "null pointer; pass" in message, message
    assert call("segment_on_device", segmenter, None, 1, 64, 64, None, None)[0] == 2
    library.msal_deploy_close(None)
    library.msal_deploy_options_init(None, 8)


def test_a_program_that_wants_no_message_gets_the_code(library, segmenter):
    assert library.msal_deploy_prepare(segmenter, 1, 50, 50, None) == 2


def test_a_failed_open_writes_null_and_says_why(call, tiny):
    handle = c_void_p(1)
    code, message = call("open", b"nowhere", b"fp32", None, byref(handle))
    assert code == 2 and message.startswith("nowhere") and handle.value is None


def test_a_long_message_ends_with_a_whole_character(call):
    for length in range(1000, 1004):
        code, message = call("open", b"x" * length + "µ".encode() * 100, b"fp32", None, byref(c_void_p()))
        assert code == 2 and set(message[length:]) == {"µ"} and len(message.encode()) in (1018, 1019)


def test_formats_and_structures_that_do_not_exist_are_refused(library, call, segmenter):
    image, found = picture(4, 4), np.zeros(16, np.float32)
    for number in (-1, 4):
        one = view(image, number)
        code, message = call("segment", segmenter, byref(one), None, found.ctypes.data, 16)
        assert code == 2 and message == f"Expected a format from 0 (RGB) to 3 (BGRA), got {number}; use one of them"
    tiling = initial(library, "tiling", Tiling)
    for size in (0, 7, 33, 2**63):
        tiling.struct_size = size
        code, message = call("segment", segmenter, byref(view(image)), byref(tiling), found.ctypes.data, 16)
        assert code == 2 and f"got {size}; call msal_deploy_tiling_init first" in message
    labels = np.zeros(16, np.int32)
    code, message = call("labels", found.ctypes.data, 2**32, 2**32, None, labels.ctypes.data, None)
    assert code == 2 and message.startswith("Expected fewer than 2^31 pixels")


def test_options_reach_the_backend(library, call, tiny):
    bad = {
        "backend": (b"torch", "'torch' is not a backend; choose from: openvino"),
        "threads": (0, "Expected threads from 1 to 1024, got 0"),
        "streams": (2000, "Expected streams from 1 to 1024, got 2000"),
        "device": (0, "openvino does not have the option device"),
        "shapes": (-2, "Expected shapes from 1 on, got -2; leave it unset for the default"),
        "cache": (b"", "Expected a folder as cache, got an empty name"),
        "cuda_graphs": (2, "Expected 0 or 1 for cuda_graphs, got 2; use one of them"),
    }
    for name, (value, part) in bad.items():
        options = initial(library, "options", Options)
        assert options.threads == options.device == options.cuda_graphs == UNSET and not options.backend
        setattr(options, name, value)
        code, message = call("open", bytes(tiny.path), b"fp32", byref(options), byref(c_void_p()))
        assert code == 2 and part in message, message


def test_a_program_with_an_older_header_keeps_working(library, call, tiny):
    old = (c_uint8 * ctypes.sizeof(Options))(*[0xEE] * ctypes.sizeof(Options))
    options = ctypes.cast(old, POINTER(Options))
    library.msal_deploy_options_init(options, OLD_SIZE)
    assert options.contents.struct_size == OLD_SIZE and set(old[OLD_SIZE:]) == {0xEE}
    options.contents.threads = 1
    handle = c_void_p()
    assert call("open", bytes(tiny.path), b"fp32", options, byref(handle)) == (0, "")
    spec = (c_uint8 * ctypes.sizeof(Spec))(*[0xEE] * ctypes.sizeof(Spec))
    assert call("get_spec", handle, ctypes.cast(spec, POINTER(Spec)), OLD_SIZE) == (0, "")
    assert ctypes.cast(spec, POINTER(Spec)).contents.struct_size == OLD_SIZE and set(spec[OLD_SIZE:]) == {0xEE}
    library.msal_deploy_close(handle)


def test_threads_share_a_segmenter_and_get_their_own_errors(call, segmenter, tiny):
    images = [picture(64, 64 + 32 * index) for index in range(4)]
    with open_engine(tiny, "openvino:fp32") as engine:
        expected = [segment(engine, image) for image in images]
    wrong: list[str] = []

    def work(index: int) -> None:
        for _ in range(5):
            found = np.zeros(images[index].shape[:2], np.float32)
            one = view(images[index])
            if call("segment", segmenter, byref(one), None, found.ctypes.data, found.size) != (0, ""):
                wrong.append("an error")
            if not np.array_equal(found, expected[index]):
                wrong.append("other pixels")
            if f"got {50 + index}" not in call("prepare", segmenter, 1, 50 + index, 64)[1]:
                wrong.append("another's message")

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_log_calls_back_with_the_user_pointer(library, call, tiny):
    options = initial(library, "options", Options)
    said: list[tuple[int, int, bytes]] = []
    options.log = LOG(lambda user, level, message: said.append((user, level, message)))
    options.log_user = 4711
    handle = c_void_p()
    assert call("open", bytes(tiny.path), b"fp32", byref(options), byref(handle)) == (0, "")
    assert call("prepare", handle, 1, 64, 64) == (0, "")
    library.msal_deploy_close(handle)
    assert all(user == 4711 and 0 <= level <= 2 and b"\n" not in message for user, level, message in said)
