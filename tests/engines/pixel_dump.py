"""Reads images with the C++ readers of msal-segment, under the sanitizers."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np

APPS = Path(__file__).parents[2] / "engines" / "cpp" / "apps"
SOURCES = ("image", "jpeg", "metadata", "png", "tiff")
PROGRAM = """
#include "image.hpp"
#include <iostream>
int main(int, char** files) {
    while (*++files) {
        const auto image = read_image(*files, 1000000);
        const std::string line = image ? std::to_string(image->height) + " " + std::to_string(image->width)
                                       : "- " + image.error().message;
        std::cout << line << "\\n";
        if (image) std::cout.write(reinterpret_cast<const char*>(image->rgb.data()), image->rgb.size());
    }
}
"""


def build_dump(folder: Path) -> Path:
    """Return a program that prints the pixels of images as the C++ programs read them."""
    (folder / "dump.cpp").write_text(PROGRAM)
    include = (f"-I{APPS}", f"-I{APPS.parent / 'include'}")
    words = ["g++", "-std=c++17", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    sources = [APPS / f"{name}.cpp" for name in SOURCES]
    libraries = ("-lpng", "-ljpeg", "-ltiff")
    subprocess.run([*words, *include, "dump.cpp", *sources, *libraries, "-o", "dump"], cwd=folder, check=True)
    return folder / "dump"


def read_by_cpp(dump: Path, files: Sequence[Path]) -> list[np.ndarray | str]:
    """Return the pixels of each file, uint8[H,W,3], or the message that refuses it."""
    done = subprocess.run([dump, *files], capture_output=True, check=True)
    results: list[np.ndarray | str] = []
    rest = done.stdout
    while rest:
        line, _, rest = rest.partition(b"\n")
        if line.startswith(b"- "):
            results.append(line[2:].decode())
            continue
        height, width = map(int, line.split())
        size = height * width * 3
        results.append(np.frombuffer(rest[:size], np.uint8).reshape(height, width, 3))
        rest = rest[size:]
    assert len(results) == len(files)
    return results
