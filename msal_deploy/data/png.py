"""Checks of a PNG that Pillow does not make, so that every program reads the same pixels or refuses the file."""

import zlib
from pathlib import Path

from msal_deploy.errors import BadInput

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CRITICAL = {b"IHDR", b"PLTE", b"IDAT", b"IEND"}
MAX_CHUNK = 2**31 - 1
GREY = 0  # the colour type


def check_png(path: Path) -> None:
    """Raise `BadInput` if a PNG is damaged or has a feature that programs read differently.

    Pillow does not compare the checksums of pixels (``IDAT``), accepts a file without its end, ignores chunks that a
    decoder must know, and takes a transparent grey level of less than 8 bits for one of 8 bits.
    """
    depth = colour = None
    with path.open("rb") as stream:
        stream.seek(len(SIGNATURE))
        while True:
            length, kind = int.from_bytes(stream.read(4), "big"), stream.read(4)
            if len(kind) < 4 or length > MAX_CHUNK:
                raise BadInput(f"{path} is damaged or truncated (it has no end)", "copy it again")
            content = stream.read(length)
            if zlib.crc32(kind + content).to_bytes(4, "big") != stream.read(4):
                raise BadInput(f"{path} is damaged or truncated (a checksum differs)", "copy it again")
            if kind[:1].isupper() and kind not in CRITICAL:
                raise BadInput(f"{path} has a part that PNG does not define ({kind!r})", "save it again as 8-bit RGB")
            if kind == b"IHDR":
                depth, colour = content[8], content[9]
            if kind == b"tRNS" and colour == GREY and depth is not None and depth < 8:
                raise BadInput(f"{path} has a transparent grey level of less than 8 bits", "convert it to 8-bit RGB")
            if kind == b"IEND":
                return
