"""Labels and stacks of images that are saved as arrays: NumPy's ``.npy`` and ``.npz``, MATLAB's ``.mat``.

Nothing in them is executed: NumPy's files are read without pickle, and MATLAB's hold numbers only.
"""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msal_deploy.errors import BadInput
from msal_deploy.files import regular_file

ARRAY_SUFFIXES = (".npy", ".npz", ".mat")
KEYS = ("inst_map", "instance_map", "instances", "labels", "label", "masks", "mask", "arr_0")
MAX_PIXELS = 178_956_970  # Pillow's limit, for label maps in other formats too
MAX_MEMBER = 8 * MAX_PIXELS + 10_000  # bytes of an array of that many pixels, with its header
HDF5 = b"\x89HDF"


def read_array(path: Path) -> NDArray[np.int64]:
    """Read a label map that is saved as an array.

    Of several arrays in one file, it is the one called ``inst_map`` (CoNSeP), ``labels``, ``mask`` or similar; a single
    one may have any name.

    >>> np.savez("a.npz", inst_map=np.array([[0, 7], [7, 0]]), inst_type=np.array([1]))
    >>> read_array(Path("a.npz"))
    array([[0, 7],
           [7, 0]])

    Returns:
        int64[H,W].

    Raises:
        BadInput: The file is damaged, holds Python objects or no label map, or is MATLAB's v7.3.
    """
    regular_file(path, "label map")
    readers = {".npy": _open_npy, ".npz": _from_npz, ".mat": _from_mat}
    try:
        values = np.squeeze(readers[path.suffix.lower()](path))
        if values.ndim == 2 and values.size <= MAX_PIXELS and values.dtype.kind in "buif":
            return _whole_numbers(values, path)
    except BadInput:
        raise
    except Exception as error:  # the readers raise many exception types for damaged files
        raise BadInput(f"{path} is damaged, or holds Python objects ({_first_line(error)})", "save it again") from error
    raise BadInput(
        f"{path} holds {values.dtype}, shape {values.shape}, not a label map", "save integers of shape H × W"
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


def _whole_numbers(values: NDArray[Any], path: Path) -> NDArray[np.int64]:
    if values.dtype.kind == "f":
        if not (np.isfinite(values).all() and (values == np.rint(values)).all()):
            raise BadInput(f"{path} holds fractions, not labels", "save an instance map (one value per nucleus)")
        if values.size and np.abs(values).max() >= 2**62:
            raise BadInput(f"{path} holds numbers that are too large for labels", "save an instance map")
    return np.asarray(values).astype(np.int64)


def _open_npy(path: Path) -> NDArray[Any]:
    # Mapped, so that a header that promises terabytes is compared with the file's size and nothing is allocated.
    return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]


def _from_npz(path: Path) -> NDArray[Any]:
    with zipfile.ZipFile(path) as members:
        largest = max((member.file_size for member in members.infolist()), default=0)
    if largest > MAX_MEMBER:
        raise BadInput(f"{path} holds an array of {largest:,} bytes", "save one label map for each image")
    with np.load(path, allow_pickle=False) as arrays:
        return np.asarray(arrays[_chosen(list(arrays), path)])


def _from_mat(path: Path) -> NDArray[Any]:
    from scipy.io import loadmat, whosmat

    with path.open("rb") as stream:
        start = stream.read(128)
    if start.startswith(HDF5) or b"MATLAB 7.3" in start:
        raise BadInput(f"{path} is a MATLAB v7.3 file (HDF5)", "save it with -v7")
    shapes = {name: shape for name, shape, _ in whosmat(path)}
    name = _chosen([name for name, shape in shapes.items() if len(shape) == 2 and min(shape) > 1] or [*shapes], path)
    if np.prod(shapes[name], dtype=float) > MAX_PIXELS:
        raise BadInput(f"{path} holds an array of {shapes[name]}", "save one label map for each image")
    return np.asarray(loadmat(path, variable_names=[name])[name])


def _chosen(names: list[str], path: Path) -> str:
    """Return the name of the array that is a label map."""
    known = [key for key in KEYS if key in names] or (names if len(names) == 1 else [])
    if not known:
        raise BadInput(f"{path} holds {', '.join(names[:5]) or 'nothing'}", "name the label map inst_map")
    return known[0]


def stack_length(path: Path) -> int:
    """Return the number of images in a stack, such as PanNuke's ``images.npy``.

    Raises:
        BadInput: It is not a stack [N,H,W,C].
    """
    return len(_stack(path))


def stack_size(path: Path) -> tuple[int, int]:
    """Return height and width in pixels of the images in a stack."""
    _, height, width, _ = _stack(path).shape
    return height, width


def stack_image(path: Path, index: int) -> NDArray[np.uint8]:
    """Return an image of a stack [N,H,W,3] of values from 0 to 255, as uint8[H,W,3].

    >>> np.save("images.npy", np.full((2, 4, 4, 3), 200.0))
    >>> stack_image(Path("images.npy"), 1)[0, 0]
    array([200, 200, 200], dtype=uint8)

    Raises:
        BadInput: The stack has no three channels, or other values.
    """
    values = np.asarray(_stack(path)[index])
    fractions = values.max() <= 1 and (values != np.rint(values)).any()
    if values.shape[2] != 3 or fractions or not (values.min() >= 0 and values.max() <= 255):
        raise BadInput(f"Image {index} of {path} is not RGB with values from 0 to 255", "save it as uint8[N,H,W,3]")
    return values.astype(np.uint8)


def stack_labels(path: Path, index: int) -> NDArray[np.int32]:
    """Return the nuclei of an image in a stack [N,H,W,C] of instance maps, one channel for each class.

    PanNuke's sixth channel is background, and is left out.

    >>> stack = np.zeros((1, 1, 4, 6))
    >>> stack[0, 0, :, 0], stack[0, 0, :, 1], stack[0, 0, :, 5] = [3, 3, 0, 0], [0, 0, 3, 0], [0, 0, 0, 1]
    >>> np.save("masks.npy", stack)
    >>> stack_labels(Path("masks.npy"), 0)
    array([[3, 3, 7, 0]], dtype=int32)

    Returns:
        int32[H,W], 0 for background. The values of later channels follow those of earlier ones.
    """
    channels = _whole_numbers(np.asarray(_stack(path)[index]), path)
    classes = channels[..., :-1] if channels.shape[2] == 6 else channels
    labels = np.zeros(classes.shape[:2], dtype=np.int64)
    for channel in np.moveaxis(classes, 2, 0):
        here = channel > 0
        labels[here] = channel[here] + (labels.max() + 1 if labels.any() else 0)
    if labels.max(initial=0) > np.iinfo(np.int32).max:
        raise BadInput(f"{path} holds numbers that are too large for labels", "save an instance map")
    return labels.astype(np.int32)


def _stack(path: Path) -> NDArray[Any]:
    regular_file(path, "stack of images")
    try:
        values = _open_npy(path)
    except Exception as error:  # NumPy raises many exception types for damaged files
        raise BadInput(f"{path} is damaged, or holds Python objects ({_first_line(error)})", "save it again") from error
    if values.ndim != 4 or values.dtype.kind not in "uif" or not values.size:
        raise BadInput(f"{path} holds {values.dtype}, shape {values.shape}", "save a stack [N,H,W,C] of numbers")
    return values
