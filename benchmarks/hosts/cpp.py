"""The C++ integration as a user gets it: packaged, built with CMake, and run as a program."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from msal_deploy.bundle import Bundle
from msal_deploy.errors import MissingRequirement
from msal_deploy.package import PackageOptions, write_package
from msal_deploy.spec import Float32Maps, UInt8Images

P50 = re.compile(r"ms: p50 ([0-9.]+)")


class CppIntegration:
    """A program from a C++ package of `bundle`, built in a new folder.

    Args:
        bundle: The bundle to package.
        precision: Precision of the graph, such as ``int8``.
        folder: New folder for the package.
        program: The program to build: ``msal-segment``, or ``raw`` for `CppIntegration.raw`.
        cmake: Options for CMake.
    """

    def __init__(
        self,
        bundle: Bundle,
        precision: str,
        folder: Path,
        program: str = "msal-segment",
        cmake: Sequence[str] = (),
    ) -> None:
        self.package, self.precision = folder, precision
        write_package(bundle, "cpp", folder, PackageOptions(precision))
        _run("cmake", "-S", ".", "-B", "build", *cmake, cwd=folder)
        _run("cmake", "--build", "build", "--parallel", "2", "--target", program, cwd=folder)

    def __call__(self, images: UInt8Images) -> Float32Maps:
        """Return the probabilities float32[N,1,H,W] of images uint8[N,H,W,3]. Each library call gets one image."""
        with TemporaryDirectory(prefix="msal-deploy-") as folder:
            result = Path(folder) / "result.raw"
            self._segment(_write(images, Path(folder)), "--probability", result)
            batch, height, width, _ = images.shape
            return np.fromfile(result, np.float32).reshape(batch, 1, height, width)

    def p50(self, image: UInt8Images, calls: int, threads: int) -> float:
        """Return the median latency of `calls` calls in ms, end to end, measured in a new process.

        Args:
            image: uint8[1,H,W,3].
            calls: Number of timed calls.
            threads: Number of CPU threads.
        """
        with TemporaryDirectory(prefix="msal-deploy-") as folder:
            output = self._segment(_write(image, Path(folder)), "--bench", calls, "--threads", threads)
        match = P50.search(output)
        if match is None:
            raise MissingRequirement(
                f"Expected 'ms: p50 …' from msal-segment --bench, got {output!r}", "rebuild the package"
            )
        return float(match[1])

    @contextmanager
    def raw(self, backend: str, threads: int) -> "Iterator[Raw]":
        """Start `tests/raw`, which segments any bytes in a process that stays open, and end it after the block."""
        words = (self.package / "build/tests/raw", self.package / "model", self.precision, backend, threads)
        command = [str(word) for word in words]
        with (
            TemporaryDirectory(prefix="msal-deploy-") as folder,
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            ) as process,
        ):
            yield Raw(process, Path(folder))

    def _segment(self, images: Sequence[Path], *options: object) -> str:
        return _run("build/msal-segment", "model", *images, *options, cwd=self.package)


class Call(msgspec.Struct, frozen=True):
    """A call of the library.

    Attributes:
        probability: float32[H,W].
        ms: Its time, without reading and writing files.
        compilations: Compilations in this process so far (OpenVINO).
    """

    probability: NDArray[np.float32]
    ms: float
    compilations: int


class Raw:
    """The library in a process of its own, which gets images as raw bytes.

    Args:
        process: `tests/raw`, reading requests from its standard input.
        folder: Folder for the images and results.
    """

    def __init__(self, process: "subprocess.Popen[str]", folder: Path) -> None:
        self._process, self._file, self._result = process, folder / "image", folder / "result"

    def __call__(self, image: NDArray[np.uint8], order: str = "rgb", gap: int = 0) -> Call:
        """Segment an image with the default tiling.

        Args:
            image: uint8[H,W,3], RGB.
            order: What the library gets: ``rgb``, ``bgr``, ``rgba`` or ``bgra``.
            gap: Bytes between two rows.
        """
        height, width, _ = image.shape
        opaque = np.full((height, width, 1), 255, np.uint8)
        pixels = np.concatenate([image, opaque], axis=2)[:, :, ["rgba".index(name) for name in order]]
        rows = np.pad(pixels.reshape(height, -1), ((0, 0), (0, gap)))
        rows.tofile(self._file)
        request = f'"{self._file}" {height} {width} {rows.shape[1]} {order} 512 64 1 "{self._result}"'
        ms, compilations = self._ask(request).split()
        probability = np.fromfile(self._result, np.float32).reshape(height, width)
        return Call(probability, float(ms), int(compilations))

    def _ask(self, request: str) -> str:
        assert self._process.stdin is not None and self._process.stdout is not None  # both are pipes
        self._process.stdin.write(f"{request}\n")
        self._process.stdin.flush()
        if answer := self._process.stdout.readline():
            return answer
        raise MissingRequirement("tests/raw ended without an answer", "run its ctest to see why")


def _write(images: UInt8Images, folder: Path) -> list[Path]:
    files = [folder / f"{index:03}.png" for index in range(len(images))]
    for file, image in zip(files, images, strict=True):
        Image.fromarray(image).save(file)
    return files


def _run(*words: object, cwd: Path) -> str:
    """Run a program and return its output. Tools installed with this Python come first on the search path."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run([str(word) for word in words], cwd=cwd, env=environment, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise MissingRequirement(f"{words[0]} failed ({''.join(last)})", f"see README.md in {cwd} for its requirements")
    return done.stdout
