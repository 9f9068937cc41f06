"""Images of more than 8 bits, and the rare kinds beside them: every bit counts, or is told."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image
from png_files import png_of
from tiff_files import tiff_of

from sightline.images import ImageError, read_file

GRAY = np.array([[0, 1000, 2000, 4095]], dtype=np.uint16)
COLOR = np.array([[[0, 10, 4000], [4095, 2000, 1]]], dtype=np.uint16)


def png(samples, color, depth=16, key=None):
    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2" if depth == 16 else "u1").tobytes() for row in samples)
    hidden = b"" if key is None else struct.pack(f">{len(key)}H", *key)
    return png_of(width, height, rows, depth, color, key=hidden)


def tiff(samples, order="<", photometric=1, sample_format=1, **tags):
    """Write a TIFF of one strip, as the TIFF 6.0 specification lays it out."""
    height, width = samples.shape[:2]
    channels = samples.shape[2] if samples.ndim == 3 else 1
    pixels = samples.astype(samples.dtype.newbyteorder(order)).tobytes()
    size = len(pixels) // (channels if tags.get("tag284") == 2 else 1)  # plane by plane
    parts = [pixels[start : start + size] for start in range(0, len(pixels), size or 1)]
    fields = {
        256: [width], 257: [height], 258: [8 * samples.itemsize] * channels, 259: [1],
        262: [photometric], 277: [channels], 278: [height], 279: [size] * len(parts),
        339: [sample_format] * channels,
        **{int(name.removeprefix("tag")): [value] for name, value in tags.items()},
    }  # fmt: skip
    return tiff_of(fields, parts, order)


def save(image, file_format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def read(content, name=""):
    (image,) = read_file(content, name)
    return image


def refused(content):
    with pytest.raises(ImageError) as caught:
        read_file(content)
    return str(caught.value)


def windowed(values):
    low, high = np.percentile(values, (0.5, 99.5))
    return np.round(255 * np.clip((values - low) / (high - low), 0, 1))


@pytest.mark.parametrize(
    "content",
    [
        png(COLOR, 2),
        tiff(COLOR, photometric=2),
        tiff(COLOR, ">", photometric=2),
    ],
    ids=["png", "tiff little endian", "tiff big endian"],
)
def test_16_bit_colour_that_uses_12_bits_is_not_black(content):
    image = read(content)
    np.testing.assert_array_equal(image.pixels, windowed(COLOR.astype(float)))
    assert image.notes[0].startswith("16-bit colour, values")
    assert not image.is_plain


def test_16_bit_colour_keeps_the_bits_that_differ_in_the_lower_byte():
    # 256 steps inside one upper byte.
    ramp = np.repeat(np.arange(0x1200, 0x1300, dtype=np.uint16), 3).reshape(1, 256, 3)
    shown = read(png(ramp, 2)).pixels[0, :, 0].astype(int)
    assert len(set(shown)) > 250


@pytest.mark.parametrize("seed", range(5))
def test_percentiles_of_values_that_repeat_are_numpys(seed):
    draw = np.random.default_rng(seed)
    values = draw.integers(0, 40, size=(17, 23 + seed)) ** 2
    expected = windowed(values.astype(float))
    unsigned = read(png(values.astype(np.uint16), 0))
    np.testing.assert_array_equal(unsigned.pixels[:, :, 0], expected)
    signed = tiff((values - 700).astype(np.int16), ">", sample_format=2)
    np.testing.assert_array_equal(read(signed).pixels[:, :, 0], expected)
    colors = np.stack([values, values.T.reshape(values.shape), 3 * values], axis=-1)
    pixels = read(png(colors.astype(np.uint16), 2)).pixels
    np.testing.assert_array_equal(pixels, windowed(colors.astype(float)))


def test_percentile_between_two_values_is_interpolated():
    # Of 21 values rank 0.1 lies between 0 and 1000: at 100.
    values = np.full((3, 7), 1000, dtype=np.uint16)
    values[0, 0] = 0
    image = read(png(values, 0))
    assert image.notes == ("16-bit gray, values 100 to 1000 spread over 0 to 255",)
    assert sorted(set(image.pixels.ravel().tolist())) == [0, 255]


def test_interlaced_16_bit_colour_is_read_by_its_passes():
    # Adam7: of a 2 x 2 picture pass 1 holds (0, 0), pass 6 (1, 0), pass 7 the second row.
    samples = np.arange(12, dtype=np.uint16).reshape(2, 2, 3) * 300
    rows = [samples[0, :1], samples[0, 1:], samples[1]]
    body = b"".join(b"\0" + row.astype(">u2").tobytes() for row in rows)
    content = png_of(2, 2, body, depth=16, color=2, interlaced=1)
    np.testing.assert_array_equal(read(content).pixels, windowed(samples.astype(float)))


def test_compressed_tiff_of_16_bit_gray_is_windowed():
    content = save(Image.fromarray(GRAY), "TIFF", compression="tiff_lzw")
    np.testing.assert_array_equal(read(content).pixels[:, :, 0], windowed(GRAY.astype(float)))


def test_16_bit_gray_with_alpha_keeps_its_bits_and_hides_what_is_transparent():
    samples = np.array([[[100, 65535], [200, 65535], [300, 65535], [60000, 0]]], dtype=np.uint16)
    image = read(png(samples, 4))
    expected = windowed(np.array([100.0, 200.0, 300.0]))  # what is hidden does not count
    assert image.pixels[0, :, 0].tolist() == [*expected, 0]
    assert image.notes[-1] == "transparent parts put on black"


def test_notes_name_the_bits_that_the_file_has():
    assert read(tiff((GRAY - 700).astype(np.int16), sample_format=2)).notes[0].startswith("16-bit")
    assert read(tiff(GRAY.astype(np.uint32))).notes[0].startswith("32-bit gray")
    assert read(b"P5 2 1 4095\n\x00\x10\x0f\xff").notes[0].startswith("16-bit gray")


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_16_bit_colour_with_alpha_is_put_on_black_by_its_share(kind):
    opaque = np.concatenate([COLOR, COLOR], axis=1)
    alpha = np.array([65535, 65535, 32768, 0], dtype=np.uint16).reshape(1, 4, 1)
    samples = np.concatenate([opaque, alpha], axis=2)
    content = png(samples, 6) if kind == "png" else tiff(samples, photometric=2, tag338=2)
    full = windowed(opaque[:, :3].astype(float))
    expected = np.concatenate([full[:, :2], full[:, 2:] / 2, np.zeros((1, 1, 3))], axis=1)
    np.testing.assert_allclose(read(content).pixels, expected, atol=1)


def test_16_bit_value_that_a_png_declares_transparent_is_black():
    assert read(png(GRAY, 0, key=[4095])).pixels[0, :, 0].tolist() == [
        *windowed(np.array([0.0, 1000, 2000])),
        0,
    ]
    hidden = read(png(COLOR, 2, key=[4095, 2000, 1]))
    assert hidden.pixels[0, 1].tolist() == [0, 0, 0]
    # The same upper bytes alone are another colour.
    shown = read(png(COLOR, 2, key=[4094, 2000, 1]))
    assert shown.pixels[0, 1, 0] == 255


@pytest.mark.parametrize(("depth", "levels"), [(2, 3), (4, 15)])
def test_gray_of_few_bits_hides_the_value_that_is_transparent(depth, levels):
    # Two pixels in one byte, the highest value first.
    packed = np.array([[(levels << (8 - depth)) & 0xFF]], dtype=np.uint8)
    rows, key = b"\0" + packed.tobytes(), struct.pack(">H", levels)
    assert read(png_of(2, 1, rows, depth)).pixels[0, :, 0].tolist() == [255, 0]
    assert read(png_of(2, 1, rows, depth, key=key)).pixels[0, :, 0].tolist() == [0, 0]


def test_tiff_whose_zero_is_white_is_not_shown_inverted():
    shown = read(tiff(GRAY, photometric=0)).pixels[0, :, 0]
    np.testing.assert_array_equal(shown, 255 - windowed(GRAY.astype(float))[0])


def test_unsigned_32_bit_values_do_not_turn_negative():
    values = np.array([[1, 2**31, 2**32 - 1]], dtype=np.uint32)
    shown = read(tiff(values)).pixels[:, :, 0]
    np.testing.assert_array_equal(shown, windowed(values.astype(float)))


def test_signed_8_bit_values_keep_their_order():
    values = np.array([[-100, 0, 100]], dtype=np.int8)
    image = read(tiff(values, sample_format=2))
    assert image.pixels[0, :, 0].tolist() == [0, 128, 255]
    assert image.notes[0].startswith("signed 8-bit gray, values")


def test_signed_16_bit_values_keep_their_order():
    values = np.array([[-1000, 0, 1000]], dtype=np.int16)
    assert read(tiff(values, sample_format=2)).pixels[0, :, 0].tolist() == [0, 128, 255]


def test_premultiplied_16_bit_colour_tells_that_it_was_scaled():
    samples = np.array([[[65535, 0, 0, 65535], [0, 32768, 0, 65535]]], dtype=np.uint16)
    image = read(tiff(samples, photometric=2, tag338=1))
    np.testing.assert_allclose(image.pixels, [[[255, 0, 0], [0, 128, 0]]], atol=1)
    assert image.notes == ("16-bit colour scaled to 8 bit",)


def test_16_bit_ppm_is_scaled_by_its_highest_value_and_says_so():
    samples = np.array([1000, 500, 0, 0, 250, 1000], dtype=">u2").tobytes()
    image = read(b"P6\n# a comment\n2 1\n1000\n" + samples)
    np.testing.assert_allclose(image.pixels, [[[255, 128, 0], [0, 64, 255]]], atol=1)
    assert image.notes == ("16-bit colour scaled to 8 bit",)
    assert read(b"P6 1 1 255\n\x01\x02\x03").notes == ()
    assert read(b"P3 1 1 1000 500 0 1000").notes == ("16-bit colour scaled to 8 bit",)


def test_ppm_with_a_long_comment_is_read():
    image = read(b"P6\n# " + b"a comment " * 200 + b"\n1 1\n255\n\x01\x02\x03")
    np.testing.assert_array_equal(image.pixels, [[[1, 2, 3]]])


def test_few_spots_on_black_keep_their_shades():
    # Both percentiles are 0 here; a window between them would paint every spot white.
    spots = np.zeros((40, 60), dtype=np.uint16)
    spots[7, 5:9] = 1000, 2000, 3000, 4000
    image = read(save(Image.fromarray(spots)))
    np.testing.assert_array_equal(image.pixels[7, 5:9, 0], [64, 128, 191, 255])
    assert image.pixels[:7].max() == 0
    assert image.notes == ("16-bit gray, values 0 to 4000 spread over 0 to 255",)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_rotated_tiff_is_turned_once(orientation, compression):
    corners = np.array([[0, 80, 160], [240, 40, 120]], dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = read(save(Image.fromarray(corners), "TIFF", exif=exif, compression=compression))
    # The same picture and rotation in a PNG, whose eight values are shown one by one elsewhere.
    png_image = read(save(Image.fromarray(corners), exif=exif))
    np.testing.assert_array_equal(image.pixels, png_image.pixels)
    assert image.notes == png_image.notes


INKS = (10, 200, 30, 5)
# (255 - ink) x (255 - black) / 255 for each of cyan, magenta, yellow.
INKS_AS_RGB = [240, 54, 221]


def without_adobe(content):
    start = content.index(b"\xff\xee") + 2
    return (
        content[: start - 2] + content[start + int.from_bytes(content[start : start + 2], "big") :]
    )


def test_cmyk_jpeg_is_right_with_adobes_inverted_inks_and_with_plain_ones():
    # Pillow writes what Adobe does: 255 for no ink, and the Adobe marker.
    adobe = save(Image.new("CMYK", (16, 16), INKS), "JPEG", quality=100)
    np.testing.assert_allclose(read(adobe).pixels[8, 8], INKS_AS_RGB, atol=3)
    inverted = Image.new("CMYK", (16, 16), tuple(255 - ink for ink in INKS))
    plain = without_adobe(save(inverted, "JPEG", quality=100))
    np.testing.assert_allclose(read(plain).pixels[8, 8], INKS_AS_RGB, atol=3)


def test_damaged_cmyk_jpeg_is_refused_and_not_painted_gray():
    noise = np.random.default_rng(0).integers(0, 256, size=(200, 200, 4), dtype=np.uint8)
    content = bytearray(save(Image.fromarray(noise, "CMYK"), "JPEG"))
    middle = len(content) // 2
    content[middle : middle + 40] = b"\xff\xd9" * 20
    assert "damaged" in refused(bytes(content))


def test_gray_with_alpha_is_put_on_black():
    samples = np.array([[[200, 255], [200, 51], [200, 0]]], dtype=np.uint8)
    shown = read(save(Image.fromarray(samples, "LA"))).pixels[0, :, 0]
    np.testing.assert_allclose(shown, [200, 40, 0], atol=1)


def test_lab_colour_is_refused_by_name():
    lab = Image.new("LAB", (4, 4), (128, 128, 128))
    assert refused(save(lab, "TIFF")) == "LAB colour: save it as RGB"


def test_file_with_a_wrong_suffix_is_read_by_its_content_and_noted():
    content = save(Image.new("L", (3, 2), 77))
    image = read(content, "folder/picture.JPG")
    assert (image.pixels == 77).all()
    assert image.suffix == "png"
    assert image.notes == ("PNG by its content, though named .jpg",)
    assert read(content, "folder/picture.PNG").notes == ()
    assert read(content, "folder/picture").notes == ()


def avif_start():
    return b"\0\0\0\x20ftypavif" + bytes(20)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (avif_start(), "AVIF: save it as PNG"),
        (b"\0\0\0\x18ftypheic" + bytes(20), "HEIC: save it as PNG"),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(20), "JPEG 2000"),
        (b"\x93NUMPY\x01\0", "a NumPy array"),
    ],
)
def test_other_pictures_are_told_by_what_they_are(content, said):
    assert said in refused(content)


def bombs():
    webp = {
        "extended": b"VP8X" + struct.pack("<IIHBHB", 10, 0, 11_999, 0, 10_999, 0),
        "lossless": b"VP8L" + struct.pack("<IBI", 10, 0x2F, 11_999 | 10_999 << 14) + bytes(8),
        "lossy": b"VP8 " + struct.pack("<I", 20) + b"\x10\0\0\x9d\x01\x2a"
        + struct.pack("<HH", 12_000, 11_000) + bytes(9),
    }  # fmt: skip
    for name, body in webp.items():
        yield f"WebP {name}", b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body
    yield "GIF", b"GIF89a" + struct.pack("<HH", 12_000, 11_000) + bytes(20)
    # Rows from the top have a negative height.
    yield "BMP", b"BM" + bytes(12) + struct.pack("<Iii", 40, 12_000, -11_000) + bytes(30)
    yield (
        "PNG",
        png(np.zeros((0, 0)), 0)[:16] + struct.pack(">IIBBBBB", 12_000, 11_000, 8, 2, 0, 0, 0),
    )
    jpeg = bytearray(save(Image.new("RGB", (16, 16)), "JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 11_000, 12_000)
    yield "JPEG", bytes(jpeg)


@pytest.mark.parametrize(("name", "content"), [pytest.param(*case, id=case[0]) for case in bombs()])
def test_bomb_is_refused_by_its_first_bytes_before_any_decoder_sees_it(name, content, monkeypatch):
    def seen(*arguments, **options):
        raise AssertionError("a decoder was asked")

    monkeypatch.setattr(Image, "open", seen)
    assert refused(content).startswith("12000 x 11000 pixels, more than 50 megapixels")


def test_large_tiff_and_ppm_are_refused_before_their_pixels():
    empty = np.zeros((1, 1), dtype=np.uint8)
    assert "9000 x 9000 pixels" in refused(tiff(empty, tag256=9000, tag257=9000))
    assert "more than 50 megapixels" in refused(tiff(empty, tag256=65_000, tag257=65_000))
    assert "9000 x 9000 pixels" in refused(b"P5 9000 9000 255\n\0")


def test_small_tiff_of_huge_tiles_is_refused():
    content = save(Image.new("L", (8, 8)), "TIFF", compression="tiff_lzw")
    assert (read(content).pixels == 0).all()
    tiled = tiff(np.zeros((8, 8), dtype=np.uint8), tag322=65_536, tag323=65_536)
    assert "65536 x 65536 pixels" in refused(tiled)


def photo(height=48, width=64):
    y, x = np.mgrid[:height, :width]
    return np.stack([2 * y + x, 255 - 2 * x, y + 2 * x], axis=-1).astype(np.uint8)


def unusual_images():
    """Name, bytes, and the shape and mean that the picture has by arithmetic."""
    color = Image.fromarray(photo())
    gray = color.convert("L")
    shape, mean = (48, 64, 3), photo().mean()
    yield "progressive JPEG", save(color, "JPEG", progressive=True, quality=95), shape, mean
    yield "gray JPEG", save(gray, "JPEG", quality=95), shape, np.asarray(gray).mean()
    yield "CMYK JPEG", save(color.convert("CMYK"), "JPEG", quality=95), shape, mean
    exif = Image.Exif()
    exif[0x0112] = 6
    yield "EXIF 6", save(color, "JPEG", exif=exif, quality=95), (64, 48, 3), mean
    palette = color.quantize(16)
    yield "palette", save(palette), shape, np.asarray(palette.convert("RGB")).mean()
    rgba = Image.fromarray(np.dstack([photo(), np.full((48, 64), 255, np.uint8)]))
    yield "RGBA", save(rgba), shape, mean
    yield "WebP", save(color, "WEBP", lossless=True), shape, mean
    yield "GIF", save(palette, "GIF"), shape, np.asarray(palette.convert("RGB")).mean()
    yield "TIFF", save(color, "TIFF"), shape, mean
    yield "BMP", save(color, "BMP"), shape, mean
    yield "one pixel", save(Image.new("RGB", (1, 1), (9, 60, 90))), (1, 1, 3), 53
    yield "a strip", save(Image.new("L", (5000, 2), 40)), (2, 5000, 3), 40
    high = (np.asarray(gray).astype(np.uint16)) << 8
    yield "16-bit gray", png(high, 0), shape, windowed(high.astype(float)).mean()
    yield (
        "1 bit",
        save(Image.fromarray(photo()[:, :, 0] > 99)),
        shape,
        255 * (photo()[:, :, 0] > 99).mean(),
    )


@pytest.mark.parametrize(
    ("content", "shape", "mean"), [pytest.param(*case[1:], id=case[0]) for case in unusual_images()]
)
def test_unusual_image_has_the_shape_and_mean_of_its_picture(content, shape, mean):
    pixels = read(content).pixels
    assert pixels.shape == shape
    assert pixels.mean() == pytest.approx(mean, abs=1.5)


@pytest.mark.parametrize("end", [0.5, -20, 200], ids=["half", "20 bytes missing", "header only"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_cut_anywhere_is_refused(end, progressive):
    noise = np.random.default_rng(1).integers(0, 256, size=(64, 64, 3), dtype=np.uint8)
    content = save(Image.fromarray(noise), "JPEG", progressive=progressive)
    cut = content[: int(len(content) * end) if isinstance(end, float) else end]
    assert "damaged or cut short" in refused(cut)
