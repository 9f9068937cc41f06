"""Every kind of file that comes as an image: read right, or refused with the reason."""

from __future__ import annotations

import base64
import io
import random
import struct
import tracemalloc
import zlib

import cv2
import numpy as np
import pytest
import simplejpeg
from dicom_files import dicom
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile
from png_files import png_chunk, png_of
from tiff_files import tiff_of

from sightline.images import ImageError, decode_as_stored, decode_image, read_file
from sightline.images.headers import JpegHeader, read_jpeg_header

CORNERS = np.array([[0, 80, 160], [240, 40, 120]], dtype=np.uint8)


def save(image, file_format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def read(content):
    (image,) = read_file(content)
    return image


def smooth_gray(height=40, width=60):
    y, x = np.mgrid[:height, :width]
    return (2 * y + 2 * x).astype(np.uint8)


def test_plain_gray_png_is_read_exactly_and_may_be_stored_as_it_is():
    content = save(Image.fromarray(CORNERS))
    checked = read(content)
    assert checked.pixels.shape == (2, 3, 3)
    for channel in range(3):
        np.testing.assert_array_equal(checked.pixels[:, :, channel], CORNERS)
    assert checked.is_plain
    assert checked.suffix == "png"
    assert checked.notes == ()
    np.testing.assert_array_equal(decode_image(content), checked.pixels)


def test_plain_jpeg_is_read_close_to_its_picture_and_may_be_stored_as_it_is():
    content = save(Image.fromarray(smooth_gray()), "JPEG", quality=95)
    checked = read(content)
    assert checked.is_plain
    assert checked.suffix == "jpg"
    assert np.abs(checked.pixels[:, :, 0].astype(int) - smooth_gray()).max() <= 4
    np.testing.assert_array_equal(decode_image(content), checked.pixels)


# Where the picture's corner (0, 0) lies in the upright picture, from the EXIF standard.
UPRIGHT = {
    1: CORNERS,
    2: np.fliplr(CORNERS),
    3: np.flipud(np.fliplr(CORNERS)),
    4: np.flipud(CORNERS),
    5: CORNERS.T,
    6: np.array([[240, 0], [40, 80], [120, 160]]),
    7: np.array([[120, 160], [40, 80], [240, 0]]),
    8: np.array([[160, 120], [80, 40], [0, 240]]),
}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_comes_upright(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    checked = read(save(Image.fromarray(CORNERS), exif=exif))
    np.testing.assert_array_equal(checked.pixels[:, :, 0], UPRIGHT[orientation])
    assert checked.is_plain == (orientation == 1)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize("orientation", [9, 255])
def test_exif_orientation_that_does_not_exist_is_taken_as_upright_and_noted(
    orientation, file_format
):
    exif = Image.Exif()
    exif[0x0112] = orientation
    checked = read(save(Image.fromarray(smooth_gray()), file_format, exif=exif))
    assert np.abs(checked.pixels[:, :, 0].astype(int) - smooth_gray()).max() <= 4
    assert checked.notes == (f"EXIF orientation {orientation} does not exist: taken as upright",)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"comment": b"a scan"}])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_bare_jpeg_is_read_as_it_is_with_pillows_look_at_its_header(mode, options, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, size=(24, 16, 3), dtype=np.uint8)
    picture = save(Image.fromarray(noise).convert(mode), "JPEG", **options)
    header = picture.index(b"\xff\xda") + 4
    draw = random.Random(0)
    bare, each = 0, [picture]
    for place in range(3, header):
        for value in (0, 0xFF, 0xE1, 0xEE, 0xC3, draw.randrange(256)):
            each.append(picture[:place] + bytes([value]) + picture[place + 1 :])
    for content in each:
        bare += is_bare(content)
        with monkeypatch.context() as patch:
            patch.setattr(JpegHeader, "is_bare", False)
            slow = read_or_refuse(content)
        assert read_or_refuse(content) == slow
    assert is_bare(picture)
    assert len(each) / 10 < bare < len(each)


def is_bare(content):
    header = read_jpeg_header(content)
    return header is not None and header.is_bare


def read_or_refuse(content):
    try:
        image = read(content)
    except ImageError:
        return None
    return image.pixels.shape, image.pixels.tobytes(), image.is_plain, image.suffix, image.notes


def test_rotated_jpeg_is_turned_and_says_so():
    exif = Image.Exif()
    exif[0x0112] = 6
    checked = read(save(Image.fromarray(smooth_gray(40, 60)), "JPEG", exif=exif))
    assert checked.pixels.shape == (60, 40, 3)
    assert checked.notes == ("turned upright (EXIF orientation 6)",)
    # Turned clockwise: the dark upper left corner comes to the upper right.
    assert checked.pixels[0, -1, 0] < 10 < checked.pixels[0, 0, 0]


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_16_bit_gray_is_windowed_and_not_clipped(file_format):
    values = np.arange(1000, 5001, dtype=np.uint16).reshape(1, 4001)
    checked = read(save(Image.fromarray(values), file_format))
    gray = checked.pixels[:, :, 0]
    # Percentiles 0.5 and 99.5 of an even ramp: 1020 and 4980 of 1000 to 5000.
    expected = np.clip((values.astype(float) - 1020) / (4980 - 1020), 0, 1) * 255
    assert np.abs(gray - expected).max() <= 1
    assert not checked.is_plain
    assert checked.notes == ("16-bit gray, values 1020 to 4980 spread over 0 to 255",)


def test_float_tiff_with_a_nan_is_windowed():
    values = np.linspace(-1, 1, 400, dtype=np.float32).reshape(20, 20)
    values[0, 0] = np.nan
    checked = read(save(Image.fromarray(values), "TIFF"))
    gray = checked.pixels[:, :, 0]
    assert checked.notes[1:] == ("1 pixel not finite, set to the lowest value",)
    assert gray[0, 0] == 0
    assert gray[-1, -1] == 255
    assert (np.diff(gray.ravel().astype(int)) >= 0).all()


def test_infinite_pixels_are_told_with_the_end_that_they_are_set_to():
    values = np.linspace(-1, 1, 400, dtype=np.float32).reshape(20, 20)
    values[0, :4] = [np.nan, -np.inf, np.inf, np.inf]
    checked = read(save(Image.fromarray(values), "TIFF"))
    assert checked.pixels[0, :4, 0].tolist() == [0, 0, 255, 255]
    assert checked.notes[1:] == (
        "2 pixels not finite, set to the lowest value",
        "2 pixels not finite, set to the highest value",
    )


def test_image_without_any_finite_value_is_rejected_with_the_reason():
    values = np.full((8, 8), np.nan, dtype=np.float32)
    with pytest.raises(ImageError, match="holds no finite value"):
        read(save(Image.fromarray(values), "TIFF"))


def test_constant_16_bit_image_is_black_and_not_a_division_by_zero():
    values = np.full((8, 8), 700, dtype=np.uint16)
    assert (read(save(Image.fromarray(values))).pixels == 0).all()


# Of libjpeg-turbo's own encoder: 4 x 4 pixels of 0, 15, 30, ... without loss, and 8 x 8 of 200.
LOSSLESS_JPEG = (
    "/9j/wwALCAAEAAQBAREA/8QAFgABAQEAAAAAAAAAAAAAAAAABAYI/9oACAEBAAEAAM/ve+8e994977x73//Z"
)
ARITHMETIC_JPEG = (
    "/9j/2wBDAAEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQH/"
    "yQALCAAIAAgBAREA/8wABgAQEAX/2gAIAQEAAD8A0ufgIP/Z"
)


@pytest.mark.parametrize(
    ("coded", "expected"),
    [
        (LOSSLESS_JPEG, np.arange(0, 240, 15).reshape(4, 4)),
        (ARITHMETIC_JPEG, np.full((8, 8), 200)),
    ],
)
def test_rarely_coded_jpeg_is_read_and_stored_as_one_that_everybody_reads(coded, expected):
    checked = read(base64.b64decode(coded))
    np.testing.assert_array_equal(checked.pixels, np.repeat(expected[:, :, None], 3, axis=2))
    assert not checked.is_plain


@pytest.mark.parametrize(
    ("marker", "bits", "kind"),
    [
        (0xC1, 12, "JPEG of 12 bits a value"),
        (0xC3, 16, "JPEG of 16 bits a value"),
        (0xC5, 8, "hierarchical JPEG"),
        (0xF7, 8, "JPEG-LS"),
    ],
)
def test_jpeg_that_nothing_decodes_is_told_by_its_kind(marker, bits, kind):
    content = bytearray(save(Image.fromarray(smooth_gray()), "JPEG"))
    frame = content.index(b"\xff\xc0")
    content[frame + 1], content[frame + 4] = marker, bits
    assert refused(bytes(content)) == f"{kind}: save it as PNG"


def test_transparent_parts_are_put_on_black():
    color = np.zeros((2, 2, 4), dtype=np.uint8)
    color[:, :, 0] = 200
    color[:, :, 3] = [[255, 0], [255, 51]]
    checked = read(save(Image.fromarray(color)))
    np.testing.assert_allclose(checked.pixels[:, :, 0], [[200, 0], [200, 40]], atol=1)
    assert checked.notes == ("transparent parts put on black",)


def test_palette_with_a_transparent_entry_is_read_by_its_colours():
    picture = Image.fromarray(np.array([[0, 1], [2, 1]], dtype=np.uint8))
    picture = picture.convert("P")
    picture.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    plain = read(save(picture)).pixels
    assert plain.tolist() == [[[10, 20, 30], [40, 50, 60]], [[70, 80, 90], [40, 50, 60]]]
    holed = read(save(picture, transparency=2)).pixels
    assert holed.tolist() == [[[10, 20, 30], [40, 50, 60]], [[0, 0, 0], [40, 50, 60]]]


def test_one_bit_image_is_black_and_white():
    bits = Image.fromarray(np.array([[0, 255], [255, 0]], dtype=np.uint8)).convert("1")
    assert read(save(bits)).pixels[:, :, 0].tolist() == [[0, 255], [255, 0]]


def test_cmyk_jpeg_is_turned_into_rgb():
    red = Image.new("RGB", (16, 16), (250, 20, 20)).convert("CMYK")
    checked = read(save(red, "JPEG", quality=95))
    np.testing.assert_allclose(checked.pixels[8, 8], [250, 20, 20], atol=6)
    assert checked.notes == ("CMYK turned into RGB",)
    assert not checked.is_plain


@pytest.mark.parametrize("file_format", ["BMP", "GIF", "TIFF", "WEBP", "PPM"])
def test_other_formats_are_read_and_stored_as_png(file_format):
    options = {"lossless": True} if file_format == "WEBP" else {}
    checked = read(save(Image.fromarray(CORNERS), file_format, **options))
    np.testing.assert_array_equal(checked.pixels[:, :, 0], CORNERS)
    assert checked.suffix == "png"
    assert not checked.is_plain


def refused(content):
    with pytest.raises(ImageError) as caught:
        read(content)
    return str(caught.value)


def test_reason_is_one_line_of_bounded_length_that_keeps_what_to_do():
    reason = str(ImageError("holds\n\0" + 1000 * "very " + "much: save it anew"))
    assert reason.startswith("holds ?very very")
    assert reason.endswith("very much: save it anew")
    assert len(reason) == 300


def test_empty_file_is_refused():
    assert refused(b"") == "the file is empty"


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP"])
def test_file_cut_short_is_refused(file_format):
    noise = np.random.default_rng(0).integers(0, 256, size=(50, 50), dtype=np.uint8)
    content = save(Image.fromarray(noise), file_format)
    refused(content[: len(content) // 2])


def test_png_short_of_rows_is_refused_though_its_checksums_fit():
    whole = (b"\0" + bytes(10)) * 10
    assert read(png_of(10, 10, whole)).pixels.shape == (10, 10, 3)
    assert refused(png_of(10, 10, whole[:55])) == "rows are missing: 55 of 110 bytes of pixels"


def test_png_whose_palette_is_missing_is_refused_and_not_painted_black():
    content = png_of(2, 2, b"\0\0\1\0\1\0", color=3)
    assert refused(content) == "damaged: the palette is missing"


def test_interlaced_png_counts_its_rows_by_passes():
    # Adam7 of 8 x 8 gray: passes of 1x1, 1x1, 2x1, 2x2, 4x2, 4x4, 8x4 pixels, a byte more a row.
    passes = [(1, 1), (1, 1), (2, 1), (2, 2), (4, 2), (4, 4), (8, 4)]
    rows = b"".join((b"\0" + bytes(width)) * height for width, height in passes)
    for pixels, is_whole in ((rows, True), (rows[:-9], False)):
        content = png_of(8, 8, pixels, interlaced=1)
        if is_whole:
            assert read(content).pixels.shape == (8, 8, 3)
        else:
            assert "rows are missing" in refused(content)


@pytest.mark.parametrize("place", [33, -12], ids=["before the picture", "behind it"])
@pytest.mark.parametrize(
    "chunks",
    [
        [png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2 << 20)))],
        [png_chunk(b"tEXt", b"a\0" + b"b" * 1_000_000)] * 70,
        [png_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2 << 20)))],
    ],
    ids=["one that inflates", "many", "a colour profile"],
)
def test_png_with_more_text_than_is_read_is_told_by_it_and_not_called_damaged(chunks, place):
    content = save(Image.fromarray(CORNERS))
    content = content[:place] + b"".join(chunks) + content[place:]
    assert refused(content) == (
        "PNG with a text or a colour profile of more than 1 MiB, or texts of more than 64 MiB: "
        "save it without them"
    )


def test_png_with_altered_pixels_is_refused():
    content = bytearray(save(Image.fromarray(smooth_gray())))
    content[len(content) // 2] ^= 0xFF
    assert "damaged" in refused(bytes(content))


def test_jpeg_with_overwritten_bytes_is_refused():
    noise = np.random.default_rng(0).integers(0, 256, size=(200, 200), dtype=np.uint8)
    content = bytearray(save(Image.fromarray(noise), "JPEG"))
    middle = len(content) // 2
    content[middle : middle + 40] = b"\xff\xd9" * 20
    assert "damaged" in refused(bytes(content))


@pytest.mark.parametrize(("width", "height"), [(10_001, 1), (1, 10_001), (9_000, 9_000)])
def test_absurd_size_is_refused_from_the_header_alone(width, height):
    # The file holds no pixels at all, so nothing can have been decoded.
    assert refused(png_of(width, height, b"")).startswith(f"{width} x {height} pixels, more than")


def test_jpeg_that_claims_to_be_huge_is_refused_before_decoding():
    content = bytearray(save(Image.fromarray(smooth_gray()), "JPEG"))
    frame = content.index(b"\xff\xc0")
    content[frame + 5 : frame + 9] = struct.pack(">HH", 65_000, 65_000)
    assert "megapixels" in refused(bytes(content))


def test_bmp_whose_fourth_byte_is_unused_is_not_black():
    picture = Image.fromarray(np.full((4, 4, 4), [10, 20, 30, 0], dtype=np.uint8))
    content = bytearray(save(picture, "BMP"))
    header = struct.pack(
        "<IiiHHIIiiII4I", 108, 4, 4, 1, 32, 3, 64, 0, 0, 0, 0, 0xFF0000, 0xFF00, 0xFF, 0xFF000000
    )
    content = (
        b"BM"
        + struct.pack("<IHHI", 14 + 108 + 64, 0, 0, 14 + 108)
        + header.ljust(108, b"\0")
        + bytes([30, 20, 10, 0]) * 16
    )
    assert read(content).pixels.reshape(-1, 3).tolist() == [[10, 20, 30]] * 16


@pytest.mark.parametrize("file_format", ["GIF", "TIFF", "PNG", "WEBP"])
def test_several_frames_or_pages_are_refused(file_format):
    frames = [Image.fromarray(np.roll(CORNERS, step).repeat(9, 0)) for step in range(3)]
    content = save(frames[0], file_format, save_all=True, append_images=frames[1:])
    assert refused(content).startswith("several frames (animated, or several pages)")


def test_pages_are_not_counted_when_the_first_tells_of_a_second(monkeypatch):
    pages = 50
    page = save(Image.fromarray(CORNERS), "TIFF")
    content = save(
        Image.open(io.BytesIO(page)),
        "TIFF",
        save_all=True,
        append_images=[Image.fromarray(CORNERS)] * (pages - 1),
    )
    looked_at = []
    seek = TiffImageFile._seek
    monkeypatch.setattr(
        TiffImageFile, "_seek", lambda image, frame: looked_at.append(frame) or seek(image, frame)
    )
    assert "several frames" in refused(content)
    assert max(looked_at) == 0


def test_page_that_names_itself_as_the_next_is_one_page():
    content = bytearray(save(Image.fromarray(CORNERS), "TIFF"))
    directory = struct.unpack_from("<I", content, 4)[0]
    entries = struct.unpack_from("<H", content, directory)[0]
    struct.pack_into("<I", content, directory + 2 + 12 * entries, directory)
    np.testing.assert_array_equal(read(bytes(content)).pixels[:, :, 0], CORNERS)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"%PDF-1.7 and so on", "a PDF"),
        (b"PK\x03\x04 and so on", "a ZIP archive"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<html></html>", "a web page"),
        (bytes(128) + b"DICM" + bytes(20), "DICOM without an image"),
        (b"hello, this is text", "it starts with b'hello, t'"),
    ],
)
def test_file_that_is_no_image_is_told_by_what_it_is(content, said):
    assert said in refused(content)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize(("mode", "shape"), [("L", (5, 7)), ("RGB", (5, 7, 3))])
def test_an_image_stored_as_gray_is_decoded_to_one_channel_and_a_colour_one_to_three(
    kind, mode, shape
):
    buffer = io.BytesIO()
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8), mode).save(buffer, kind)
    found = decode_as_stored(buffer.getvalue())
    assert found.shape == shape
    expected = decode_image(buffer.getvalue())
    np.testing.assert_array_equal(
        found if mode == "RGB" else np.stack([found] * 3, axis=2), expected
    )


def deep_files():
    """Yield 4 megapixels of several kinds, and the bytes of arrays that a pixel may take."""
    colors = np.linspace(0, 65535, 16_000_000).astype(np.uint16).reshape(2000, 2000, 4)
    gray = np.arange(4_000_000, dtype=np.uint32).reshape(2000, 2000)
    planes = [colors[:, :, plane].tobytes() for plane in range(4)]
    fields = {256: [2000], 257: [2000], 258: [16] * 4, 259: [1], 262: [2], 277: [4], 278: [2000]}
    fields |= {279: [len(plane) for plane in planes], 284: [2], 338: [2]}
    window = {"WindowCenter": 2**22, "WindowWidth": 2**22, "RescaleSlope": 2}
    # Before large arrays were handled in place or by bands: 23, 23, 38, 35 and 49.
    yield "16-bit PNG", cv2.imencode(".png", colors)[1].tobytes(), 20
    yield "float TIFF", cv2.imencode(".tif", gray.astype(np.float32))[1].tobytes(), 27
    yield "TIFF of planes", tiff_of(fields, planes), 20
    yield "32-bit DICOM", dicom(gray), 27
    yield "32-bit DICOM with a window", dicom(gray, **window), 39


@pytest.mark.parametrize("kind", range(5))
def test_deep_images_are_read_in_a_few_times_their_own_memory(kind):
    name, content, most_bytes_a_pixel = list(deep_files())[kind]
    tracemalloc.start()
    try:
        read_file(content)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4_000_000 * most_bytes_a_pixel, name


def test_lack_of_memory_is_no_damage_of_the_file(monkeypatch):
    def fail(*_args, **_settings):
        raise MemoryError

    monkeypatch.setattr(simplejpeg, "decode_jpeg", fail)
    jpeg = simplejpeg.encode_jpeg(np.zeros((8, 8, 3), dtype=np.uint8))
    with pytest.raises(MemoryError):
        read_file(jpeg)
