"""Out of memory is told from other errors, whatever library ran out of it."""

import errno
import os
import subprocess
import sys

import numpy as np
import pytest

from msal_deploy.errors import BadInput, GateFailed, MissingRequirement
from msal_deploy.memory import is_out_of_memory, not_enough_memory


class OutOfMemoryError(RuntimeError):
    """As torch and CuPy name theirs."""


def raised(error: BaseException, cause: BaseException | None = None, context: BaseException | None = None) -> Exception:
    error.__context__ = context
    if cause is not None:
        error.__cause__ = cause
    return error


OURS = [
    MemoryError(),
    OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
    OutOfMemoryError("CUDA"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    RuntimeError("CUDA error CUDA_ERROR_OUT_OF_MEMORY"),
    RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for requested"),
    RuntimeError("[ONNXRuntimeError] : 6 : std::bad_alloc"),
    RuntimeError("Exception from src/core.cpp:97:\nCould not allocate 64 bytes"),
    RuntimeError("could not create a primitive: cannot allocate memory"),
    RuntimeError("can't start new thread"),
    RuntimeError("thread constructor failed: Resource temporarily unavailable"),
    RuntimeError("pthread_create failed for thread 1 of 2"),
    Exception("OpenCV(4.9.0) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 3000000 bytes"),
    ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    ImportError("libtorch_cpu.so: cannot allocate memory in static TLS block"),
    SystemError("mmap failed: Cannot allocate memory"),
    raised(BadInput("X is damaged"), cause=RuntimeError("std::bad_alloc")),
    raised(BadInput("X is damaged"), context=MemoryError()),
    raised(ValueError("bad"), cause=raised(TypeError(), context=OSError(errno.ENOMEM, ""))),
]
OTHERS = [
    ValueError("not enough values to unpack"),
    OSError(errno.ENOSPC, "No space left on device", "out of memory.png"),
    BadInput("out of memory.png is not an image"),
    GateFailed("Expected Dice 0.8, got 0.7"),
    MissingRequirement("The GPU has not enough memory for the plan", "build it for smaller images"),
    raised(MissingRequirement("The disk is full"), cause=MemoryError()),
    KeyError("memory"),
]


@pytest.mark.parametrize("error", OURS, ids=lambda error: f"{type(error).__name__} {str(error)[:30]}")
def test_out_of_memory_is_recognised_in_every_librarys_words(error):
    assert is_out_of_memory(error)
    assert not_enough_memory(error).exit_code == 3
    assert "lower --batch, --size" in not_enough_memory(error).remedy


@pytest.mark.parametrize("error", OTHERS, ids=lambda error: f"{type(error).__name__} {str(error)[:30]}")
def test_other_errors_are_not_out_of_memory(error):
    assert not is_out_of_memory(error)


def test_a_circle_of_errors_ends():
    first, second = KeyError("a"), KeyError("b")
    first.__context__, second.__context__ = second, first
    assert not is_out_of_memory(first)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("can't allocate memory: you tried to allocate 8589934592 bytes. Error code 12", " (8.0 GiB more were needed)"),
        ("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has", " (20.00 MiB more were needed)"),
        ("std::bad_alloc", ""),
        ("Failed to allocate 12 bytes", ""),
    ],
)
def test_the_report_says_how_much_was_asked_for(text, said):
    assert not_enough_memory(BadInput("X")).cause == "Not enough memory"
    assert not_enough_memory(RuntimeError(text)).cause == f"Not enough memory{said}"


def test_numpys_own_error_is_recognised():
    with pytest.raises(MemoryError) as raised:
        np.empty(2**46, np.float32)
    assert not_enough_memory(raised.value).cause == "Not enough memory (256 TiB more were needed)"


LIMITED = """
import resource, sys
import numpy as np
from tiny_bundle import write_tiny_bundle
from msal_deploy.errors import MissingRequirement
from msal_deploy.runtimes import open_engine
from pathlib import Path

with open_engine(write_tiny_bundle(Path(sys.argv[1])), sys.argv[2], threads=1) as engine:
    engine(np.zeros((1, 32, 32, 3), np.uint8))
    images = np.zeros((1, 2048, 2048, 3), np.uint8)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), used + (64 << 20)))
    try:
        engine(images)
    except MissingRequirement as error:
        print(error.cause.partition(" (")[0])
"""


@pytest.mark.parametrize("name", ["onnxruntime:fp32", "openvino:fp32"])
def test_an_engine_that_runs_out_of_memory_says_so(tmp_path, name):
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "bundle"), name]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.stdout == "Not enough memory\n", done.stderr
