"""Checks of an engine that need no labels: does it compute the same in a batch, in a larger image, and again?

Each check compares outputs for the same pixels, and reports the largest difference in probability with its position.

=============  ==========================================================================================
`batch`        each tile alone against the same tile in a row of a batch, at each point of a plan's profile
`crop`         a tile against the same pixels inside an image of twice its height and width
`repeat`       the same tile twice
`rebuild`      two builds of a plan, or a graph opened twice
`precision`    the precision in an engine's name against that of its graph or plan
=============  ==========================================================================================
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from msal_deploy.runtimes import CATALOGUE, Engine
from msal_deploy.spec import Axis, Float32Maps, UInt8Images
from msal_deploy.trt.plan_metadata import Shape, format_shape
from msal_deploy.validate.probe import Probe, alone, each_alone, min_batch, mosaic, quadrants, rows

QUADRANTS = ("top left", "top right", "bottom left", "bottom right")

# Largest |Δp| between two computations of the same pixels. Measured with MSAL-Net/R34 on MoNuSeg's training tiles of
# 512², alone and in batches of 2 and 4, and opened twice: 0 for ONNX Runtime (FP32, FP16, INT8) and OpenVINO (FP32,
# BF16, INT8); PyTorch 7e-7 in a batch, 0 when repeated or opened twice. A wrong row differs by 0.9 or more. A plan
# may use other kernels for another batch size, so on a GPU FP16 and INT8 may differ by as much as two hosts may: see
# `package.golden`.
TOLERANCES = {"fp32": 1e-4, "fp16": 0.05, "int8": 0.3}
CPU_TOLERANCE = 0.05

# The network's result for a crop is not that of the same pixels in a larger image: channel attention averages over the
# image, and convolutions see zeros beyond its edge (FP32, 512 px in 1024: 0.004 to 0.010 in the mean, 0.9 at the edge).
# So what is compared is the engine's difference from the reference, at both sizes. It is noise of the rounding, which
# is another one at each size: the mean change was 0.8 to 1.1 times the difference itself for INT8 on five training
# images, and below the floor for the other engines (FP32 4e-7, FP16 1e-4, BF16 8e-4). A shift by half a pixel at one
# size changed it by 0.008 to 0.017, which is 3.1 to 5.6 times INT8's difference.
CROP_FACTOR = 2
CROP_FLOOR = {"fp32": 1e-5}
CROP_FLOOR_OTHER = 1e-3

CheckName = Literal["batch", "crop", "repeat", "rebuild", "precision"]


class Check(msgspec.Struct, frozen=True):
    """The result of one check.

    Attributes:
        name: What was checked; see the module.
        passed: Whether the difference is within the tolerance.
        text: One sentence: what was compared and how far it is apart, or what failed and where.
        max_abs_difference: Largest difference in probability, from 0 to 1; None if none was measured.
        tolerance: Largest acceptable `max_abs_difference`; None if it does not decide.
        position: Where the difference is largest, such as ``row 3 of a batch of 4``; rows are counted from 1.
        mean_abs_difference: Mean difference in probability, where that decides (`crop`); else None.
        mean_tolerance: Largest acceptable `mean_abs_difference`; None if it does not decide.
    """

    name: CheckName
    passed: bool
    text: str
    max_abs_difference: float | None = None
    tolerance: float | None = None
    position: str = ""
    mean_abs_difference: float | None = None
    mean_tolerance: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return JSON types; a number that is not finite is null.

        >>> Check("repeat", False, "The same tile twice: NaN", math.nan, 0.0).to_json()["max_abs_difference"]
        """
        fields = msgspec.structs.asdict(self)
        return {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in fields.items()}


def tolerance(engine: Engine) -> float:
    """Return the largest acceptable |Δp| between two computations of the same pixels, by the engine's precision.

    >>> from msal_deploy.bundle import Bundle
    >>> from msal_deploy.runtimes import open_engine
    >>> tolerance(open_engine(Bundle("bundle"), "openvino:fp32"))
    0.0001
    """
    limit = TOLERANCES.get(engine.precision, max(TOLERANCES.values()))  # a server does not name it
    return min(limit, CPU_TOLERANCE) if _device(engine) == "cpu" and not _is_cast(engine) else limit


def check_engine(engine: Engine, probe: Probe) -> tuple[Check, ...]:
    """Check an open engine in batches, in a larger image, and with the same input twice.

    It computes 13 tiles: each of the four alone, all in one batch, all side by side, and the first one again. A plan
    also computes a batch at each point of its profile.

    >>> from pathlib import Path
    >>> from msal_deploy.bundle import Bundle
    >>> from msal_deploy.runtimes import open_engine
    >>> from msal_deploy.validate.probe import probe_reference
    >>> bundle, tiles = Bundle(Path("bundle")), np.zeros((4, 64, 64, 3), np.uint8)
    >>> with open_engine(bundle, "onnxruntime:fp32") as reference:
    ...     probe = probe_reference(reference, tiles)
    >>> with open_engine(bundle, "onnxruntime:int8") as engine:
    ...     [(check.name, check.passed) for check in check_engine(engine, probe)]
    [('batch', True), ('crop', True), ('repeat', True)]

    Args:
        engine: The open engine.
        probe: Tiles and the reference's outputs for them; see `probe_reference`.
    """
    single = each_alone(engine, probe.tiles)
    return (
        *(_check_batch(engine, batch, before) for batch, before in _batches(engine, probe.tiles, single)),
        _check_crop(engine, probe, single),
        _check_repeat(engine, probe.tiles[0], single[0]),
    )


def compare_builds(first: Engine, second: Engine, tiles: UInt8Images) -> Check:
    """Compare two builds of a plan, or two openings of a graph. The engines are opened one after the other.

    >>> from pathlib import Path
    >>> from msal_deploy.bundle import Bundle
    >>> from msal_deploy.runtimes import open_engine
    >>> engines = [open_engine(Bundle(Path("bundle")), "onnxruntime:fp32") for _ in range(2)]
    >>> compare_builds(*engines, np.zeros((4, 64, 64, 3), np.uint8)).text
    'onnxruntime:fp32 opened twice: at most 0 apart'

    Args:
        first: An engine that is not open.
        second: The same engine of another bundle, or another engine of the same one.
        tiles: uint8[K,H,W,3].
    """
    with first:
        outputs = each_alone(first, tiles)
    with second:
        apart = _apart(each_alone(second, tiles), outputs)
    again = first.bundle.path == second.bundle.path
    what = f"{first.id} opened twice" if again else f"Two builds of {first.id}"
    return _judge("rebuild", what, apart, [f"tile {k}" for k in range(1, len(tiles) + 1)], tolerance(first))


def _batches(engine: Engine, tiles: UInt8Images, single: Float32Maps) -> Iterator[tuple[UInt8Images, Float32Maps]]:
    """Yield batches and the outputs of their rows alone: the tiles, then each point of the plan's profile."""
    count, height, width = tiles.shape[:3]
    points = (engine.profile.min, engine.profile.opt, engine.profile.max) if engine.profile else ()
    for shape in dict.fromkeys(((max(count, min_batch(engine)), height, width), *points)):
        batch = rows(tiles, shape)
        yield batch, single if shape == tiles.shape[:3] else each_alone(engine, batch)


def _device(engine: Engine) -> str:
    return CATALOGUE[engine.runtime].device if engine.runtime in CATALOGUE else "cpu"


def _uses_cudnn(engine: Engine) -> bool:
    runtime = CATALOGUE.get(engine.runtime)
    return runtime is not None and (runtime.device, runtime.opens) == ("gpu", "graph")


def _is_cast(engine: Engine) -> bool:
    """Return whether the engine casts a checkpoint to another type: its kernels, and so its rounding, vary by shape."""
    runtime = CATALOGUE.get(engine.runtime)
    return runtime is not None and runtime.opens == "checkpoint" and engine.precision != "fp32"


def _takes(engine: Engine, shape: Shape) -> bool:
    """Return whether the engine computes images of `shape` (N, H, W)."""
    axes = zip(engine.spec.image.axes, shape, strict=False)
    fits = all(axis.minimum <= n <= axis.maximum if isinstance(axis, Axis) else n == axis for axis, n in axes)
    return fits and (engine.profile is None or engine.profile.accepts(shape))


def _check_batch(engine: Engine, batch: UInt8Images, single: Float32Maps) -> Check:
    """Compare each row of a batch with the same tile alone."""
    together, limit = engine(batch)[:, 0], tolerance(engine)
    count, height, width = single.shape
    apart = _apart(together, single)
    what = f"Each tile alone and in a batch of {format_shape((count, height, width))}"
    positions = [f"row {row} of a batch of {count}" for row in range(1, count + 1)]
    check = _judge("batch", what, apart, positions, limit)
    taken = [_source(row, together[row], single, limit) for row in range(count) if not apart[row] <= limit]
    return msgspec.structs.replace(check, text="".join((check.text, *taken)))


def _source(row: int, found: Float32Maps, single: Float32Maps, limit: float) -> str:
    """Say whose result a wrong row of a batch is; nothing if it is no other row's."""
    same = [other for other, apart in enumerate(_apart(single, found[None])) if apart <= limit]
    return f"; row {row + 1} has the result of row {same[0] + 1}" if same else ""


def _check_crop(engine: Engine, probe: Probe, single: Float32Maps) -> Check:
    """Compare the engine's difference from the reference for each tile alone with that inside the larger image."""
    _, height, width = shape = (min_batch(engine), 2 * single.shape[1], 2 * single.shape[2])
    what = f"Tiles of {width // 2}×{height // 2} px against the same pixels in an image of {width}×{height} px"
    if not _takes(engine, shape):
        return Check("crop", True, f"{what}: not checked, because {engine.id} does not take images of that size")
    with np.errstate(invalid="ignore"):  # Inf − Inf
        in_whole = quadrants(alone(engine, mosaic(probe.tiles)) - probe.expected_whole)
        by_itself = single - probe.expected
        change = np.abs(in_whole - by_itself)
    means = change.mean(axis=(1, 2), dtype=float)
    noise = min(float(np.abs(part).mean(dtype=float)) for part in (in_whole, by_itself))
    limit = max(CROP_FACTOR * noise, CROP_FLOOR.get(engine.precision, CROP_FLOOR_OTHER))
    mean, worst = float(means.mean()), int(np.argmax(means))
    passed, position = mean <= limit, f"{QUADRANTS[worst]} tile"
    measured = f"the difference from the reference changes by {mean:.2g} in the mean (tolerance {limit:.2g})"
    text = f"{what}: {measured}" + ("" if passed else f", most in the {position}")
    return Check("crop", passed, text, float(change.max()), None, position, mean, limit)


def _check_repeat(engine: Engine, tile: UInt8Images, before: Float32Maps) -> Check:
    """Compute a tile again. The same bits are expected, except from cuDNN, and from a server, which may batch requests.

    ONNX Runtime's CUDA provider computed the same tile up to 6e-7 apart in FP32, in 30 repetitions on an H200: some of
    cuDNN's kernels add in any order.
    """
    apart = _apart(alone(engine, tile)[None], before[None])
    limit = tolerance(engine) if _device(engine) == "server" or _uses_cudnn(engine) else 0.0
    return _judge("repeat", "The same tile twice", apart, ["tile 1"], limit)


def _apart(one: Float32Maps, other: Float32Maps) -> NDArray[np.float32]:
    """Return the largest absolute difference of each of K maps, float32[K]; NaN if any is."""
    with np.errstate(invalid="ignore"):  # Inf − Inf
        return np.asarray(np.abs(one - other).max(axis=(1, 2)))


def _judge(
    name: CheckName, what: str, apart: NDArray[np.floating[Any]], positions: Sequence[str], limit: float
) -> Check:
    """Return the check for K differences at K positions, which may be NaN."""
    worst = int(np.argmax(apart))  # the first NaN, if there is one
    largest = float(apart[worst])
    failed = [position for position, difference in zip(positions, apart, strict=True) if not difference <= limit]
    if not failed:
        return Check(name, True, f"{what}: at most {largest:.2g} apart", largest, limit, positions[worst])
    text = f"{what}: {largest:.2g} apart at {', '.join(failed)} (tolerance {limit:g})"
    return Check(name, False, text, largest, limit, positions[worst])
