"""Nuclei in C++: the labels of Python's `separate` and the masks of a threshold, under the sanitizers."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from msal_deploy.data import find_dataset
from msal_deploy.instances import Separation, separate

MONUSEG = os.environ.get("MSAL_DEPLOY_MONUSEG")
CPP = Path(__file__).parents[2] / "engines" / "cpp"
SOURCES = ("nuclei", "nuclei_depth", "failure", "text")
PROBE = """
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include "msal_deploy/nuclei.hpp"
using namespace msal_deploy;
template <class T> int finish(const Result<std::vector<T>>& result) {
    if (result) return std::fwrite(result->data(), sizeof(T), result->size(), stdout) == result->size() ? 0 : 9;
    std::fputs(result.error().message.c_str(), stderr);
    return static_cast<int>(result.error().code);
}
// mask THRESHOLD | labels HEIGHT WIDTH THRESHOLD MPP MIN_AREA MAX_HOLE SMOOTHING SADDLE LEVEL... ; floats from stdin
int main(int count, char** words) {
    std::vector<float> map(1 << 20);
    map.resize(std::fread(map.data(), sizeof(float), map.size(), stdin));
    map.shrink_to_fit();
    const Span<const float> span(map.empty() ? nullptr : map.data(), map.size());
    const auto number = [&](int at) { return std::strtod(words[at], nullptr); };
    if (words[1][0] == 'm') return finish(mask(span, static_cast<float>(number(2))));
    Separation chosen;
    if (count > 4) chosen = {static_cast<float>(number(4)), number(5), number(6), number(7), number(8), {}, number(9)};
    for (int at = 10; at < count; ++at) chosen.levels.push_back(static_cast<float>(number(at)));
    return finish(labels(span, std::strtoull(words[2], nullptr, 10), std::strtoull(words[3], nullptr, 10), chosen));
}
"""
Probe = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Probe:
    """Run the C++ functions on a map."""
    folder = tmp_path_factory.mktemp("probe")
    (folder / "msal_deploy").mkdir()
    (folder / "msal_deploy" / "export.hpp").write_text("#define MSAL_DEPLOY_EXPORT\n")  # CMake generates it
    (folder / "probe.cpp").write_text(PROBE)
    words = ["g++", "-std=c++17", "-O1", "-g", "-ffp-contract=off"]  # as CMakeLists.txt compiles nuclei_depth.cpp
    words += ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    words += [f"-I{path}" for path in (folder, CPP / "include", CPP / "src")]
    words += [str(CPP / "src" / f"{name}.cpp") for name in SOURCES]
    subprocess.run([*words, "probe.cpp", "-o", "probe"], cwd=folder, check=True)

    def run(probability: np.ndarray, *words: object) -> subprocess.CompletedProcess[bytes]:
        bytes_in = np.ascontiguousarray(probability, np.float32).tobytes()
        return subprocess.run([folder / "probe", *map(str, words)], input=bytes_in, capture_output=True)

    return run


def labels(probe: Probe, probability: np.ndarray, threshold: float, mpp: float, one: Separation) -> np.ndarray:
    numbers = (threshold, mpp, one.min_area, one.max_hole, one.smoothing, one.saddle, *one.levels)
    done = probe(probability, "labels", *probability.shape, *map(repr, map(float, numbers)))
    assert done.returncode == 0, done.stderr.decode()
    return np.frombuffer(done.stdout, np.int32).reshape(probability.shape)


def blobs(seed: int, shape: tuple[int, int], blur: float) -> np.ndarray:
    """A probability map with blobs of all shapes, saturated as a network's."""
    field = cv2.GaussianBlur(np.random.default_rng(seed).standard_normal(shape, np.float32), (0, 0), blur)
    return (0.5 + 0.5 * np.tanh(2 * field / max(float(field.std()), 1e-6))).astype(np.float32)


# Name -> threshold, µm/px and parameters. The blur has kernels of 3 to 27 pixels.
CHOICES = {
    "defaults": (0.5, 0.25, Separation()),
    "20x": (0.376, 0.5, Separation(saddle=0.8)),
    "10x": (0.3, 1.0, Separation(saddle=0.3, min_area=1.0)),
    "fine": (0.7, 0.125, Separation(saddle=0.99, max_hole=2.0, min_area=1.0)),
    "one level": (0.5, 0.25, Separation(levels=(0.2,), min_area=0.0)),
    "no level": (0.5, 0.25, Separation(levels=(), saddle=1.0)),
    "sharp": (0.5, 0.25, Separation(smoothing=0.02)),
}
SIZES = ((1, 1), (1, 40), (40, 1), (2, 3), (64, 80), (75, 131), (33, 31))


@pytest.mark.parametrize("choice", CHOICES)
def test_labels_are_those_of_python(probe: Probe, choice: str) -> None:
    threshold, mpp, chosen = CHOICES[choice]
    nuclei = 0
    for seed, shape in enumerate(SIZES):
        probability = blobs(seed, shape, 2.5)
        expected = separate(probability, threshold=threshold, microns_per_pixel=mpp, parameters=chosen)
        np.testing.assert_array_equal(labels(probe, probability, threshold, mpp, chosen), expected)
        nuclei = max(nuclei, int(expected.max()))
    assert nuclei >= 5


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("shape", [(1, 1), (1, 70), (70, 1), (64, 64)])
def test_one_value_everywhere(probe: Probe, value: float, shape: tuple[int, int]) -> None:
    probability = np.full(shape, value, np.float32)
    found = labels(probe, probability, 0.5, 0.25, Separation(min_area=0.0))
    np.testing.assert_array_equal(found, np.full(shape, value >= 0.5, np.int32))


def test_the_defaults_are_those_of_python(probe: Probe) -> None:
    probability = blobs(9, (70, 90), 3.0)
    done = probe(probability, "labels", *probability.shape)
    found = np.frombuffer(done.stdout, np.int32).reshape(probability.shape)
    assert found.max() >= 3
    np.testing.assert_array_equal(found, separate(probability))


def test_a_hole_is_filled_and_counts_as_inside(probe: Probe) -> None:
    probability = np.zeros((30, 40), np.float32)
    probability[5:25, 5:35] = 1
    probability[12:16, 15:19] = 0  # 16 px are 1 µm² at 0.25 µm/px
    for largest, pixels in ((0.99, 584), (1.0, 600)):
        found = labels(probe, probability, 0.5, 0.25, Separation(max_hole=largest))
        assert np.count_nonzero(found) == pixels


def test_distances_beyond_those_of_nuclei(probe: Probe) -> None:
    probability = np.zeros((150, 400), np.float32)
    for x in (100, 230):
        cv2.circle(probability, (x, 75), 70, 1.0, cv2.FILLED)
    expected = separate(probability)
    assert expected.max() == 2
    np.testing.assert_array_equal(labels(probe, probability, 0.5, 0.25, Separation()), expected)


def test_a_mask_holds_what_is_at_least_the_threshold(probe: Probe) -> None:
    probability = np.array([0, 0.25, 0.375, np.nextafter(np.float32(0.375), 0), 1, -np.inf, np.inf], np.float32)
    assert list(probe(probability, "mask", 0.375).stdout) == [0, 0, 1, 0, 1, 0, 1]


ONE = np.ones(6, np.float32)
HUGE = 2**63
BAD = {
    "null": ([], ("labels", 2, 3), "Expected probabilities, got a null pointer; pass a map"),
    "short": (ONE[:5], ("labels", 2, 3), "Expected 6 probabilities for 3×2 px, got 5; check the sizes"),
    "long": (ONE, ("labels", 2, 2), "Expected 4 probabilities for 2×2 px, got 6; check the sizes"),
    "no rows": (ONE, ("labels", 0, 3), "Expected at least one pixel, got a map of 3×0 px; leave it out"),
    "no columns": (ONE, ("labels", 2, 0), "Expected at least one pixel, got a map of 0×2 px; leave it out"),
    "overflow": (ONE, ("labels", HUGE, 2), f"Expected fewer than 2^31 pixels, got a map of 2×{HUGE} px;"),
    "product": (ONE, ("labels", 2**32, 2**32), "Expected fewer than 2^31 pixels, got a map of "),
    "frame": (ONE, ("labels", 1, 2**31 - 3), "Expected fewer than 2^31 pixels, got a map of "),
    "NaN": ([1, 1, np.nan, 1, 1, 1], ("labels", 2, 3), "Expected probabilities, got NaN at 2; check what computed"),
    "threshold": (ONE, ("labels", 2, 3, "nan", 0.25, 4, 30, 0.4, 0.95), "Expected a number for threshold, got NaN;"),
    "resolution": (ONE, ("labels", 2, 3, 0.5, 0, 4, 30, 0.4, 0.95), "Expected microns_per_pixel over 0 and up to"),
    "infinite": (ONE, ("labels", 2, 3, 0.5, "inf", 4, 30, 0.4, 0.95), "Expected microns_per_pixel over 0 and up to"),
    "area": (ONE, ("labels", 2, 3, 0.5, 0.25, "nan", 30, 0.4, 0.95), "Expected a number for min_area, got NaN;"),
    "hole": (ONE, ("labels", 2, 3, 0.5, 0.25, 4, "nan", 0.4, 0.95), "Expected a number for max_hole, got NaN;"),
    "no smoothing": (
        ONE,
        ("labels", 2, 3, 0.5, 0.25, 4, 30, 0, 0.95),
        "Expected smoothing over 0 and up to 250, got 0",
    ),
    "smoothing": (
        ONE,
        ("labels", 2, 3, 0.5, 0.25, 4, 30, 251, 0.95),
        "Expected smoothing over 0 and up to 250, got 251",
    ),
    "saddle": (ONE, ("labels", 2, 3, 0.5, 0.25, 4, 30, 0.4, "nan"), "Expected a number for saddle, got NaN;"),
    "level": (ONE, ("labels", 2, 3, 0.5, 0.25, 4, 30, 0.4, 0.95, "nan"), "Expected a number for levels, got NaN;"),
    "null mask": ([], ("mask", 0.5), "Expected probabilities, got a null pointer; pass a map"),
    "NaN in a mask": ([0, np.nan], ("mask", 0.5), "Expected probabilities, got NaN at 1; check what computed them"),
    "threshold of a mask": (ONE, ("mask", "nan"), "Expected a number for threshold, got NaN; see nuclei.hpp"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused(probe: Probe, case: str) -> None:
    probability, words, message = BAD[case]
    done = probe(np.array(probability, np.float32), *words)
    assert done.returncode == 2 and done.stdout == b""
    assert done.stderr.decode().startswith(message)


@pytest.mark.skipif(not MONUSEG, reason="MSAL_DEPLOY_MONUSEG does not name a MoNuSeg copy")
def test_annotated_nuclei_get_the_labels_of_python(probe: Probe) -> None:
    for annotated in find_dataset(Path(MONUSEG or "")).train[:2]:
        probability = cv2.GaussianBlur((annotated.instances() > 0).astype(np.float32), (0, 0), 1.0)
        expected = separate(probability)
        assert expected.max() > 300
        np.testing.assert_array_equal(labels(probe, probability, 0.5, 0.25, Separation()), expected)
