"""TIFFs of every type, order and arrangement of values: read as they are, or told by their kind."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from tiff_files import tiff_of

from sightline.images import ImageError, deep, read_file, tiff_values

KINDS = ["u2", "i2", "f2", "u4", "i4", "f4", "u8", "i8", "f8"]
FORMATS = {"u": 1, "i": 2, "f": 3}
Y, X = np.mgrid[:24, :40]
GRAY = (Y + 2 * X)[:, :, None]
COLOR = np.stack([Y + 2 * X, 90 - Y, X], axis=-1)


def of_kind(values, kind):
    """Return values that need the type: of both signs, whole or not, but never beyond it."""
    return ((values - 40 * (kind[0] != "u")) * (1 if kind[0] != "f" else 0.25)).astype(kind)


def fields_of(values, order, photometric, **tags):
    height, width, samples = values.shape
    return {
        **{256: [width], 257: [height], 258: [8 * values.itemsize] * samples, 259: [8]},
        **{262: [photometric], 277: [samples], 339: [FORMATS[values.dtype.kind]] * samples},
        **{int(name.removeprefix("tag")): value for name, value in tags.items()},
    }


def strip_file(values, order="<", photometric=None, encode=None, **tags):
    """Return a TIFF of two deflated strips, each row encoded as bytes by `encode`."""
    photometric = (2 if values.shape[2] > 2 else 1) if photometric is None else photometric
    ordered = values.astype(values.dtype.newbyteorder(order))
    rows = [encode(row) if encode else row.tobytes() for row in ordered]
    parts = [zlib.compress(b"".join(rows[start : start + 16])) for start in (0, 16)]
    fields = fields_of(values, order, photometric, **tags)
    sizes = {278: [16], 279: [len(part) for part in parts]}
    return tiff_of({**sizes, **fields}, parts, order)


def shown(values):
    """Return what the documented window makes of all values."""
    values = values.astype(np.float64)
    low, high = np.percentile(values, (0.5, 99.5))
    return np.round(255 * np.clip((values - low) / (high - low), 0, 1))


def read(content):
    (image,) = read_file(content)
    return image


def refused(content):
    with pytest.raises(ImageError) as caught:
        read_file(content)
    return str(caught.value)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("picture", [GRAY, COLOR], ids=["gray", "colour"])
def test_values_of_every_type_are_read_in_both_byte_orders(picture, kind, order):
    values = of_kind(picture, kind)
    image = read(strip_file(values, order))
    np.testing.assert_array_equal(image.pixels, np.broadcast_to(shown(values), COLOR.shape))
    name = "gray" if picture is GRAY else "colour"
    assert image.notes[0].startswith(f"{8 * values.itemsize}-bit {name}, values")


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", KINDS)
def test_values_whose_zero_is_white_are_turned(kind, order):
    values = of_kind(GRAY, kind)
    image = read(strip_file(values, order, photometric=0))
    np.testing.assert_array_equal(image.pixels[:, :, :1], 255 - shown(values))


def test_float64_keeps_what_float32_would_round():
    values = 1e9 + GRAY / 64.0
    assert len(np.unique(read(strip_file(values)).pixels)) > 90  # of 102 values


def differences(row):
    ordered = row.view(row.dtype.str.replace("i", "u"))
    return np.diff(ordered, axis=0, prepend=ordered[:1] * 0).astype(ordered.dtype).tobytes()


def float_differences(row):
    # Adobe's technical note 3: the highest bytes of all values first, then differences of bytes.
    planes = row.astype(row.dtype.newbyteorder(">")).reshape(-1, 1).view(np.uint8).T
    ordered = planes.reshape(-1, row.shape[1])
    return np.diff(ordered, axis=0, prepend=ordered[:1] * 0).tobytes()


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("picture", [GRAY, COLOR], ids=["gray", "colour"])
@pytest.mark.parametrize(
    ("kind", "predictor", "encode"),
    [(kind, 2, differences) for kind in KINDS if kind[0] != "f"]
    + [(kind, 3, float_differences) for kind in ("f2", "f4", "f8")],
)
def test_values_stored_as_differences_are_added_up(kind, predictor, encode, picture, order):
    values = of_kind(picture, kind)
    content = strip_file(values, order, encode=encode, tag317=[predictor])
    np.testing.assert_array_equal(read(content).pixels, read(strip_file(values)).pixels)


def test_predictor_of_what_is_not_compressed_means_nothing():
    values = of_kind(GRAY, "u2")
    body = values.tobytes()
    fields = {**fields_of(values, "<", 1), 259: [1], 278: [24], 279: [len(body)], 317: [2]}
    np.testing.assert_array_equal(read(tiff_of(fields, [body])).pixels[:, :, :1], shown(values))
    assert refused(strip_file(values, tag317=[3])) == (
        "TIFF with a predictor of 3: save it without one"
    )


def test_tiles_that_reach_beyond_the_picture_are_cut():
    values = of_kind(COLOR, "f4")
    padded = np.pad(values, ((0, 8), (0, 8), (0, 0)), constant_values=1e9)
    tiles = padded.reshape(2, 16, 3, 16, 3).swapaxes(1, 2).reshape(-1, 16, 16, 3)
    for predictor, encode in ((1, None), (3, float_differences)):
        parts = [
            zlib.compress(b"".join(encode(row) if encode else row.tobytes() for row in tile))
            for tile in tiles
        ]
        sizes = {322: [16], 323: [16], 325: [len(part) for part in parts], 317: [predictor]}
        content = tiff_of({**fields_of(values, "<", 2), **sizes}, parts)
        np.testing.assert_array_equal(read(content).pixels, shown(values))


@pytest.mark.parametrize("at_once", [1, 200, 700, 1500, 3000, 1 << 20])
@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize("planar", [1, 2])
@pytest.mark.parametrize("rows", [1, 5, 13, 24, 2**32 - 1])
def test_strips_are_put_together_however_many_are_decoded_at_once(
    rows, planar, compression, at_once, monkeypatch
):
    monkeypatch.setattr(tiff_values, "_AT_ONCE_BYTES", at_once)
    values = of_kind(COLOR, "u2")
    planes = [values] if planar == 1 else [values[:, :, plane] for plane in range(3)]
    parts = [plane[top : top + rows].tobytes() for plane in planes for top in range(0, 24, rows)]
    parts = [zlib.compress(part) if compression == 8 else part for part in parts]
    sizes = {278: [rows], 279: [len(part) for part in parts], 284: [planar], 259: [compression]}
    content = tiff_of({**fields_of(values, "<", 2), **sizes}, parts)
    np.testing.assert_array_equal(read(content).pixels, shown(values))


@pytest.mark.parametrize("at_once", [1, 300, 3000, 9000, 1 << 20])
@pytest.mark.parametrize("planar", [1, 2])
@pytest.mark.parametrize("side", [16, 64])
def test_tiles_are_put_together_however_many_are_decoded_at_once(
    side, planar, at_once, monkeypatch
):
    monkeypatch.setattr(tiff_values, "_AT_ONCE_BYTES", at_once)
    monkeypatch.setattr(deep, "_AT_ONCE", min(at_once, 300))
    values = of_kind(COLOR, "u2")
    padded = np.pad(values, [(0, -24 % side), (0, -40 % side), (0, 0)], constant_values=9999)
    planes = [padded] if planar == 1 else [padded[:, :, plane] for plane in range(3)]
    parts = [
        zlib.compress(plane[top : top + side, left : left + side].tobytes())
        for plane in planes
        for top in range(0, 24, side)
        for left in range(0, 40, side)
    ]
    sizes = {322: [side], 323: [side], 325: [len(part) for part in parts], 284: [planar]}
    content = tiff_of({**fields_of(values, "<", 2), **sizes}, parts)
    np.testing.assert_array_equal(read(content).pixels, shown(values))


@pytest.mark.parametrize(("width", "height"), [(0, 16), (16, 0)])
def test_tiles_of_no_size_are_refused_by_it(width, height):
    tiles = {322: [width], 323: [height], 325: [16]}
    content = tiff_of({**fields_of(of_kind(GRAY, "u2"), "<", 1), **tiles}, [bytes(16)])
    assert refused(content) == f"{width} x {height} pixels"


@pytest.mark.parametrize("size", [1, 5000])
def test_tiles_of_more_bytes_than_any_picture_are_refused_however_small_the_picture(size):
    fields = {256: [size], 257: [size], 258: [64] * 4, 259: [5], 262: [2], 277: [4], 338: [0]}
    tiles = {322: [9984], 323: [4992], 325: [16], 339: [3] * 4}
    assert refused(tiff_of({**fields, **tiles}, [bytes(16)])).startswith("more than 400 MB of val")


@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize("kind", ["u2", "f8"])
def test_pillows_own_limit_of_pixels_does_not_count_bytes(kind, compression, monkeypatch):
    # It is twice this number, here of the picture's pixels, not of its bytes.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", COLOR.size // 6 + 1)
    values = of_kind(COLOR, kind)
    body = zlib.compress(values.tobytes()) if compression == 8 else values.tobytes()
    fields = {**fields_of(values, "<", 2), 259: [compression], 278: [24], 279: [len(body)]}
    np.testing.assert_array_equal(read(tiff_of(fields, [body])).pixels, shown(values))


@pytest.mark.parametrize("compression", [1, 8])
def test_colours_plane_by_plane_are_put_together(compression):
    values = of_kind(COLOR, "u2")
    planes = [values[:16, :, plane].tobytes() for plane in range(3)]
    rest = [values[16:, :, plane].tobytes() for plane in range(3)]
    parts = [part for pair in zip(planes, rest, strict=True) for part in pair]
    parts = [zlib.compress(part) if compression == 8 else part for part in parts]
    sizes = {278: [16], 279: [len(part) for part in parts], 284: [2], 259: [compression]}
    content = tiff_of({**fields_of(values, "<", 2), **sizes}, parts)
    np.testing.assert_array_equal(read(content).pixels, shown(values))


@pytest.mark.parametrize("kind", ["u1", "u2"])
@pytest.mark.parametrize("compression", [1, 8])
def test_bits_in_reverse_order_are_turned(kind, compression):
    # TIFF 6.0, FillOrder 2; of what is compressed, libtiff turns the bytes that it reads.
    values = of_kind(GRAY, kind)
    turned = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
    body = values.tobytes()
    part = (zlib.compress(body) if compression == 8 else body).translate(turned)
    fields = {**fields_of(values, "<", 1), 259: [compression], 266: [2], 278: [24]}
    expected = shown(values) if kind == "u2" else values
    image = read(tiff_of({**fields, 279: [len(part)]}, [part]))
    np.testing.assert_array_equal(image.pixels[:, :, :1], expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_values_are_turned_upright(orientation):
    values = of_kind(GRAY, "f8")
    image = read(strip_file(values, tag274=[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    same = Image.fromarray(shown(values)[:, :, 0].astype(np.uint8))
    content = strip_file(np.asarray(same)[:, :, None], tag274=[orientation])
    np.testing.assert_array_equal(image.pixels, read(content).pixels)


def test_big_tiff_is_read():
    values = of_kind(GRAY, "f8")
    body = values.tobytes()
    fields = {**fields_of(values, "<", 1), 259: [1], 278: [24], 279: [len(body)]}
    fields[273] = [16 + 8 + 20 * (len(fields) + 1) + 8]
    directory = b"".join(
        struct.pack("<HHQQ", number, 16, 1, value[0]) for number, value in sorted(fields.items())
    )
    head = b"II" + struct.pack("<HHHQ", 43, 8, 0, 16)
    content = head + struct.pack("<Q", len(fields)) + directory + bytes(8) + body
    np.testing.assert_array_equal(read(content).pixels[:, :, :1], shown(values))


def test_alpha_beside_gray_hides_what_it_covers():
    values = np.concatenate([of_kind(GRAY, "u2"), np.full_like(GRAY, 65535)], axis=2)
    values = values.astype(np.uint16)
    values[0, :, 1] = 0
    image = read(strip_file(values, photometric=1, tag338=[2]))
    assert (image.pixels[0] == 0).all()
    np.testing.assert_array_equal(image.pixels[1:, :, :1], shown(values[1:, :, :1]))


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({"tag258": [24]}, "TIFF of 1 sample of 24 bits, sample format 1"),
        ({"tag339": [6]}, "TIFF of 1 sample of 16 bits, sample format 6"),
        ({"tag262": [32803]}, "photometric interpretation 32803"),
    ],
)
def test_kind_that_is_not_read_is_told_and_not_called_damaged(tags, said):
    assert said in refused(strip_file(of_kind(GRAY, "u2"), **tags))


def test_premultiplied_colour_plane_by_plane_is_refused_by_name():
    values = np.zeros((24, 40, 4), np.uint8)
    assert refused(strip_file(values, tag284=[2], tag338=[1])) == (
        "TIFF of premultiplied colour plane by plane: save it pixel by pixel"
    )


def test_values_that_take_too_much_memory_are_refused_before_they_are_read():
    values = of_kind(COLOR, "f8")
    content = strip_file(values, tag256=[7000], tag257=[7000])
    assert refused(content) == "more than 400 MB of values: scale it down"
