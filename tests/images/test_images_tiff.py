"""TIFF of every compression: whole ones are read as they are, damaged ones refused."""

from __future__ import annotations

import io
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image
from tiff_files import tiff_of

from sightline.images import ImageError, read_file

Y, X = np.mgrid[:300, :400]
COLOR = Image.fromarray(np.stack([X % 256, Y % 256, (X + Y) % 256], axis=-1).astype(np.uint8))
PICTURES = {
    "RGB": COLOR,
    "gray": COLOR.convert("L"),
    "16 bit": Image.fromarray((30 * (X + Y)).astype(np.uint16)),
    "CMYK": COLOR.convert("CMYK"),
    "YCbCr": COLOR.convert("YCbCr"),
}
CHECKED = [
    (kind, compression)
    for kind in PICTURES
    for compression in ("tiff_adobe_deflate", "lzma", "jpeg")
    if (kind, compression) != ("16 bit", "jpeg")
]


def saved(picture, compression, **options):
    buffer = io.BytesIO()
    picture.save(buffer, "TIFF", compression=compression, **options)
    return buffer.getvalue()


def last_part(content):
    """Return where the last strip begins, and its size."""
    with Image.open(io.BytesIO(content)) as image:
        tags = image.tag_v2
        assert len(tags[273]) > 1
        return tags[273][-1], tags[279][-1]


def refused(content):
    with pytest.raises(ImageError) as caught:
        read_file(content)
    return str(caught.value)


@pytest.mark.parametrize(("kind", "compression"), CHECKED)
def test_what_is_whole_is_read_and_half_a_strip_is_refused(kind, compression):
    content = saved(PICTURES[kind], compression)
    (image,) = read_file(content)
    with Image.open(io.BytesIO(content)) as expected:
        if kind != "16 bit":
            assert np.array_equal(image.pixels, np.asarray(expected.convert("RGB")))
    start, size = last_part(content)
    empty = content[: start + size // 2] + bytes(size - size // 2) + content[start + size :]
    assert "of the TIFF is not whole" in refused(empty)
    # As if the table of the strips had another size in it.
    shorter = content.replace(struct.pack("<I", size), struct.pack("<I", size // 2))
    assert shorter != content
    assert "of the TIFF is not whole" in refused(shorter)


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits"])
def test_half_a_strip_without_checksum_is_refused_by_its_length(compression, capfd):
    content = saved(COLOR, compression)
    start, size = last_part(content)
    empty = content[: start + size // 2] + bytes(size - size // 2) + content[start + size :]
    assert "damaged or cut short" in refused(empty)
    if sys.platform == "linux":
        assert capfd.readouterr().err == ""  # libtiff's own lines name no file


@pytest.mark.parametrize(
    ("compression", "name"),
    [("group3", "CCITT G3"), ("group4", "CCITT G4"), ("tiff_ccitt", "CCITT RLE"), ("zstd", "zstd")],
)
def test_what_hides_damage_is_refused_whole(compression, name):
    content = saved(COLOR.convert("1"), compression)
    assert refused(content) == (
        f"TIFF compressed with {name}, where damage does not show: save it with LZW or deflate"
    )


@pytest.mark.parametrize(
    ("marker", "bits", "kind"), [(0xC1, 12, "JPEG of 12 bits a value"), (0xF7, 8, "JPEG-LS")]
)
def test_jpeg_that_nothing_decodes_is_told_by_its_kind(marker, bits, kind):
    picture = io.BytesIO()
    PICTURES["gray"].resize((64, 64)).save(picture, "JPEG")
    coded = bytearray(picture.getvalue())
    frame = coded.index(b"\xff\xc0")
    coded[frame + 1], coded[frame + 4] = marker, bits
    content = plain([bytes(coded)], 64, tag259=[7], tag258=[bits])
    assert refused(content) == f"TIFF of {kind}: save it with LZW or deflate"


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(
    # The numbers that tifffile and libtiff have for them.
    ("number", "name"),
    [(34712, "JPEG 2000"), (34933, "PNG"), (50002, "JPEG XL"), (34887, "LERC"), (77, "method 77")],
)
def test_compression_that_is_not_read_is_told_by_its_name(number, name, bits):
    content = plain(STRIPS, 32, tag259=[number], tag258=[bits])
    said = f"TIFF compressed with {name}, which is not read: save it with LZW or deflate"
    assert said in refused(content)


@pytest.mark.parametrize("planar", [1, 2])
@pytest.mark.parametrize(
    ("photometric", "samples", "bits", "extra", "told"),
    [
        (1, 2, 16, [1], "of premultiplied alpha"),
        (2, 5, 16, [0, 0], "without a meaning, without a meaning"),
        (5, 5, 8, [2], "of alpha"),
        (5, 5, 16, [2], "of alpha"),
    ],
)
def test_sample_beside_the_colours_that_is_not_read_is_told(
    photometric, samples, bits, extra, told, planar
):
    tags = {"tag258": [bits] * samples, "tag262": [photometric], "tag277": [samples]}
    plane = bytes(64 * 64 * bits // 8)
    parts = [plane] * samples if planar == 2 else [samples * plane]
    said = refused(plain(parts, 64, tag284=[planar], tag338=extra, **tags))
    assert f"with a sample {told}, which is not read" in said
    assert "without that sample" in said


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits"])
def test_ycbcr_that_hides_damage_is_refused(compression):
    assert "TIFF of YCbCr" in refused(saved(PICTURES["YCbCr"], compression))


def plain(parts, rows, length=64, **tags):
    """Return an uncompressed 8-bit TIFF, 64 pixels wide, whose strips have so many rows."""
    fields = {
        **{256: [64], 257: [length], 258: [8], 259: [1], 262: [1], 277: [1], 278: [rows]},
        **{279: [len(part) for part in parts]},
        **{int(name.removeprefix("tag")): value for name, value in tags.items()},
    }
    return tiff_of(fields, parts)


STRIPS = [bytes(range(64)) * 32, bytes(range(100, 164)) * 32]


def test_plain_strips_are_read_as_they_lie():
    (image,) = read_file(plain(STRIPS, 32))
    assert image.pixels[:, :, 0].tobytes() == b"".join(STRIPS)
    # Sizes that are left out follow from the rest; one too large reaches beyond the picture.
    for sizes in ([], [2048, 10_000]):
        assert np.array_equal(read_file(plain(STRIPS, 32, tag279=sizes))[0].pixels, image.pixels)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (plain(STRIPS[:1], 32), "parts are missing: 1 of the TIFF's 2"),
        (plain(STRIPS, 32, length=8256), "parts are missing: 2 of the TIFF's 258"),
        (plain(STRIPS, 32, tag277=[3], tag284=[2], tag262=[2]), "parts are missing: 2 of"),
        (plain(STRIPS, 32, tag279=[1000, 2048]), "part 1 of the TIFF is not whole"),
        (plain(STRIPS, 32)[:-100], "cut short"),
        (plain(STRIPS, 32, tag262=[]), "does not say whether 0 is black"),
        (
            plain(STRIPS, 32, tag262=[3], tag320=[*range(256)] * 3),
            "palette has values of 8 bits instead of 16",
        ),
    ],
)
def test_what_pillow_would_fill_or_guess_is_refused(content, reason):
    assert reason in refused(content)


def tiled(parts, side):
    """Return an 8-bit gray TIFF of 40 x 24 pixels in deflated tiles."""
    fields = {
        **{256: [40], 257: [24], 258: [8], 259: [8], 262: [1], 277: [1], 322: [side], 323: [side]},
        **{325: [len(part) for part in parts]},
    }
    return tiff_of(fields, parts)


def test_every_tile_must_be_whole():
    draw = np.random.default_rng(0)
    tiles = draw.integers(0, 256, (2, 3, 16, 16), dtype=np.uint8)
    parts = [zlib.compress(tile.tobytes()) for tile in tiles.reshape(-1, 16, 16)]
    whole = tiles.transpose(0, 2, 1, 3).reshape(32, 48)[:24, :40]
    (image,) = read_file(tiled(parts, 16))
    assert np.array_equal(image.pixels[:, :, 0], whole)
    parts[4] = zlib.compress(tiles.reshape(-1, 16, 16)[4].tobytes() + bytes(3_000_000))
    assert np.array_equal(read_file(tiled(parts, 16))[0].pixels, image.pixels)
    parts[4] = parts[4][:100]
    assert "part 5 of the TIFF is not whole" in refused(tiled(parts, 16))


def written(order, values, *, deflated, **tags):
    """Return a TIFF in a byte order, of one strip of gray or of planes that follow one another."""
    height, width = values.shape[-2:]
    planes = values.astype(values.dtype.newbyteorder(order)).reshape(-1, height, width)
    parts = [zlib.compress(p.tobytes()) if deflated else p.tobytes() for p in planes]
    bits, kind = 8 * values.itemsize, {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    fields = {
        **{256: [width], 257: [height], 258: [bits] * len(parts), 259: [8 if deflated else 1]},
        **{262: [1], 277: [len(parts)], 278: [height], 279: [len(part) for part in parts]},
        **{284: [1 + (len(parts) > 1)], 339: [kind]},
        **{int(name.removeprefix("tag")): value for name, value in tags.items()},
    }
    return tiff_of(fields, parts, order)


@pytest.mark.parametrize("deflated", [True, False])
@pytest.mark.parametrize("kind", ["i2", "u2", "i4", "f4"])
def test_values_are_the_same_in_both_byte_orders(kind, deflated):
    values = np.linspace(0 if kind[0] == "u" else -500, 3000, 48).astype(kind).reshape(6, 8)
    low, high = np.percentile(values, [0.5, 99.5])
    expected = np.round(255 * np.clip((values - low) / (high - low), 0, 1))
    for order in "<>":
        (image,) = read_file(written(order, values, deflated=deflated))
        assert np.abs(image.pixels[:, :, 0] - expected).max() <= 1
        assert f"values {low:g} to {high:g}" in image.notes[0]


@pytest.mark.parametrize("deflated", [True, False])
def test_gray_and_alpha_plane_by_plane_is_refused_and_not_painted_black(deflated):
    planes = np.stack([np.full((6, 8), 200), np.full((6, 8), 255)]).astype(np.uint8)
    content = written("<", planes, deflated=deflated, tag338=[2])
    assert "gray and alpha plane by plane" in refused(content)


@pytest.mark.parametrize("planar", [1, 2])
@pytest.mark.parametrize("kind", ["u1", "u2"])
def test_channels_without_a_meaning_are_refused_and_not_left_out(kind, planar):
    # As microscopes write their channels: gray, and the others as extra samples of no kind.
    planes = np.stack([np.full((6, 8), 10 * n) for n in range(3)]).astype(kind)
    size = planes.nbytes // (3 if planar == 2 else 1)
    parts = [planes.tobytes()[place : place + size] for place in range(0, planes.nbytes, size)]
    fields = {
        **{256: [8], 257: [6], 258: [8 * planes.itemsize] * 3, 259: [1], 262: [1], 277: [3]},
        **{278: [6], 279: [size] * len(parts), 284: [planar], 338: [0, 0]},
    }
    said = refused(tiff_of(fields, parts))
    assert "gray with 3 samples a pixel" in said or "TIFF of 3 samples of" in said


def test_reason_tells_the_first_of_a_tags_numbers_and_no_text_in_their_place():
    said = refused(plain(STRIPS, 32, tag277=[3392], tag258=[8] * 200_000))
    assert "TIFF of 3392 samples of 8/8/8/8/8/… bits" in said
    content = bytearray(plain(STRIPS, 32))
    kind = content.index(struct.pack("<HHI", 262, 4, 1))
    content[kind : kind + 8] = struct.pack("<HHI", 262, 2, 4)  # as a text
    content[kind + 8 : kind + 12] = b"Doe\0"
    assert "photometric interpretation unreadable" in refused(bytes(content))


def test_preview_of_a_raw_file_is_refused_and_not_taken_for_the_picture():
    assert len(read_file(plain(STRIPS, 32, tag254=[1]))) == 1
    assert "a camera's raw file" in refused(plain(STRIPS, 32, tag254=[1], tag330=[8]))


def test_what_pillow_logs_of_a_file_that_it_does_not_name_is_not_logged(caplog):
    assert "2049 samples" in refused(plain(STRIPS, 32, tag277=[2049]))
    assert not caplog.records


def test_big_tiff_in_big_endian_order_is_refused_by_name():
    assert "BigTIFF in big-endian order" in refused(b"MM\0+\0\x08\0\0" + bytes(30))


@pytest.mark.parametrize("mode", ["L", "I;16"])
def test_stack_that_imagej_wrote_as_one_page_is_refused(mode):
    page = Image.fromarray(np.zeros((6, 8), np.uint8 if mode == "L" else np.uint16))
    for images in (1, 30):
        content = saved(page, None, description=f"ImageJ=1.54\nimages={images}\nslices={images}\n")
        if images > 1:
            assert "several frames" in refused(content)
        else:
            assert len(read_file(content)) == 1


@pytest.mark.parametrize("tags", [{"tag530": [2, 1]}, {"tag530": [2, 2]}, {}])
def test_uncompressed_ycbcr_with_fewer_colours_is_refused(tags):
    # Two or four pixels share two colours, which Pillow reads as three bytes a pixel.
    content = plain([bytes(64 * 64 * 3)], 64, tag262=[6], tag277=[3], tag258=[8, 8, 8], **tags)
    assert "YCbCr with colours of fewer pixels" in refused(content)


def test_uncompressed_ycbcr_with_all_colours_is_read():
    pixels = np.tile(np.array([76, 85, 255], np.uint8), 64 * 64)  # red, as JPEG rounds it
    content = plain([pixels.tobytes()], 64, tag262=[6], tag277=[3], tag258=[8, 8, 8], tag530=[1, 1])
    (image,) = read_file(content)
    assert np.abs(image.pixels.astype(int) - [254, 0, 0]).max() <= 1
