"""Draw a field of view that looks like H&E tissue, with exactly known outlines of its nuclei.

All structures are drawn as amounts of stain, which the Beer-Lambert law turns into light. The stain vectors are between
those of Ruifrok and Johnston (2001) and Macenko (2009), with random jitter for each image. Sizes are in pixels at 40×
(0.25 µm per pixel).
"""

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from msal_deploy.data.polygons import Polygon, rasterise

Field = NDArray[np.float32]

HAEMATOXYLIN = (0.62, 0.71, 0.34)  # optical density of red, green and blue
EOSIN = (0.16, 0.87, 0.46)
AREA_PER_CANDIDATE = 330  # px²; about four in ten candidates find a free position
VERTEX_STEP = 1 / 16  # A binary fraction, so that writing and reading a vertex changes nothing.


class Kind(msgspec.Struct, frozen=True):
    """A kind of nucleus.

    Attributes:
        long: Mean long semi-axis in pixels.
        short: Mean short semi-axis in pixels.
        spread: Relative standard deviation of the semi-axes.
        stain: Amount of haematoxylin.
        contrast: Contrast of the chromatin texture.
    """

    long: float
    short: float
    spread: float
    stain: float
    contrast: float


EPITHELIAL = Kind(13.0, 10.0, 0.16, 0.46, 0.60)
LYMPHOCYTE = Kind(7.6, 6.8, 0.10, 0.85, 0.30)
FIBROBLAST = Kind(16.0, 4.6, 0.22, 0.66, 0.30)


class Nucleus(msgspec.Struct, frozen=True, eq=False):
    """One nucleus.

    Attributes:
        outline: float64[V,2], (x, y) in array coordinates.
        kind: The kind of nucleus.
        centre: (x, y) in array coordinates.
        radius: Mean radius in pixels.
        stain: Amount of haematoxylin.
    """

    outline: Polygon
    kind: Kind
    centre: tuple[float, float]
    radius: float
    stain: float


def draw_tissue(rng: np.random.Generator, size: int) -> tuple[NDArray[np.uint8], tuple[Polygon, ...]]:
    """Draw an image and return it with the outline of each nucleus.

    >>> image, outlines = draw_tissue(np.random.default_rng(0), 256)
    >>> image.shape, outlines[0].shape[1]
    ((256, 256, 3), 2)

    Args:
        rng: Source of all random numbers.
        size: Height and width in pixels.

    Returns:
        uint8[size,size,3] RGB and one float64[V,2] per nucleus. Where two nuclei overlap, the later one is on top.
    """
    flow = _noise(rng, size, 160)
    lumen = _smooth_step(_noise(rng, size, 75) + 0.5 * _noise(rng, size, 30), 1.45, 0.05)
    glands = _smooth_step(_noise(rng, size, 90) + 1.2 * ndimage.gaussian_filter(lumen, 25), 0.25, 0.3)
    nuclei = _place(rng, size, flow, glands, lumen)
    haematoxylin, eosin = _background(rng, flow, glands)
    _add_distractors(rng, haematoxylin, eosin)
    tissue = 1 - 0.97 * lumen
    haematoxylin, eosin = haematoxylin * tissue, eosin * tissue
    _add_nuclei(rng, nuclei, haematoxylin, eosin)
    return _light(rng, haematoxylin, eosin), tuple(nucleus.outline for nucleus in nuclei)


def _noise(rng: np.random.Generator, size: int, scale: float) -> Field:
    """Return smooth noise with mean 0 and standard deviation 1, with features about `scale` pixels wide."""
    if scale < 16:
        field = ndimage.gaussian_filter(rng.standard_normal((size, size), dtype=np.float32), scale / 2)
    else:  # Gaussian bumps on a coarse grid: the same result, much faster than a wide blur
        knots = np.arange(-8, 4 * size / scale + 8)
        bumps = np.exp(-0.5 * ((4 / scale * np.arange(size)[:, None] - knots) / 2) ** 2).astype(np.float32)
        field = bumps @ rng.standard_normal((len(knots), len(knots)), dtype=np.float32) @ bumps.T
    return np.asarray((field - field.mean()) / (field.std() + 1e-6), dtype=np.float32)


def _smooth_step(field: Field, edge: float, width: float) -> Field:
    return np.asarray(1 / (1 + np.exp(np.clip((edge - field) / width, -30, 30))), dtype=np.float32)


def _place(rng: np.random.Generator, size: int, flow: Field, glands: Field, lumen: Field) -> list[Nucleus]:
    """Scatter nuclei, densely in glands. They may touch and overlap a little, but none contains another."""
    along_y, along_x = np.gradient(ndimage.gaussian_filter(flow, 8))
    density = (0.25 + 0.75 * glands) * np.clip(0.6 + 0.5 * _noise(rng, size, 48), 0.05, None)
    placed: list[Nucleus] = []
    centres, radii = np.empty((0, 2)), np.empty(0)
    for _ in range(size * size // AREA_PER_CANDIDATE):
        x, y = rng.uniform(0, size, 2)
        row, column = int(y), int(x)
        if lumen[row, column] > 0.3 or rng.uniform() > density[row, column]:
            continue
        fibre = float(np.arctan2(-along_x[row, column], along_y[row, column]))
        nucleus = _nucleus(rng, (x, y), _kind(rng, glands[row, column]), fibre)
        distances = np.hypot(*(centres - (x, y)).T)
        if (distances < rng.uniform(0.6, 1.0) * (radii + nucleus.radius)).any():
            continue
        placed.append(nucleus)
        centres, radii = np.vstack([centres, (x, y)]), np.append(radii, nucleus.radius)
    return placed


def _kind(rng: np.random.Generator, gland: float) -> Kind:
    draw = rng.uniform()
    if gland > 0.5:
        return LYMPHOCYTE if draw < 0.08 else EPITHELIAL
    return FIBROBLAST if draw < 0.6 else LYMPHOCYTE if draw < 0.85 else EPITHELIAL


def _nucleus(rng: np.random.Generator, centre: tuple[float, float], kind: Kind, fibre: float) -> Nucleus:
    """Return an ellipse whose boundary is modulated by a few harmonics; a fibroblast is aligned with the fibres."""
    long, short = np.array([kind.long, kind.short]) * rng.normal(1, kind.spread, 2).clip(0.6, 1.5)
    turn = fibre + rng.normal(0, 0.2) if kind is FIBROBLAST else rng.uniform(0, np.pi)
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    swing = sum(rng.normal(0, 0.09 / k) * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in range(2, 7))
    x, y = (1 + swing) * long * np.cos(angle), (1 + swing) * short * np.sin(angle)
    outline = np.stack([x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)], axis=1) + centre
    outline = np.round(outline / VERTEX_STEP) * VERTEX_STEP
    return Nucleus(
        outline, kind, centre, float(np.sqrt(long * short)), kind.stain * float(np.clip(rng.normal(1, 0.15), 0.55, 1.5))
    )


def _background(rng: np.random.Generator, flow: Field, glands: Field) -> tuple[Field, Field]:
    """Return the stain of stroma (wavy fibres) and of the glands' cytoplasm (grainy, faintly blue)."""
    size = len(flow)
    phase = 45 * flow + 2.5 * _noise(rng, size, 14) + 1.2 * _noise(rng, size, 5)
    fibres = np.sin(phase) * (0.5 + 0.5 * np.tanh(_noise(rng, size, 40)))
    grain = _noise(rng, size, 3)
    stroma = 0.25 + 0.06 * fibres + 0.03 * grain + 0.05 * _noise(rng, size, 60)
    cytoplasm = 0.22 + 0.03 * _noise(rng, size, 8) + 0.03 * grain
    eosin = (1 - glands) * stroma + glands * cytoplasm
    # Clefts between bundles of fibres are nearly transparent.
    clefts = (1 - glands) * _smooth_step(np.sin(phase / 3 + 1) + 0.5 * _noise(rng, size, 20), 1.35, 0.08)
    eosin = eosin * (1 - 0.8 * clefts)
    haematoxylin = 0.03 + 0.10 * glands + 0.02 * _noise(rng, size, 25) + 0.012 * grain
    return np.clip(haematoxylin * (1 - 0.7 * clefts), 0, None), np.clip(eosin, 0.02, None)


def _add_distractors(rng: np.random.Generator, haematoxylin: Field, eosin: Field) -> None:
    """Add structures that are not annotated: heaps of red cells, and nuclei too far out of focus to outline."""
    size = len(eosin)
    cells = np.zeros_like(eosin)
    for _ in range(max(1, size * size // 250_000)):
        heap = rng.uniform(0, size, 2)
        for x, y in rng.normal(heap, 22, (int(rng.integers(8, 26)), 2)):
            _dab(cells, x, y, 5.5 + rng.normal(0, 0.5), 1.0)
    eosin += 0.30 * np.clip(cells, 0, 1)
    for x, y in rng.uniform(0, size, (max(2, size * size // 40_000), 2)):
        _dab(haematoxylin, x, y, rng.uniform(7, 13), rng.uniform(0.05, 0.14), soft=4.0)


def _dab(field: Field, x: float, y: float, radius: float, amount: float, soft: float = 0.7) -> None:
    """Add a disc with a soft edge to `field`, in place."""
    reach = int(radius + 4 * soft) + 1
    top, left = max(int(y) - reach, 0), max(int(x) - reach, 0)
    window = field[top : max(int(y) + reach, 0), left : max(int(x) + reach, 0)]
    yy, xx = np.ogrid[top : top + window.shape[0], left : left + window.shape[1]]
    window += (amount / (1 + np.exp((np.hypot(yy - y, xx - x) - radius) / soft))).astype(np.float32)


def _add_nuclei(rng: np.random.Generator, nuclei: list[Nucleus], haematoxylin: Field, eosin: Field) -> None:
    """Stain the nuclei in place: chromatin, a dark membrane, and nucleoli in epithelial nuclei."""
    size = len(eosin)
    instances = rasterise((nucleus.outline for nucleus in nuclei), (size, size))
    stain = np.array([0.0, *(nucleus.stain for nucleus in nuclei)], dtype=np.float32)[instances]
    contrast = np.array([0.0, *(nucleus.kind.contrast for nucleus in nuclei)], dtype=np.float32)[instances]
    inner = (instances > 0) & (ndimage.grey_erosion(instances, 3) == ndimage.grey_dilation(instances, 3))
    membrane = np.exp(-ndimage.distance_transform_edt(inner) / 1.3)
    chromatin = 0.7 * _noise(rng, size, 4) + 0.5 * _noise(rng, size, 9)
    amount = stain * (1 + contrast * (0.55 * chromatin + 0.9 * membrane - 0.2))
    for nucleus in nuclei:
        if nucleus.kind is EPITHELIAL and rng.uniform() < 0.6:
            x, y = nucleus.centre + rng.normal(0, 0.25 * nucleus.radius, 2)
            _dab(amount, x, y, rng.uniform(1.3, 2.4), 0.35, soft=0.5)
    inside = instances > 0
    haematoxylin[inside] = np.clip(amount, 0.12, None)[inside] + 0.3 * haematoxylin[inside]
    eosin[inside] *= 0.45


def _light(rng: np.random.Generator, haematoxylin: Field, eosin: Field) -> NDArray[np.uint8]:
    """Turn stain into light, blur it like an image slightly out of focus, and add sensor noise."""
    vectors = np.clip(np.array([HAEMATOXYLIN, EOSIN]) + rng.normal(0, 0.03, (2, 3)), 0.02, None)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    strength = rng.normal(1, 0.15, 2).clip(0.65, 1.4)
    density = np.stack([haematoxylin, eosin], axis=-1) @ (vectors * strength[:, None]).astype(np.float32)
    light = rng.uniform(236, 248) * 10**-density
    blur = rng.uniform(0.6, 1.2)
    light = ndimage.gaussian_filter(light, (blur, blur, 0))
    light += rng.normal(0, rng.uniform(1.5, 3.5), light.shape)
    return np.asarray(np.clip(np.round(light), 0, 255), dtype=np.uint8)
