"""Name the likely cause when an engine's output is far from the reference's: channels, normalisation or a shift.

A cause is named only if most of the difference is gone without it, and the sentence has both differences.
"""

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from msal_deploy.errors import BadInput
from msal_deploy.graph import load_graph
from msal_deploy.runtimes import CATALOGUE, Engine
from msal_deploy.spec import Float32Maps, ModelSpec, UInt8Images
from msal_deploy.validate.precision_check import COMPUTED_FROM
from msal_deploy.validate.probe import Probe, each_alone

# Share of the difference that may remain. Of the mean |Δp| of MSAL-Net/R34 in INT8 on three MoNuSeg training images,
# there remained: 0.01 to 0.08 of that of swapped channels; 0.27 to 0.41 of that of an output shifted by half a pixel;
# 0.54 to 0.66 of that of an image shifted by half a pixel, which also blurs it. Without a fault, shifts multiply it by
# 3 to 5.
EXPLAINED = 0.7
SHIFTS = (0.0, 0.5, -0.5, 1.0, -1.0)  # px
TILES = 2  # of the probe; each cause costs that many


def diagnose(engine: Engine, probe: Probe) -> str | None:
    """Return a sentence with the likely cause of an open engine's difference from the reference; None if none is found.

    >>> from pathlib import Path
    >>> from msal_deploy.bundle import Bundle
    >>> from msal_deploy.runtimes import open_engine
    >>> from msal_deploy.validate.probe import probe_reference
    >>> tiles = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), np.uint8)
    >>> with open_engine(Bundle(Path("bundle")), "onnxruntime:fp32") as engine:
    ...     print(diagnose(engine, probe_reference(engine, tiles)))
    None

    Args:
        engine: The open engine.
        probe: Tiles and the reference's outputs for them. Two of the tiles are computed for each possible cause.
    """
    tiles, expected = probe.tiles[:TILES], probe.expected[:TILES]
    found = each_alone(engine, tiles)
    before = _gap(found, expected)
    for after, sentence in _causes(engine, tiles, found, expected):
        if after < EXPLAINED * before:
            return f"{sentence} (mean |Δp| {after:.2g} instead of {before:.2g})"
    return None


def _causes(
    engine: Engine, tiles: UInt8Images, found: Float32Maps, expected: Float32Maps
) -> Iterator[tuple[float, str]]:
    """Yield the difference that remains without each cause, and the sentence that names it."""
    swapped = each_alone(engine, np.ascontiguousarray(tiles[..., ::-1]))
    yield _gap(swapped, expected), "Its output agrees with the reference's when red and blue are swapped"
    yield _closest_shift(found, expected)
    for scale, what in ((255.0, "normalised"), (1.0, "normalised by mean and standard deviation")):
        if (output := _normalised_output(engine, tiles, scale)) is not None:
            yield _gap(output, expected), f"Its output agrees with the reference's when its input is {what} first"


def _gap(one: Float32Maps, other: Float32Maps) -> float:
    with np.errstate(invalid="ignore"):  # Inf − Inf
        return float(np.abs(one - other).mean(dtype=float))


def _closest_shift(found: Float32Maps, expected: Float32Maps) -> tuple[float, str]:
    """Return the smallest difference from the reference's output shifted by up to 1 px, and its sentence."""
    shifts = [(dy, dx) for dy in SHIFTS for dx in SHIFTS if (dy, dx) != (0, 0)]
    gaps = [_gap(found, np.stack([shifted(p, dy, dx) for p in expected])) for dy, dx in shifts]
    best = int(np.argmin(gaps))
    return gaps[best], f"Its output is closest to the reference's shifted {_direction(*shifts[best])}"


def shifted(image: NDArray[np.float32], dy: float, dx: float) -> NDArray[np.float32]:
    """Return float32[H,W] moved down by `dy` and to the right by `dx` pixels, with bilinear interpolation.

    >>> shifted(np.float32([[0, 4, 0, 0]]), 0, 0.5).tolist()
    [[0.0, 2.0, 2.0, 0.0]]
    """
    height, width = image.shape
    motion = np.array([[1, 0, dx], [0, 1, dy]], np.float64)
    return np.asarray(cv2.warpAffine(image, motion, (width, height), borderMode=cv2.BORDER_REPLICATE), np.float32)


def _direction(dy: float, dx: float) -> str:
    """Return such as ``0.5 px up and 1 px to the right``."""
    vertical = f"{abs(dy):g} px {'down' if dy > 0 else 'up'}" if dy else ""
    horizontal = f"{abs(dx):g} px to the {'right' if dx > 0 else 'left'}" if dx else ""
    return " and ".join(filter(None, (vertical, horizontal)))


def _normalised_output(engine: Engine, tiles: UInt8Images, scale: float) -> Float32Maps | None:
    """Run the engine's graph with a normalisation before it; None if the engine has no graph with a Cast.

    The integers of an image cannot hold normalised intensities, so the engine itself cannot be asked.
    """
    from onnxruntime import InferenceSession

    model = _graph_of(engine)
    if model is None or not prepend_normalisation(model, engine.spec, scale):
        return None
    session = InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    outputs = (session.run([engine.spec.probability.name], {engine.spec.image.name: tile[None]}) for tile in tiles)
    return np.concatenate([probability for (probability,) in outputs])[:, 0]


def _graph_of(engine: Engine) -> onnx.ModelProto | None:
    """Return the graph that an engine runs, or that its plan was built from; None if it has none."""
    runtime = CATALOGUE.get(engine.runtime)
    if runtime is None or runtime.opens == "checkpoint" or runtime.device == "server":
        return None
    try:
        return load_graph(engine.bundle.graph(COMPUTED_FROM.get(engine.precision, engine.precision), engine.runtime))
    except BadInput:
        return None


def prepend_normalisation(model: onnx.ModelProto, spec: ModelSpec, scale: float = 255.0) -> bool:
    """Subtract the mean and divide by the standard deviation behind the cast of the input; return whether there is one.

    >>> from pathlib import Path
    >>> model = load_graph(Path("bundle/model.fp32.onnx"))
    >>> prepend_normalisation(model, ModelSpec())
    True
    >>> [node.op_type for node in model.graph.node[:4]]
    ['Cast', 'Sub', 'Div', 'Transpose']

    Args:
        model: The graph; changed in place.
        spec: Its specification, with mean and standard deviation for intensities from 0 to 1.
        scale: What the intensities are divided by, too; 1 if the graph does so itself.
    """
    nodes = list(model.graph.node)
    index = next((k for k, n in enumerate(nodes) if n.op_type == "Cast" and n.input[0] == spec.image.name), None)
    if index is None:
        return False
    cast = nodes[index]
    kind = helper.tensor_dtype_to_np_dtype(helper.get_node_attr_value(cast, "to"))
    mean, spread = (np.array(values) * factor for values, factor in ((spec.mean, 255), (spec.std, scale)))
    output = cast.output.pop()
    cast.output.append("diagnose/cast")
    added: list[Any] = [
        helper.make_node("Sub", ["diagnose/cast", "diagnose/mean"], ["diagnose/centred"]),
        helper.make_node("Div", ["diagnose/centred", "diagnose/std"], [output]),
    ]
    constants = (("diagnose/mean", mean), ("diagnose/std", spread))
    model.graph.initializer.extend(numpy_helper.from_array(value.astype(kind), name) for name, value in constants)
    del model.graph.node[:]
    model.graph.node.extend([*nodes[: index + 1], *added, *nodes[index + 1 :]])
    return True
