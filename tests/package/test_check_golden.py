"""check_golden.py, run by a Python with only numpy, as integrations run it."""

import ast
import io
import json
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from msal_deploy.package import check_golden
from msal_deploy.package.golden import TOLERANCES

SHAPE = (2, 1, 32, 64)


@pytest.fixture(scope="module")
def expected() -> np.ndarray:
    return np.random.default_rng(0).uniform(0.05, 0.95, SHAPE).astype(np.float32)


@pytest.fixture
def golden(expected: np.ndarray, tmp_path: Path) -> Path:
    folder = tmp_path / "golden"
    folder.mkdir()
    tolerances = {precision: TOLERANCES[precision] for precision in ("fp32", "int8")}
    (folder / "golden.json").write_text(json.dumps({"threshold": 0.5, "tolerances": tolerances}))
    for precision in ("fp32", "int8"):
        np.save(folder / f"probability.{precision}.npy", expected)
    return folder


@pytest.fixture
def check(golden: Path, tmp_path: Path, plain_python: Path):
    """Run the script on files, and return its exit code and output."""

    def check(*results: object, precision: str = "fp32") -> tuple[int, str]:
        words = [plain_python / "python3", check_golden.__file__, golden, *results, "--precision", precision]
        done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False, cwd=tmp_path)
        return done.returncode, done.stdout + done.stderr

    return check


def png(mask: np.ndarray, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(mask).save(stream, "PNG", **options)
    return stream.getvalue()


def test_plain_python_has_only_numpy(plain_python):
    code = "import numpy\ntry:\n import msgspec\nexcept ImportError: print('alone')"
    assert subprocess.check_output([plain_python / "python3", "-c", code], text=True) == "alone\n"


def test_script_is_valid_python_3_9():
    ast.parse(Path(check_golden.__file__).read_text(), feature_version=(3, 9))


def test_equal_values_pass_in_every_format(check, expected, tmp_path):
    np.save(tmp_path / "all.npy", expected)
    np.save(tmp_path / "no-channel.npy", expected[:, 0])
    expected.tofile(tmp_path / "all.f32")
    for index in range(2):
        np.save(tmp_path / f"{index}.npy", expected[index, 0])
        expected[index].tofile(tmp_path / f"{index}.raw")
    values = ", ".join(f"{value:g}" for value in expected.ravel())
    (tmp_path / "trtexec.json").write_text(f'[ {{"name": "p", "dimensions": "2x1x32x64", "values": [ {values} ] }} ]')
    for files in (
        ["all.npy"],
        ["no-channel.npy"],
        ["all.f32"],
        ["0.npy", "1.npy"],
        ["0.raw", "1.raw"],
        ["trtexec.json"],
    ):
        assert check(*files) == (0, check(*files)[1]), files
        assert check(*files)[1].startswith("passed: largest |dp| ")


@pytest.mark.parametrize("encoding", [{}, {"compress_level": 0}, {"optimize": True}])
def test_png_masks(check, expected, tmp_path, encoding):
    for index in range(2):
        mask = np.where(expected[index, 0] >= 0.5, 255, 0).astype(np.uint8)
        (tmp_path / f"{index}.png").write_bytes(png(mask, **encoding))
    assert check("0.png", "1.png") == (0, "passed: flipped pixels 0.0000%, in the worst window 0.00%\n")
    code, output = check("1.png", "0.png")
    assert code == 1
    assert output.startswith("FAILED: flipped pixels")


@pytest.mark.parametrize("kind", range(5))
def test_png_filters(kind, tmp_path):
    """The rows are filtered with the formulas of the standard, the inverse of what the reader does."""
    image = np.random.default_rng(kind).integers(0, 256, (7, 9), np.uint8)
    padded = np.pad(image.astype(int), ((1, 0), (1, 0)))
    left, up, corner = padded[1:, :-1], padded[:-1, 1:], padded[:-1, :-1]
    distances = np.stack([np.abs(up - corner), np.abs(left - corner), np.abs(left + up - 2 * corner)])
    paeth = np.choose(distances.argmin(0), [left, up, corner])
    guess = [0, left, up, (left + up) // 2, paeth][kind]
    rows = np.concatenate([np.full((7, 1), kind), (padded[1:, 1:] - guess) % 256], axis=1).astype(np.uint8)
    header = b"\x00\x00\x00\x09\x00\x00\x00\x07\x08\x00\x00\x00\x00"
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes())), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        len(body).to_bytes(4, "big") + name + body + zlib.crc32(name + body).to_bytes(4, "big") for name, body in chunks
    )
    (tmp_path / "x.png").write_bytes(data)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "x.png")), image)  # the test's own encoder is right
    np.testing.assert_array_equal(check_golden._read_png(tmp_path / "x.png"), image)


def test_each_tolerance_is_checked(check, expected, tmp_path):
    def code(changed: np.ndarray, precision: str = "fp32") -> int:
        np.save(tmp_path / "x.npy", changed.astype(np.float32))
        return check("x.npy", precision=precision)[0]

    one = expected.copy()
    one[0, 0, 0, 0] += 2e-4  # one pixel: largest
    assert (code(one), code(one, "int8")) == (1, 0)
    assert (code(expected + 2e-5), code(expected + 2e-5, "int8")) == (1, 0)  # mean
    crossing = np.where(np.abs(expected - 0.5) < 0.02, 1 - expected, expected)  # flipped
    assert np.abs(crossing - expected).max() < 0.3
    assert np.abs(crossing - expected).mean() < 0.01
    assert code(crossing, "int8") == 1


def planted(shape: str) -> np.ndarray:
    """Return bool[2,1,256,256] with 1% of the pixels set: 1,311 of 131,072."""
    mask = np.zeros((2, 1, 256, 256), bool)
    if shape == "block":
        mask[1, 0, 101:137, 77:113] = True  # 36 × 36
    elif shape == "rows":
        mask[0, 0, 128:133] = mask[0, 0, 133, :31] = True
    else:
        mask.flat[np.random.default_rng(1).choice(mask.size, 1311, replace=False)] = True
    return mask


@pytest.mark.parametrize("shape", ["block", "rows", "scattered"])
def test_a_fault_in_one_percent_of_the_pixels_fails(golden, check, tmp_path, shape):
    """The rest differs as two runtimes differ in INT8: mean |Δp| 0.0086, 99.5% of the pixels within 0.13."""
    random = np.random.default_rng(0)
    expected = random.uniform(0.35, 0.65, (2, 1, 256, 256)).astype(np.float32)
    noise = np.clip(random.standard_t(1.5, expected.shape) * 0.003, -0.2, 0.2)
    genuine = (expected + noise).astype(np.float32)
    np.save(golden / "probability.int8.npy", expected)
    np.save(tmp_path / "genuine.npy", genuine)
    fault = planted(shape)
    assert fault.mean() == pytest.approx(0.01, rel=0.02)
    np.save(tmp_path / "faulty.npy", np.where(fault, expected + 0.25, genuine).astype(np.float32))
    code, output = check("faulty.npy", precision="int8")
    measured, good = check_golden.compare(golden, [tmp_path / "faulty.npy"], "int8")
    assert (code, good) == (1, False), output
    assert output.startswith("FAILED: ")
    over = {name for name in measured if measured[name] > TOLERANCES["int8"][name]}
    assert {"block": {"most", "window", "flipped_window"}, "rows": {"most"}, "scattered": {"most"}}[shape] <= over
    assert not over & {"largest", "mean"}  # which let it pass
    assert check_golden.differences(genuine, expected, 0.5)["most"] <= TOLERANCES["int8"]["most"]


def test_a_hole_in_a_mask_fails(golden, check, expected, tmp_path):
    """One nucleus of 30 × 30 px is missing: 0.7% of the pixels, which the limit of 1% alone let pass."""
    probability = np.full((2, 1, 256, 256), 0.1, np.float32)
    probability[0, 0, 20:50, 40:70] = 0.9
    np.save(golden / "probability.int8.npy", probability)
    for index in range(2):
        whole = np.where(probability[index, 0] >= 0.5, 255, 0).astype(np.uint8)
        (tmp_path / f"whole-{index}.png").write_bytes(png(whole))
        (tmp_path / f"hole-{index}.png").write_bytes(png(whole * 0))
    assert check("whole-0.png", "whole-1.png", precision="int8")[0] == 0
    code, output = check("hole-0.png", "hole-1.png", precision="int8")
    assert (code, output) == (1, "FAILED: flipped pixels 0.6866%, in the worst window 87.89%\n")


def test_worst_window_is_the_brute_force_one():
    values = np.random.default_rng(0).uniform(0, 1, (2, 1, 9, 12))
    brute = max(values[n, 0, y : y + 4, x : x + 4].mean() for n in range(2) for y in range(6) for x in range(9))
    assert check_golden.worst_window(values, side=4) == pytest.approx(brute, rel=1e-12)
    assert check_golden.worst_window(values, side=32) == pytest.approx(values.mean((2, 3)).max(), rel=1e-12)


def test_nan_and_inf_never_pass(check, expected, tmp_path):
    for value in (np.nan, np.inf):
        changed = expected.copy()
        changed[1, 0, 3, 3] = value
        np.save(tmp_path / "x.npy", changed)
        assert check("x.npy", precision="int8")[0] == 1
    text = ", ".join(["nan", "-nan", "inf", "-inf", *(f"{value:g}" for value in expected.ravel()[4:])])
    (tmp_path / "x.json").write_text(f'[{{"name": "p", "dimensions": "2x1x32x64", "values": [{text}]}}]')
    assert check("x.json", precision="int8")[0] == 1


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        (None, "x.npy", "x.npy cannot be read"),
        (b"", "x.npy", "x.npy cannot be read"),
        (b"no array", "x.npy", "x.npy cannot be read"),
        (b"12345", "x.raw", "not a multiple of 4 bytes"),
        (b"1234", "x.raw", "got 1 values in 1 files"),
        (b"{}", "x.json", "it is not the output of trtexec"),
        (b"[", "x.json", "x.json cannot be read"),
        (b"GIF89a", "x.png", "x.png cannot be read"),
        (png(np.zeros((32, 64, 3), np.uint8)), "x.png", "8-bit greyscale"),
        (png(np.zeros((32, 64), np.uint8))[:-30], "x.png", "x.png cannot be read"),
    ],
)
def test_unreadable_files_are_reported_in_one_line(check, tmp_path, content, name, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    code, output = check(name)
    assert code == 2
    assert output.startswith("Error: ")
    assert words in output
    assert output.count("\n") == 1


def test_wrong_shapes_and_too_few_files_are_rejected(check, expected, tmp_path):
    np.save(tmp_path / "turned.npy", expected.transpose(0, 1, 3, 2))
    assert check("turned.npy")[0] == 2
    np.save(tmp_path / "0.npy", expected[0])
    assert "Expected 2 tiles of 32 x 64 pixels" in check("0.npy")[1]


def test_npz_archives_are_rejected(check, expected, tmp_path):
    np.savez(tmp_path / "x.npz", expected)
    (tmp_path / "x.npz").rename(tmp_path / "x.npy")
    assert check("x.npy")[0] == 2


def test_missing_precision_and_missing_tiles_are_rejected(check, golden, tmp_path):
    (tmp_path / "x.npy").write_bytes(b"")
    assert check("x.npy", precision="fp16") == (
        2,
        f"Error: {golden} has no fp16 probabilities; choose from: fp32, int8\n",
    )
    (golden / "golden.json").unlink()
    code, output = check("x.npy")
    assert code == 2
    assert "is not a folder of golden tiles" in output
