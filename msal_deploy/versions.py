"""Compare versions of TensorRT, CUDA, Python and drivers by `packaging.version`."""

from packaging.version import InvalidVersion, Version


def parse_version(text: str) -> tuple[int, ...]:
    """Return major, minor and patch of a version as integers; anything after the patch is ignored.

    A fourth number does not change the format of a TensorRT plan. Text that is not a version gives an empty tuple,
    which compares lower than every version.

    >>> parse_version("10.13.3.9")
    (10, 13, 3)
    >>> parse_version("535.183.01") < parse_version("580.0")
    True
    """
    try:
        return Version(text).release[:3]
    except InvalidVersion:
        return ()
