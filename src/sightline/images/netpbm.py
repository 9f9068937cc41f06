"""PBM, PGM, PPM and PFM: is it one picture, and no value above the highest that it names?"""

from __future__ import annotations

import re

import numpy as np
from PIL import ImageFile

from sightline.images.checked import ImageError

_PLAIN = (b"P1", b"P2", b"P3")
_KNOWN = (*_PLAIN, b"P4", b"P5", b"P6", b"Pf")
_PLAIN_START = re.compile(rb"^\s*P[1-6]\s", re.MULTILINE)


def highest_of(image: ImageFile.ImageFile) -> int:
    """Return the value that stands for white, of a file as Pillow opened it."""
    arguments = image.tile[0].args
    if isinstance(arguments, tuple) and image.tile[0].codec_name != "raw":
        return int(arguments[1])
    return 65535 if arguments == "I;16B" else 255


def check_netpbm(image: ImageFile.ImageFile, content: bytes) -> None:
    """Refuse values above the highest, which Pillow clips, and what it leaves out at the end.

    Args:
        image: The file as Pillow opened it, not yet decoded.
        content: The whole file.

    Raises:
        ImageError: If a value is above the highest, or anything but space follows the picture.
    """
    start, magic, (width, height) = image.tile[0].offset, content[:2], image.size
    if magic not in _KNOWN:  # Pillow's own inventions
        raise ImageError(f"a PPM of the unknown kind {magic.decode('ascii', 'replace')}")
    if magic in _PLAIN:  # Pillow compares these values itself
        if _PLAIN_START.search(content, start):
            raise ImageError("several pictures: save each as one file")
        return
    highest = highest_of(image)
    kind = ">u2" if highest > 255 else "u1"
    samples = width * len(image.getbands())
    row_bytes = {b"P4": (width + 7) // 8, b"Pf": 4 * width}
    size_bytes = height * row_bytes.get(magic, samples * np.dtype(kind).itemsize)
    if rest := content[start + size_bytes :].strip():
        if rest[:1] == b"P":
            raise ImageError("several pictures: save each as one file")
        raise ImageError(f"{len(rest):,} bytes behind the picture, whose size is then not right")
    if highest in (255, 65535) or len(content) < start + size_bytes:
        return  # none can be higher; what is cut short the decoder tells
    found = int(np.frombuffer(content, kind, height * samples, start).max())
    if found > highest:
        raise ImageError(f"holds the value {found}, though its header says at most {highest}")
