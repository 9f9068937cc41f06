"""Claim: a file whose header claims an absurd size is refused in less than 10 ms, and in no memory.

python benchmarks/bomb_header.py [--repeats 31]
"""

import argparse
import io
import resource
import statistics
import struct
import sys
import time
import zlib
from typing import NamedTuple

from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from sightline.images import ImageError, read_file

LIMIT_MS = 10.0
LIMIT_MB = 20.0  # the readers' own modules; an image of 50 megapixels would be 150


def main() -> int:
    """Print what refusing each bomb costs; 1 if one is over a limit or is not refused."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=31)
    repeats = parser.parse_args().repeats
    print(f"n = {repeats}; first: with the modules that a process loads once for that kind")
    print(
        f"{'file':<28} {'bytes':>8} {'first':>9} {'median':>9} {'highest':>9} {'limit':>7} "
        f"{'memory':>8}  verdict"
    )
    failed = False
    for name, content in bombs().items():
        cost = measure(content, repeats)
        kept = cost.median_ms < LIMIT_MS and cost.grown_mb < LIMIT_MB
        failed |= not kept
        print(
            f"{name:<28} {len(content):>8,} {cost.first_ms:>6.2f} ms {cost.median_ms:>6.3f} ms "
            f"{cost.highest_ms:>6.3f} ms {LIMIT_MS:>4.0f} ms {cost.grown_mb:>5.1f} MB  "
            f"{'kept' if kept else 'over'}"
        )
    return int(failed)


class Cost(NamedTuple):
    """What refusing a file takes; `first` is the first time in the process."""

    first_ms: float
    median_ms: float
    highest_ms: float
    grown_mb: float


def measure(content: bytes, repeats: int) -> Cost:
    """Return what refusing takes.

    Raises:
        SystemExit: If it is read.
    """
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    first = refuse_ms(content)
    times = [refuse_ms(content) for _ in range(repeats)]
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return Cost(first, statistics.median(times), max(times), grown / 1024)


def refuse_ms(content: bytes) -> float:
    """Return the milliseconds until the file is refused for its size."""
    start = time.perf_counter()
    try:
        read_file(content)
    except ImageError as error:
        spent = 1000 * (time.perf_counter() - start)
        if "more than 50 megapixels" not in str(error):
            raise SystemExit(f"refused for another reason: {error}") from None
        return spent
    raise SystemExit("a bomb was read")


def bombs() -> dict[str, bytes]:
    """Return a file of each kind that claims far more pixels than it may have."""
    return {
        "JPEG 65,000 x 65,000": jpeg_bomb(),
        "PNG 20,000 x 20,000, whole": png_bomb(),
        "TIFF 65,000 x 65,000": tiff_bomb(),
        "TIFF 8 x 8, tiles of 65,536": tiff_bomb(8, tile=65_536),
        "WebP 16,384 x 16,384": webp_bomb(),
        "BMP 65,000 x 65,000": b"BM"
        + bytes(12)
        + struct.pack("<Iii", 40, 65_000, 65_000)
        + bytes(30),
        "GIF 65,000 x 65,000": b"GIF89a" + struct.pack("<HH", 65_000, 65_000) + bytes(20),
        "DICOM 65,000 x 65,000": dicom_bomb(),
    }


def jpeg_bomb() -> bytes:
    """Return a small JPEG with another size in its frame header."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), (9, 60, 90)).save(buffer, "JPEG")
    content = bytearray(buffer.getvalue())
    frame = content.index(b"\xff\xc0")
    content[frame + 5 : frame + 9] = struct.pack(">HH", 65_000, 65_000)
    return bytes(content)


def png_bomb() -> bytes:
    """Return a PNG of 400 megapixels, all of them there: about 1.2 GB of pixels."""
    packer = zlib.compressobj(9)
    row = b"\0" * (20_000 * 3 + 1)
    body = b"".join(packer.compress(row) for _ in range(20_000)) + packer.flush()
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", body), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def tiff_bomb(side: int = 65_000, tile: int = 0) -> bytes:
    """Return a TIFF without pixels: of one strip, or of one tile."""
    tags = {256: side, 257: side, 258: 8, 259: 1, 262: 1, 277: 1}
    tags |= {322: tile, 323: tile, 324: 8, 325: 1} if tile else {273: 8, 278: side, 279: 1}
    fields = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + fields + bytes(4)


def webp_bomb() -> bytes:
    """Return the header of an extended WebP; its library takes two canvases when it opens one."""
    body = b"VP8X" + struct.pack("<II", 10, 0) + (16_383).to_bytes(3, "little") * 2
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def dicom_bomb() -> bytes:
    """Return a DICOM file with Rows and Columns far beyond its pixels."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, "1.2.3"
    data.Rows = data.Columns = 65_000
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 0
    data.PixelData = bytes(1 << 20)
    buffer = io.BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


if __name__ == "__main__":
    sys.exit(main())
