"""Pictures with a palette: the colours that it names, or refused where it names none."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image
from png_files import png_of

from sightline.images import ImageError, read_file

INDICES = np.arange(16, dtype=np.uint8)[None]
BLACK_AND_WHITE = [(0, 0, 0), (255, 255, 255)]


def colors_of(content):
    (image,) = read_file(content)
    return [tuple(color) for color in image.pixels.reshape(-1, 3).tolist()]


def bmp(bits, palette, indices):
    # BITMAPINFOHEADER: rows from the bottom, each filled up to 32 bits.
    rows = b""
    for row in indices[::-1]:
        digits = "".join(f"{index:0{bits}b}" for index in row)
        digits = digits.ljust(-(-len(digits) // 32) * 32, "0")
        rows += int(digits, 2).to_bytes(len(digits) // 8, "big")
    table = b"".join(bytes([blue, green, red, 0]) for red, green, blue in palette)
    height, width = indices.shape
    offset = 54 + len(table)
    head = struct.pack("<IHHI", offset + len(rows), 0, 0, offset)
    info = (40, width, height, 1, bits, 0, len(rows), 0, 0, len(palette), 0)
    return b"BM" + head + struct.pack("<IiiHHIIiiII", *info) + table + rows


def colors(number):
    return [(10 * n, n, 255 - n) for n in range(number)]


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("palette", [BLACK_AND_WHITE, BLACK_AND_WHITE[::-1], colors(2)])
def test_bmp_of_two_colours_is_read_whatever_its_bits(bits, palette):
    # As masks are often saved: 8 bits a pixel, and only the colours that occur.
    indices = np.array([[0, 1, 1, 0, 1, 0, 1, 1, 1], [1, 1, 0, 0, 0, 0, 0, 1, 0]], dtype=np.uint8)
    assert colors_of(bmp(bits, palette, indices)) == [palette[n] for n in indices.reshape(-1)]


@pytest.mark.parametrize("bits", [4, 8])
def test_bmp_with_a_palette_of_the_colours_that_occur_is_read(bits):
    indices = INDICES[:, :10]
    assert colors_of(bmp(bits, colors(10), indices)) == colors(10)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_bmp_whose_palette_is_the_lowest_grays_is_as_dark_as_they_are(bits):
    grays = [(n, n, n) for n in range(2**bits)]
    indices = np.arange(2**bits, dtype=np.uint8).reshape(2, -1)
    assert colors_of(bmp(bits, grays, indices)) == grays


@pytest.mark.parametrize(
    "palette", [BLACK_AND_WHITE * 8, colors(16), [(n, n, n) for n in range(16)]]
)
def test_bmp_with_the_old_header_is_read(palette):
    content = bmp(4, palette, INDICES)
    # BITMAPCOREHEADER: sizes of 16 bits, three bytes a colour.
    table = b"".join(bytes([blue, green, red]) for red, green, blue in palette)
    head = struct.pack("<IHHI", 26 + len(table) + 8, 0, 0, 26 + len(table))
    old = b"BM" + head + struct.pack("<IHHHH", 12, 16, 1, 1, 4) + table + content[-8:]
    assert colors_of(old) == palette


def test_bmp_short_of_rows_and_of_a_kind_that_nobody_reads_is_refused():
    content = bmp(4, colors(16), INDICES.repeat(2, 0))
    with pytest.raises(ImageError, match="cut short: 8 of 16 bytes of pixels"):
        read_file(content[:-8])
    jpeg_inside = content[:30] + bytes([4]) + content[31:]
    with pytest.raises(ImageError, match=r"not read \(Unsupported BMP compression \(4\)\)"):
        read_file(jpeg_inside)


@pytest.mark.parametrize("number", [8, 15])
@pytest.mark.parametrize("kind", ["BMP of 8 bits", "BMP of 4 bits", "PNG"])
def test_colours_beyond_the_palette_are_refused_and_not_painted_black(number, kind):
    content = {
        "BMP of 8 bits": bmp(8, colors(number), INDICES),
        "BMP of 4 bits": bmp(4, colors(number), INDICES),
        "PNG": png_of(
            16, 1, b"\0" + INDICES.tobytes(), color=3, palette=b"".join(map(bytes, colors(number)))
        ),
    }[kind]
    with pytest.raises(ImageError, match=f"colour 15 of a palette of {number}"):
        read_file(content)


def test_gray_bmp_beyond_its_palette_is_refused_too():
    with pytest.raises(ImageError, match="colour 15 of a palette of 8"):
        read_file(bmp(8, [(n, n, n) for n in range(8)], INDICES))


def test_gif_that_covers_a_part_of_its_screen_is_refused_and_not_filled():
    picture = Image.fromarray(INDICES, "P")
    picture.putpalette([value for color in colors(16) for value in color])
    buffer = io.BytesIO()
    picture.save(buffer, "GIF")
    content = bytearray(buffer.getvalue())
    content[6:10] = struct.pack("<HH", 20, 3)  # the screen's width and height
    with pytest.raises(ImageError, match="covers a part of its screen"):
        read_file(bytes(content))


@pytest.mark.parametrize("file_format", ["PNG", "GIF", "TIFF", "BMP"])
def test_the_last_colour_of_a_palette_is_one_of_it(file_format):
    picture = Image.fromarray(INDICES, "P")
    picture.putpalette([value for color in colors(16) for value in color])
    buffer = io.BytesIO()
    picture.save(buffer, file_format)
    assert colors_of(buffer.getvalue()) == colors(16)
