"""The C++ integration as a user gets it: packaged, built with CMake, and run as a program."""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from msal_deploy.bundle import Bundle
from msal_deploy.errors import MissingRequirement
from msal_deploy.package import PackageOptions, write_package
from msal_deploy.spec import Float32Maps, UInt8Images

P50 = re.compile(r"ms: p50 ([0-9.]+)")


class CppIntegration:
    """`msal-segment` from a C++ package of `bundle`, built in a new folder.

    Args:
        bundle: The bundle to package.
        precision: Precision of the graph, such as ``int8``.
        folder: New folder for the package.
    """

    def __init__(self, bundle: Bundle, precision: str, folder: Path) -> None:
        self.package = folder
        write_package(bundle, "cpp", folder, PackageOptions(precision))
        _run("cmake", "-S", ".", "-B", "build", cwd=folder)
        _run("cmake", "--build", "build", "--parallel", "2", cwd=folder)

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

    def _segment(self, images: Sequence[Path], *options: object) -> str:
        return _run("build/msal-segment", "model", *images, *options, cwd=self.package)


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
