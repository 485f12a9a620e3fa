"""The C++ library as somebody gets it: packaged, built with CMake, and run as a program."""

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


class CppHost:
    """`msal-segment` of a package of `bundle` in one precision, in the new folder `folder`."""

    def __init__(self, bundle: Bundle, precision: str, folder: Path) -> None:
        self.package = folder
        write_package(bundle, "cpp", folder, PackageOptions(precision))
        _run("cmake", "-S", ".", "-B", "build", cwd=folder)
        _run("cmake", "--build", "build", "--parallel", "2", cwd=folder)

    def __call__(self, images: UInt8Images) -> Float32Maps:
        """Return float32[N,1,H,W] of uint8[N,H,W,3], one image a call of the library."""
        with TemporaryDirectory(prefix="msal-deploy-") as folder:
            result = Path(folder) / "result.raw"
            self._segment(_write(images, Path(folder)), "--probability", result)
            number, height, width, _ = images.shape
            return np.fromfile(result, np.float32).reshape(number, 1, height, width)

    def p50(self, image: UInt8Images, calls: int, threads: int) -> float:
        """Return the median latency in ms of `calls` calls with uint8[1,H,W,3], buffer to buffer, in a new process."""
        with TemporaryDirectory(prefix="msal-deploy-") as folder:
            said = self._segment(_write(image, Path(folder)), "--bench", calls, "--threads", threads)
        found = P50.search(said)
        if found is None:
            raise MissingRequirement(f"msal-segment --bench says something else than expected: {said}")
        return float(found[1])

    def _segment(self, images: Sequence[Path], *options: object) -> str:
        return _run("build/msal-segment", "model", *images, *options, cwd=self.package)


def _write(images: UInt8Images, folder: Path) -> list[Path]:
    files = [folder / f"{index:03}.png" for index in range(len(images))]
    for file, image in zip(files, images, strict=True):
        Image.fromarray(image).save(file)
    return files


def _run(*words: object, cwd: Path) -> str:
    """Run a program with the tools of this Python first, and return what it prints."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run([str(word) for word in words], cwd=cwd, env=environment, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise MissingRequirement(f"{words[0]} failed ({''.join(last)}); README.md in {cwd} says what it needs")
    return done.stdout
