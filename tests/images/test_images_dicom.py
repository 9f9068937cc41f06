"""DICOM files: windowed as their tags say, or refused with the reason."""

from __future__ import annotations

import base64
import hashlib
import io
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_files import compressed, dicom, dicom_set, item, save
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_voi_lut
from pydicom.uid import (
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSLossless,
    RLELossless,
)

from sightline.images import ImageError, read_file

RAMP = np.arange(-1000, 1000, dtype=np.int16).reshape(40, 50)
DEEP = np.arange(0, 2000, dtype=np.uint16).reshape(40, 50)
BYTES = np.arange(0, 200, dtype=np.uint8).reshape(10, 20)


def read(content, **options):
    (image,) = read_file(content, "scan.dcm", **options)
    return image


def gray_of(content):
    image = read(content)
    assert (image.pixels == image.pixels[:, :, :1]).all()
    return image.pixels[:, :, 0]


def refused(content, **options):
    with pytest.raises(ImageError) as caught:
        read_file(content, "scan.dcm", **options)
    return str(caught.value)


def window(center, width, **tags):
    return {"WindowCenter": center, "WindowWidth": width, **tags}


def linear(values, center, width):
    # PS3.3 C.11.2.1.2.1, its output from 0 to 255.
    share = (values.astype(float) - (center - 0.5)) / (width - 1) + 0.5
    return np.round(255 * np.clip(share, 0, 1))


def exact(values, center, width):
    return np.round(255 * np.clip((values.astype(float) - center) / width + 0.5, 0, 1))


def sigmoid(values, center, width):
    return np.round(255 / (1 + np.exp(-4 * (values.astype(float) - center) / width)))


# The whole range of 40 around 400 wide, of the default function: -159.5 is black, 239 white.
TABLE = {
    "window": (dicom(RAMP, **window(40, 400)), linear(RAMP, 40, 400)),
    "the first of two windows": (
        dicom(RAMP, **window([40, 300], [400, 1500])),
        linear(RAMP, 40, 400),
    ),
    "linear exact": (
        dicom(RAMP, **window(40, 400, VOILUTFunction="LINEAR_EXACT")),
        exact(RAMP, 40, 400),
    ),
    "sigmoid": (dicom(RAMP, **window(40, 400, VOILUTFunction="SIGMOID")), sigmoid(RAMP, 40, 400)),
    "width 1 is a threshold": (dicom(RAMP, **window(40, 1)), np.where(RAMP > 39.5, 255, 0)),
    "rescaled, then windowed": (
        dicom(DEEP, **window(40, 400, RescaleSlope=2, RescaleIntercept=-1024)),
        linear(2.0 * DEEP - 1024, 40, 400),
    ),
    "MONOCHROME1": (
        dicom(RAMP, **window(40, 400, PhotometricInterpretation="MONOCHROME1")),
        255 - linear(RAMP, 40, 400),
    ),
    "no window: percentiles 0.5 and 99.5": (
        # Of 0 to 1999 evenly: 9.995 and 1989.005.
        dicom(DEEP),
        np.round(255 * np.clip((DEEP - 9.995) / (1989.005 - 9.995), 0, 1)),
    ),
    "8 bit without a window as it is": (dicom(BYTES), BYTES),
    "12 of 16 bits with a window": (
        dicom(DEEP, **window(1000, 2000, BitsStored=12)),
        linear(DEEP, 1000, 2000),
    ),
}


@pytest.mark.parametrize("case", TABLE)
def test_gray_comes_in_shape_and_values_as_the_standard_says(case):
    content, expected = TABLE[case]
    gray = gray_of(content)
    assert gray.shape == expected.shape
    assert np.abs(gray - expected).max() <= 1
    assert gray.mean() == pytest.approx(expected.mean(), abs=0.1)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_window_agrees_with_pydicoms_own(function):
    data = dicom_set(DEEP, **window(700, 900, VOILUTFunction=function))
    theirs = apply_voi_lut(DEEP, data) / 65535 * 255
    assert np.abs(gray_of(save(data)) - theirs).max() <= 0.51


def test_window_says_how_much_of_the_picture_it_cuts():
    # -160 <= value <= 239 are 400 of 2,000 values.
    assert read(dicom(RAMP, **window(40, 400))).notes == (
        "window of the tags (LINEAR), values around 40, 400 wide, 80 % of the pixels beyond it",
    )


@pytest.mark.parametrize(("center", "width"), [(30_000, 100), (40, 0), (40, -5)])
def test_window_that_shows_nothing_gives_way_to_percentiles(center, width):
    image = read(dicom(RAMP, **window(center, width)))
    assert image.pixels.min() == 0
    assert image.pixels.max() == 255
    assert "16-bit DICOM gray, values" in image.notes[-1]


def test_table_of_values_of_interest_is_applied_over_12_bits():
    # 8-bit entries for more than 256 values: an inverted ramp from 255 down, 4 values a step.
    table = np.repeat(np.arange(255, -1, -1, dtype=np.uint8), 4)
    voi = item(LUTDescriptor=[1024, 100, 8], LUTData=table.tobytes())
    voi["LUTData"].VR = "OW"
    values = np.array([[0, 100, 103, 104], [1119, 1123, 1124, 4095]], dtype=np.uint16)
    gray = gray_of(dicom(values, VOILUTSequence=[voi]))
    assert gray.tolist() == [[255, 255, 255, 254], [1, 0, 0, 0]]


def voi(entries, bits, first=0):
    table = item(LUTDescriptor=[len(entries), first, bits], LUTData=list(map(int, entries)))
    table["LUTData"].VR = "US"
    return table


@pytest.mark.parametrize("bits", [8, 10, 16])
def test_table_of_other_bits_than_it_says_is_shown_up_to_its_highest_entry(bits):
    entries = np.linspace(0, 4095, 2000).round()  # 12 bits
    image = read(dicom(DEEP, VOILUTSequence=[voi(entries, bits)]))
    expected = np.round(entries / 4095 * 255).reshape(DEEP.shape)
    np.testing.assert_array_equal(image.pixels[:, :, 0], expected)
    assert f"whose highest entry 4095 is not one of {bits} bits, and shown white" in image.notes[0]


def test_table_that_stays_below_its_highest_possible_entry_keeps_its_shades():
    entries = np.linspace(0, 3000, 2000).round()
    image = read(dicom(DEEP, VOILUTSequence=[voi(entries, 12)]))
    assert image.pixels.max() == round(3000 / 4095 * 255)


def test_table_with_more_entries_than_it_says_is_refused_and_not_cut():
    table = voi(np.arange(2000), 12)
    table.LUTDescriptor = [1000, 0, 12]
    assert refused(dicom(DEEP, VOILUTSequence=[table])) == (
        "a table of the tags has 2000 entries where it says 1000"
    )


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_modality_table_means_the_same_whatever_bits_it_says(bits):
    modality = voi(np.linspace(4095, 0, 2000).round(), bits)
    modality.ModalityLUTType = "US"
    content = dicom(DEEP, ModalityLUTSequence=[modality], **window(2048, 4096))
    expected = linear(np.linspace(4095, 0, 2000).round(), 2048, 4096).reshape(DEEP.shape)
    np.testing.assert_array_equal(gray_of(content), expected)


def test_modality_table_comes_before_the_window():
    # Stored 0, 1, 2, 3 mean 10, 20, 30, 40; shown from 10 (black) to 40 (white).
    modality = item(LUTDescriptor=[4, 0, 16], LUTData=[10, 20, 30, 40], ModalityLUTType="US")
    modality["LUTData"].VR = "US"
    values = np.array([[0, 1], [2, 3]], dtype=np.uint16)
    tags = window(25, 30, VOILUTFunction="LINEAR_EXACT")
    gray = gray_of(dicom(values, ModalityLUTSequence=[modality], **tags))
    assert gray.tolist() == [[0, 85], [170, 255]]


@pytest.mark.parametrize(
    ("interpretation", "shape", "is_inverse"),
    [
        ("MONOCHROME2", "IDENTITY", False),
        ("MONOCHROME2", "INVERSE", True),
        ("MONOCHROME1", "INVERSE", True),  # both tell of one and the same turn
    ],
)
def test_gray_is_turned_once_by_either_tag(interpretation, shape, is_inverse):
    # PS3.3 C.11.6: with INVERSE, what comes out is inverted.
    tags = {"PhotometricInterpretation": interpretation, "PresentationLUTShape": shape}
    expected = 255 - BYTES if is_inverse else BYTES
    image = read(dicom(BYTES, **tags))
    np.testing.assert_array_equal(image.pixels[:, :, 0], expected)
    assert any("inverted" in note for note in image.notes) == is_inverse


def test_tags_that_tell_both_of_black_and_of_white_are_refused():
    tags = {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "IDENTITY"}
    assert "PresentationLUTShape of IDENTITY" in refused(dicom(BYTES, **tags))


def test_padding_is_black_and_counts_for_no_percentile():
    values = DEEP.copy() + 1
    values[:10] = 60_000
    gray = gray_of(dicom(values, PixelPaddingValue=60_000))
    assert (gray[:10] == 0).all()
    assert gray[10:].max() == 255
    assert gray[25, 0] == pytest.approx(255 * (25 - 10) / 30, abs=2)
    assert (
        "500 pixels of padding set to black" in read(dicom(values, PixelPaddingValue=60_000)).notes
    )


def test_padding_among_32_bit_values_counts_for_no_percentile():
    values = DEEP.astype(np.uint32)
    values[:10] = 60_000
    gray = gray_of(dicom(values, PixelPaddingValue=60_000))
    assert (gray[:10] == 0).all()
    assert gray[10:].max() == 255


def test_negative_padding_among_unsigned_values_is_found():
    values = DEEP.copy()
    values[:5] = 2**16 - 2000
    data = dicom_set(values)
    data.add_new("PixelPaddingValue", "SS", -2000)
    image = read(save(data))
    assert (image.pixels[:5] == 0).all()
    assert image.pixels.max() == 255
    assert any("of padding set to black" in note for note in image.notes)


def test_table_that_begins_below_0_is_read_without_types_in_the_file():
    # In implicit VR nothing says whether the first value is signed; the rescaled values do.
    table = item(LUTDescriptor=[4096, -2048, 8], LUTData=(np.arange(4096) // 16).astype("<u2"))
    table["LUTDescriptor"].VR = "SS"
    data = dicom_set(DEEP, RescaleSlope=1, RescaleIntercept=-2048, VOILUTSequence=[table])
    data.VOILUTSequence[0].LUTData = (np.arange(4096) // 16).astype("<u2").tobytes()
    data.VOILUTSequence[0]["LUTData"].VR = "OW"
    expected = DEEP // 16
    for syntax in (ImplicitVRLittleEndian, None):
        assert np.abs(gray_of(save(data, syntax)) - expected.astype(int)).max() <= 1


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_table_that_begins_above_32767_is_no_negative_one(syntax):
    # Of 16 bits, and less 10: a level below 0 is possible, but does not occur.
    values = 40_010 + DEEP
    entries = np.linspace(0, 255, 2000).round()
    data = dicom_set(values, RescaleSlope=1, RescaleIntercept=-10)
    data.VOILUTSequence = [voi(entries, 8, first=40_000)]
    np.testing.assert_array_equal(gray_of(save(data, syntax)), entries.reshape(DEEP.shape))


def test_table_whose_type_is_unsigned_begins_where_it_says_though_values_are_below_0():
    values = 40_000 + DEEP
    values[0, 0] = 0  # -10 once rescaled
    data = dicom_set(values, RescaleSlope=1, RescaleIntercept=-10)
    entries = np.linspace(0, 255, 2000).round()[::-1]
    data.VOILUTSequence = [voi(entries, 8, first=39_990)]
    np.testing.assert_array_equal(gray_of(save(data)), entries.reshape(DEEP.shape))


def test_padding_of_an_inverted_image_is_black_too():
    values = RAMP.copy()
    values[0] = -2000
    # Written unsigned, as some scanners do.
    data = dicom_set(values, PhotometricInterpretation="MONOCHROME1")
    data.add_new("PixelPaddingValue", "US", 2**16 - 2000)
    gray = gray_of(save(data))
    assert (gray[0] == 0).all()
    assert gray[1, 0] == 255


@pytest.mark.parametrize("written", [2048, 2**16 - 2048])
def test_padding_of_12_signed_bits_written_unsigned_is_found(written):
    # PS3.3 C.7.5.1.1.2: -2048, as its 12 or 16 bits read without a sign.
    values = RAMP.copy()
    values[:5] = -2048
    data = dicom_set(values, BitsStored=12, **window(0, 2000))
    data.add_new("PixelPaddingValue", "US", written)
    image = read(save(data))
    assert (image.pixels[:5] == 0).all()
    assert image.notes[-1] == "250 pixels of padding set to black"


@pytest.mark.parametrize("kind", ["Float", "DoubleFloat"])
def test_padding_of_floating_point_values_counts_for_no_percentile(kind):
    values = np.linspace(0, 1, 2000).reshape(40, 50)
    values = values.astype(np.float32 if kind == "Float" else np.float64)
    values[:5] = -1e6
    data = dicom_set(values)
    for tag in ("BitsStored", "HighBit", "PixelRepresentation", "PixelData"):
        delattr(data, tag)
    setattr(data, f"{kind}PixelData", values.tobytes())
    setattr(data, f"{kind}PixelPaddingValue", -1e6)
    image = read(save(data))
    assert (image.pixels[:5] == 0).all()
    low, high = np.percentile(values[5:], [0.5, 99.5])
    expected = np.round(255 * np.clip((values[5:] - low) / (high - low), 0, 1))
    assert np.abs(image.pixels[5:, :, 0] - expected).max() <= 1
    assert image.notes[-1] == "250 pixels of padding set to black"


def test_padding_may_be_a_range_that_ends_at_zero():
    gray = gray_of(dicom(RAMP, PixelPaddingValue=-500, PixelPaddingRangeLimit=0, **window(-700, 1)))
    np.testing.assert_array_equal(
        gray, np.where((RAMP >= -700) & ((RAMP < -500) | (RAMP > 0)), 255, 0)
    )


def test_padding_may_be_a_range():
    values = DEEP.copy()
    tags = {"PixelPaddingValue": 1900, "PixelPaddingRangeLimit": 2000}
    gray = gray_of(dicom(values, **tags, **window(1000, 1)))
    np.testing.assert_array_equal(gray, np.where((values >= 1000) & (values < 1900), 255, 0))


COLORS = np.array([[[250, 10, 20], [10, 250, 20]], [[20, 10, 250], [128, 128, 128]]], np.uint8)


def test_rgb_is_read_exactly_in_both_orders_of_its_planes():
    tags = {"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}
    pixelwise = dicom(COLORS, PlanarConfiguration=0, **tags)
    planewise = dicom_set(COLORS, PlanarConfiguration=1, **tags)
    planewise.PixelData = COLORS.transpose(2, 0, 1).tobytes()
    for content in (pixelwise, save(planewise)):
        np.testing.assert_array_equal(read(content).pixels, COLORS)


def test_ybr_comes_as_rgb():
    # PS3.3 C.7.6.3.1.2: Y, Cb, Cr of pure red are 76, 85, 255 (rounded up from 254.99).
    ybr = np.array([[[76, 85, 255], [128, 128, 128]]], dtype=np.uint8)
    tags = {"PhotometricInterpretation": "YBR_FULL", "SamplesPerPixel": 3, "PlanarConfiguration": 0}
    pixels = read(dicom(ybr, **tags)).pixels
    np.testing.assert_allclose(pixels, [[[254, 0, 0], [128, 128, 128]]], atol=1)


RGB = {"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3, "PlanarConfiguration": 0}


def test_deep_colour_is_scaled_by_its_bits_and_says_so():
    colors = np.array([[[4095, 0, 2048]]], dtype=np.uint16)
    image = read(dicom(colors, BitsStored=12, **RGB))
    assert image.pixels.tolist() == [[[255, 0, 128]]]
    assert image.notes == ("12-bit colour scaled to 8 bit",)


def test_colour_of_32_bits_is_scaled_over_all_of_them():
    colors = np.array([[[2**32 - 1, 0, 2**31], [65535, 65536, 2**24]]], dtype=np.uint32)
    image = read(dicom(colors, **RGB))
    # 2**24 is 1/256 of the range: 0.996 of 255.
    assert image.pixels.tolist() == [[[255, 0, 128], [0, 0, 1]]]
    assert image.notes == ("32-bit colour scaled to 8 bit",)


@pytest.mark.parametrize("kind", ["i1", "i2", "i4"])
def test_colour_of_signed_values_is_refused(kind):
    colors = np.array([[[-1, 0, 100]] * 2], dtype=kind)
    assert refused(dicom(colors, **RGB)) == "colour of signed values: save it with values from 0"


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_floating_point_gray_needs_no_tags_about_bits(kind):
    # PS3.3 C.7.6.24 and C.7.6.25 define neither BitsStored nor PixelRepresentation beside them.
    values = np.linspace(-1, 1, 2000).astype(kind).reshape(40, 50)
    data = dicom_set(values)
    for tag in ("BitsStored", "HighBit", "PixelRepresentation", "PixelData"):
        delattr(data, tag)
    name = "FloatPixelData" if kind is np.float32 else "DoubleFloatPixelData"
    setattr(data, name, values.tobytes())
    image = read(save(data))
    low, high = np.percentile(values, [0.5, 99.5])
    expected = np.round(255 * np.clip((values - low) / (high - low), 0, 1))
    assert np.abs(image.pixels[:, :, 0] - expected).max() <= 1
    assert image.notes == (
        f"floating-point DICOM gray, values {low:g} to {high:g} spread over 0 to 255",
    )
    data.WindowCenter, data.WindowWidth, data.VOILUTFunction = 0, 1, "LINEAR_EXACT"
    expected = np.round(255 * np.clip(values + 0.5, 0, 1))  # PS3.3 C.11.2.1.3.2
    assert np.abs(gray_of(save(data)) - expected).max() <= 1


@pytest.mark.parametrize("scale", [1, 257])
def test_palette_colour_is_looked_up(scale):
    tables = {}
    for color, entries in (("Red", [10, 20, 30]), ("Green", [40, 50, 60]), ("Blue", [0, 90, 255])):
        tables[f"{color}PaletteColorLookupTableDescriptor"] = [3, 5, 16]
        tables[f"{color}PaletteColorLookupTableData"] = (
            np.array(entries, dtype="<u2") * scale
        ).tobytes()
    values = np.array([[0, 5, 6], [7, 8, 255]], dtype=np.uint8)
    pixels = read(dicom(values, PhotometricInterpretation="PALETTE COLOR", **tables)).pixels
    first, second, third = [10, 40, 0], [20, 50, 90], [30, 60, 255]
    assert pixels.tolist() == [[first, first, second], [third, third, third]]


def test_a_dark_picture_of_a_16_bit_palette_stays_dark():
    tables = {}
    for color in ("Red", "Green", "Blue"):
        tables[f"{color}PaletteColorLookupTableDescriptor"] = [3, 0, 16]
        tables[f"{color}PaletteColorLookupTableData"] = np.array([0, 200, 65535], "<u2").tobytes()
    values = np.array([[0, 1]], dtype=np.uint8)
    image = read(dicom(values, PhotometricInterpretation="PALETTE COLOR", **tables))
    assert image.pixels.max() == round(200 / 257)


FRAMES = np.stack([DEEP, DEEP[::-1], DEEP[:, ::-1]])


def test_several_frames_are_refused_with_the_way_out():
    assert refused(dicom(FRAMES, frames=3)) == (
        "DICOM with 3 frames: set dicom_frames to split, or export them"
    )


def test_several_frames_are_split_in_order_by_setting():
    content = dicom(FRAMES, frames=3, PatientID="A7", **window(1000, 2000))
    images = read_file(content, dicom_frames="split")
    assert [image.frame for image in images] == [1, 2, 3]
    assert len({image.patient for image in images}) == 1
    for image, values in zip(images, FRAMES, strict=True):
        assert np.abs(image.pixels[:, :, 0] - linear(values, 1000, 2000)).max() <= 1


@pytest.mark.parametrize("has_table", [True, False])
@pytest.mark.parametrize("number", [None, 2])
def test_frames_that_the_tags_leave_out_are_refused(number, has_table):
    frame = coded(SMOOTH, "JPEG")
    data = dicom_set(SMOOTH)
    if number:
        data.NumberOfFrames = number
    data.PixelData = encapsulate([frame] * 3, has_bot=has_table)
    content = save(data, JPEGBaseline8Bit)
    assert refused(content, dicom_frames="split") == f"3 frames where the tags say {number or 1}"


def test_frame_in_several_fragments_is_one():
    data = dicom_set(SMOOTH)
    data.PixelData = encapsulate([coded(SMOOTH, "JPEG")], fragments_per_frame=3)
    assert np.abs(gray_of(save(data, JPEGBaseline8Bit)) - SMOOTH.astype(int)).max() <= 8


def test_one_frame_counts_as_no_split():
    assert [image.frame for image in read_file(dicom(DEEP), dicom_frames="split")] == [0]


def test_window_of_a_frame_wins_over_the_one_of_all():
    def group(center, width):
        return item(FrameVOILUTSequence=[item(WindowCenter=center, WindowWidth=width)])

    shared = item(
        PixelValueTransformationSequence=[item(RescaleSlope=2, RescaleIntercept=-100)],
        FrameVOILUTSequence=[item(WindowCenter=500, WindowWidth=100)],
    )
    tags = {
        "SharedFunctionalGroupsSequence": [shared],
        "PerFrameFunctionalGroupsSequence": [group(200, 300), item(), group(1000, 2000)],
    }
    images = read_file(dicom(FRAMES, frames=3, **tags), dicom_frames="split")
    windows = [(200, 300), (500, 100), (1000, 2000)]
    for image, values, (center, width) in zip(images, FRAMES, windows, strict=True):
        expected = linear(2.0 * values - 100, center, width)
        assert np.abs(image.pixels[:, :, 0] - expected).max() <= 1


def test_frames_that_are_too_many_together_are_refused_before_they_are_read():
    content = dicom(DEEP, NumberOfFrames=1000, Rows=2000, Columns=2000)
    assert refused(content, dicom_frames="split").startswith("1000 frames of 2000 x 2000 pixels")


@pytest.mark.parametrize(("rows", "columns"), [(10_001, 1), (1, 10_001), (9_000, 9_000)])
def test_absurd_size_is_refused_before_the_pixels(rows, columns):
    said = refused(dicom(BYTES, Rows=rows, Columns=columns))
    assert said.startswith(f"{columns} x {rows} pixels, more than 50 megapixels")


def test_pixels_that_are_missing_are_told_apart():
    data = dicom_set(BYTES)
    del data.PixelData
    assert refused(save(data)) == "DICOM without pixel data"
    report = item(Modality="SR", SOPClassUID="1.2", SOPInstanceUID="1.3")
    report.file_meta = data.file_meta
    assert refused(save(report, data.file_meta.TransferSyntaxUID)) == (
        "DICOM without an image (modality SR)"
    )


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (BYTES, ["BitsAllocated"]),
        (BYTES, ["BitsStored", "PixelRepresentation"]),
        (COLORS, ["PlanarConfiguration"]),
    ],
)
def test_tags_without_which_pixels_mean_nothing_are_named(values, names):
    data = dicom_set(values, **(RGB if values is COLORS else {}))
    data["PixelData"].VR = "OB"
    for name in names:
        delattr(data, name)
    assert refused(save(data)) == (
        f"DICOM that lacks {' and '.join(names)}, which its pixels need: add it"
    )


@pytest.mark.parametrize("tag", ["Modality", "PhotometricInterpretation"])
def test_code_that_swallowed_the_next_tags_is_not_quoted(tag):
    # In front of the patient's name and number, as a damaged length makes it.
    data = dicom_set(BYTES, PatientName="Doe^Jane", **{tag: "CT\0Doe^Jane\n"})
    if tag == "Modality":
        del data.Rows
    assert refused(save(data)) in (
        "DICOM without an image (modality unreadable)",
        "photometric interpretation unreadable with 1 sample a pixel is not read",
    )


def test_value_that_is_no_number_is_not_quoted():
    content = dicom(BYTES, NumberOfFrames=1234).replace(b"1234", b"Doe ")
    assert refused(content) == "damaged or cut short: invalid literal for int() with base 10: …"


@pytest.mark.parametrize("written", [b"40,5", b"abc "])
@pytest.mark.parametrize("tag", ["WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept"])
def test_number_with_a_comma_is_told_by_its_tag_and_not_called_damaged(tag, written):
    tags = window(30, 50, RescaleSlope=1, RescaleIntercept=1) | {tag: 1234}
    assert refused(dicom(BYTES, **tags).replace(b"1234", written)) == (
        f"{tag} is no number: correct the tag (with a decimal point), or remove it"
    )


def test_values_in_the_upper_bits_are_refused_and_not_cut_in_silence():
    shifted = dicom_set(DEEP << 4, BitsStored=12)
    shifted.HighBit = 15
    assert "12 bits whose highest is bit 15, not 11" in refused(save(shifted))


ALL_OF_12_BITS = np.arange(4096, dtype=np.uint16).reshape(64, 64)


@pytest.mark.parametrize(
    ("values", "bits"),
    [
        (ALL_OF_12_BITS, 10),
        (ALL_OF_12_BITS, 8),
        (ALL_OF_12_BITS.astype(np.int16) - 2048, 10),
        (ALL_OF_12_BITS.astype(np.uint8), 7),
    ],
)
def test_values_of_more_bits_than_the_tags_say_are_refused(values, bits):
    assert f"values of more than the {bits} bits" in refused(dicom(values, BitsStored=bits))
    if bits != 8:  # pydicom packs 8 bits into bytes
        run_length = dicom_set(values, BitsStored=bits)
        run_length.compress(RLELossless)
        assert f"values of more than the {bits} bits" in refused(save(run_length))


def big_endian(values, **tags):
    """Return a file of 16-bit values, the upper byte first."""
    data = dicom_set(values, **tags)
    data.PixelData = np.asarray(values).astype(np.asarray(values).dtype.newbyteorder(">")).tobytes()
    data["PixelData"].VR = "OW"
    return save(data, ExplicitVRBigEndian)


@pytest.mark.parametrize("values", [ALL_OF_12_BITS, ALL_OF_12_BITS.astype(np.int16) - 2048])
def test_bits_beyond_those_of_the_tags_are_found_in_both_byte_orders(values):
    same = dicom(values, BitsStored=12)
    assert np.array_equal(gray_of(big_endian(values, BitsStored=12)), gray_of(same))
    values = np.full_like(values, 0x0105)
    values[0] = 0x1F03
    assert "values of more than the 12 bits" in refused(dicom(values, BitsStored=12))
    assert "values of more than the 12 bits" in refused(big_endian(values, BitsStored=12))


@pytest.mark.parametrize("rows", [20, 39])
def test_rows_that_the_tags_leave_out_are_refused(rows):
    data = dicom_set(DEEP)
    data.Rows = rows
    assert f"bytes behind the {rows} rows that the tags tell" in refused(save(data))


def test_bytes_that_fill_up_the_pixels_are_no_rows():
    data = dicom_set(DEEP, **window(1000, 2000))
    data.PixelData += bytes(90)  # a row has 100
    assert np.abs(gray_of(save(data)) - linear(DEEP, 1000, 2000)).max() <= 1


def test_ybr_of_more_than_8_bits_is_refused_by_name():
    deep = np.zeros((4, 4, 3), np.uint16)
    tags = {**RGB, "PhotometricInterpretation": "YBR_FULL"}
    assert (
        refused(dicom(deep, **tags)) == "YBR_FULL of more than 8 bits is not read: save it as RGB"
    )


def test_values_without_a_gap_between_them_are_refused_by_name():
    packed = dicom_set(np.zeros((4, 6), np.uint8), BitsAllocated=12, BitsStored=12)
    assert "values packed into 12 bits each (BitsAllocated)" in refused(save(packed))


def test_marks_in_the_bits_above_the_values_are_no_part_of_them():
    marked = dicom_set(
        ALL_OF_12_BITS | (ALL_OF_12_BITS % 7 == 0).astype(np.uint16) << 14, BitsStored=12
    )
    assert "values of more than the 12 bits" in refused(save(marked))
    marked.add_new((0x6000, 0x0102), "US", 14)
    assert np.array_equal(gray_of(save(marked)), gray_of(dicom(ALL_OF_12_BITS, BitsStored=12)))


@pytest.mark.parametrize("is_extended", [True, False])
def test_the_sign_of_a_negative_value_may_stand_in_the_bits_above_it_or_not(is_extended):
    values = ALL_OF_12_BITS.astype(np.int16) - 2048
    stored = values if is_extended else values & 0xFFF
    assert np.array_equal(gray_of(dicom(stored, BitsStored=12)), gray_of(dicom(values)))


def test_pixels_cut_short_are_refused():
    content = dicom(DEEP)
    assert "damaged or cut short" in refused(content[:-1000])


def test_run_length_coding_is_read_exactly():
    data = dicom_set(DEEP, **window(1000, 2000))
    data.compress(RLELossless)
    assert np.abs(gray_of(save(data)) - linear(DEEP, 1000, 2000)).max() <= 1


def coded(picture, file_format, **options):
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, file_format, **options)
    return buffer.getvalue()


SMOOTH = (2 * np.add.outer(np.arange(32), np.arange(48))).astype(np.uint8)


def test_jpeg_inside_is_read_and_refused_where_it_is_damaged():
    frame = coded(SMOOTH, "JPEG", quality=95)
    assert (
        np.abs(gray_of(compressed(SMOOTH, frame, JPEGBaseline8Bit)) - SMOOTH.astype(int)).max() <= 4
    )
    middle = len(frame) - 150
    damaged = frame[:middle] + b"\xff\xd9" * 20 + frame[middle + 40 :]
    assert "damaged" in refused(compressed(SMOOTH, damaged, JPEGBaseline8Bit))


def test_colour_jpeg_inside_comes_as_rgb():
    red = np.full((16, 16, 3), (250, 20, 20), dtype=np.uint8)
    tags = {"PhotometricInterpretation": "YBR_FULL_422", "SamplesPerPixel": 3}
    content = compressed(
        red, coded(red, "JPEG", quality=95), JPEGBaseline8Bit, PlanarConfiguration=0, **tags
    )
    np.testing.assert_allclose(read(content).pixels[8, 8], [250, 20, 20], atol=4)


COLOR = np.stack([40 + SMOOTH // 2, 200 - SMOOTH, 60 + SMOOTH], axis=-1).astype(np.uint8)
IDS = {"by number": (1, 2, 3), "from 0": (0, 1, 2), "by letter": (82, 71, 66)}
MARKERS = {
    "unmarked": b"",
    "JFIF": b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0",
    "Adobe RGB": b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\0",
    "Adobe, cut": b"\xff\xee\0\x0cAdobe\0\0\0\0\0",
    "Adobe YCbCr": b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\1",
}


def color_jpeg(stored, ids, marker, subsampling=0):
    """Return a JPEG of RGB or YCbCr, whose components have these names, behind a marker."""
    content = coded(COLOR, "JPEG", quality=95, keep_rgb=stored == "RGB", subsampling=subsampling)
    place = content.index(b"\xff\xdb")  # behind what Pillow has marked
    content = bytearray(content[:2] + MARKERS[marker] + content[place:])
    frame, scan = content.index(b"\xff\xc0"), content.index(b"\xff\xda")
    for component, name in enumerate(IDS[ids]):
        content[frame + 10 + 3 * component] = content[scan + 5 + 2 * component] = name
    return bytes(content)


def color_dicom(frame, interpretation, syntax=JPEGBaseline8Bit):
    return compressed(COLOR, frame, syntax, **{**RGB, "PhotometricInterpretation": interpretation})


@pytest.mark.parametrize("interpretation", ["RGB", "YBR_FULL", "YBR_FULL_422"])
@pytest.mark.parametrize(
    ("stored", "ids", "marker", "subsampling"),
    [
        ("RGB", "by letter", "unmarked", 0),
        ("RGB", "by letter", "Adobe RGB", 0),
        ("RGB", "by number", "Adobe RGB", 0),
        ("YCbCr", "by number", "JFIF", 0),
        ("YCbCr", "by number", "Adobe YCbCr", 0),
        ("YCbCr", "by number", "unmarked", 1),  # RGB is not stored with fewer pixels of a colour
    ],
)
def test_jpeg_that_tells_its_colours_is_read_by_them(
    stored, ids, marker, subsampling, interpretation
):
    # ITU-T T.871 for JFIF, T.872 for Adobe's marker, libjpeg.txt for the letters.
    frame = color_jpeg(stored, ids, marker, subsampling)
    pixels = read(color_dicom(frame, interpretation)).pixels
    assert np.abs(pixels.astype(int) - COLOR).max() <= (12 if subsampling else 8)


def test_jpeg_that_tells_no_colours_is_what_the_tags_say_unless_it_speaks_against_it():
    frame = color_jpeg("YCbCr", "by number", "unmarked")
    pixels = read(color_dicom(frame, "YBR_FULL")).pixels
    assert np.abs(pixels.astype(int) - COLOR).max() <= 8
    assert "RGB by its tags, and YCbCr by its components" in refused(color_dicom(frame, "RGB"))


@pytest.mark.parametrize("marker", ["unmarked", "Adobe, cut"])
@pytest.mark.parametrize(("stored", "interpretation"), [("RGB", "RGB"), ("YCbCr", "YBR_FULL")])
def test_jpeg_that_tells_nothing_at_all_is_what_the_tags_say(stored, interpretation, marker):
    # As slide scanners write it; pydicom's own SC_rgb_jpeg.dcm has the cut marker.
    frame = color_jpeg(stored, "from 0", marker)
    pixels = read(color_dicom(frame, interpretation)).pixels
    assert np.abs(pixels.astype(int) - COLOR).max() <= 8


@pytest.mark.parametrize("name", ["SC_rgb_jpeg.dcm", "SC_rgb_jpeg_app14_dcmd.dcm"])
def test_slide_of_rgb_jpeg_agrees_with_pydicom(name):
    content = Path(get_testdata_file(name)).read_bytes()
    theirs = pydicom.dcmread(io.BytesIO(content)).pixel_array
    np.testing.assert_array_equal(read(content).pixels, theirs)


def test_jpeg_of_other_channels_or_bits_than_the_tags_say_is_refused():
    gray, color = coded(SMOOTH, "JPEG"), coded(COLOR, "JPEG")
    assert (
        refused(color_dicom(gray, "RGB")) == "a JPEG of Gray where the tags say 3 samples a pixel"
    )
    assert refused(compressed(SMOOTH, color, JPEGBaseline8Bit)) == (
        "a JPEG of YCbCr where the tags say 1 sample a pixel"
    )
    deep = compressed(SMOOTH, gray, JPEGBaseline8Bit, BitsAllocated=16, BitsStored=12)
    assert refused(deep) == "a JPEG of 8 bits a value where the tags say 12 (BitsStored)"
    mislabelled = gray.replace(b"\xff\xc0", b"\xff\xf7")
    assert "JPEG-LS where the tags say JPEG" in refused(
        compressed(SMOOTH, mislabelled, JPEGBaseline8Bit)
    )


@pytest.mark.parametrize(
    ("file_format", "syntax", "interpretation"),
    [("JPEG", JPEGBaseline8Bit, "YBR_FULL_422"), ("JPEG2000", JPEG2000Lossless, "YBR_RCT")],
)
def test_planes_that_were_there_before_compression_do_not_scramble(
    file_format, syntax, interpretation
):
    options = {"no_jp2": True} if file_format == "JPEG2000" else {"quality": 95}
    tags = {**RGB, "PhotometricInterpretation": interpretation, "PlanarConfiguration": 1}
    content = compressed(COLOR, coded(COLOR, file_format, **options), syntax, **tags)
    assert np.abs(read(content).pixels.astype(int) - COLOR).max() <= 12


@pytest.mark.parametrize("is_turned", [False, True])
def test_jpeg_2000_of_ybr_is_turned_into_rgb_once(is_turned):
    # As a stream that turns RGB into YCbCr itself, or holds YCbCr as three plain components.
    stored = COLOR if is_turned else np.asarray(Image.fromarray(COLOR).convert("YCbCr"))
    frame = coded(stored, "JPEG2000", no_jp2=True, mct=int(is_turned))
    tags = ["YBR_RCT", "YBR_ICT", "RGB"] if is_turned else ["YBR_FULL"]
    for interpretation in tags:
        content = color_dicom(frame, interpretation, JPEG2000Lossless)
        assert np.abs(read(content).pixels.astype(int) - COLOR).max() <= 3  # rounded twice
    if is_turned:
        for interpretation in ("YBR_FULL", "YBR_FULL_422"):
            content = color_dicom(frame, interpretation, JPEG2000Lossless)
            assert f"RGB itself, though its tags say {interpretation}" in refused(content)


def test_jpeg_2000_inside_is_read_exactly():
    frame = coded(SMOOTH, "JPEG2000", no_jp2=True)
    np.testing.assert_array_equal(gray_of(compressed(SMOOTH, frame, JPEG2000Lossless)), SMOOTH)


# Of OpenJPEG: -1200, -1160, ... in 8 rows, as 12 bits that do not say that they have a sign.
TWELVE_BITS = (
    "/0//UQApAAAAAAAIAAAACAAAAAAAAAAAAAAACAAAAAgAAAAAAAAAAAABCwEB/1IADAAAAAEAAAQEAAH/XAAEQGD/ZAAlAAFD"
    "cmVhdGVkIGJ5IE9wZW5KUEVHIHZlcnNpb24gMi41LjT/kAAKAAAAAABaAAH/k9/hJDQ6V553ufiZr8JdLEjbY7hhkVnJQqnd"
    "Foc5s3bd0ckbyKfn5lJ4agNoyrFD8ryNOQ6KwDatpdW0dqSt9bG3zfN83zfN83zgGI//2Q=="
)


@pytest.mark.parametrize("bits", [12, 16])
def test_sign_that_jpeg_2000_lacks_is_that_of_the_tags(bits):
    values = (40 * np.arange(64) - 1200).astype(np.int16).reshape(8, 8)
    frame = base64.b64decode(TWELVE_BITS)
    if bits == 16:
        frame = coded(values.view(np.uint16), "JPEG2000", no_jp2=True)
    content = compressed(values, frame, JPEG2000Lossless, BitsStored=bits, **window(0, 2000))
    assert np.abs(gray_of(content) - linear(values, 0, 2000)).max() <= 1


def test_sign_of_jpeg_2000_that_the_tags_do_not_have_is_refused():
    frame = coded(DEEP, "JPEG2000", no_jp2=True)
    size = (
        frame.index(b"\xff\x51") + 40
    )  # ISO 15444-1, table A.9: Ssiz, the bits but 1 and the sign
    signed = frame[:size] + b"\x8f" + frame[size + 1 :]
    assert "correct the tag (PixelRepresentation)" in refused(
        compressed(DEEP, signed, JPEG2000Lossless)
    )


@pytest.mark.parametrize(("bits", "allocated"), [(12, 16), (8, 16), (8, 8)])
def test_jpeg_2000_of_more_bits_than_the_tags_say_is_refused(bits, allocated):
    deep = DEEP * 30
    frame = coded(deep, "JPEG2000", no_jp2=True)
    content = compressed(
        deep, frame, JPEG2000Lossless, BitsStored=bits, BitsAllocated=allocated, **window(300, 600)
    )
    assert f"values of more than the {bits} bits" in refused(content)
    # Coders that always write 16 bits are common; the values are what counts.
    fitting = coded(DEEP, "JPEG2000", no_jp2=True)
    if bits == 12:
        content = compressed(DEEP, fitting, JPEG2000Lossless, BitsStored=12, **window(1000, 2000))
        assert np.abs(gray_of(content) - linear(DEEP, 1000, 2000)).max() <= 1


def test_palette_of_jpeg_2000_indices_beyond_the_bits_is_refused():
    tables = {}
    for color in ("Red", "Green", "Blue"):
        tables[f"{color}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        tables[f"{color}PaletteColorLookupTableData"] = np.arange(256, dtype="<u2").tobytes()
    frame = coded(DEEP, "JPEG2000", no_jp2=True)
    content = compressed(
        DEEP,
        frame,
        JPEG2000Lossless,
        BitsStored=8,
        PhotometricInterpretation="PALETTE COLOR",
        **tables,
    )
    assert "values of more than the 8 bits" in refused(content)


@pytest.mark.parametrize(
    ("file_format", "syntax"), [("JPEG", JPEGBaseline8Bit), ("JPEG2000", JPEG2000Lossless)]
)
def test_frame_larger_than_the_tags_say_is_refused_before_decoding(file_format, syntax):
    options = {"no_jp2": True} if file_format == "JPEG2000" else {}
    frame = coded(SMOOTH, file_format, **options)
    assert refused(compressed(SMOOTH[:8, :8], frame, syntax)) == (
        "a frame of 48 x 32 pixels where the tags say 8 x 8"
    )


@pytest.mark.parametrize(
    ("syntax", "named"),
    [(JPEGLSLossless, "JPEG-LS Lossless Image Compression"), (MPEG2MPML, "MPEG2 Main Profile")],
)
def test_compression_that_nothing_decodes_is_named(syntax, named, monkeypatch):
    decoder = pydicom.pixels.get_decoder(JPEGLSLossless)
    monkeypatch.setattr(decoder, "_available", {})  # whatever this machine has installed
    assert f"DICOM compressed as {named}" in refused(compressed(SMOOTH, b"\0" * 64, syntax))


@pytest.mark.parametrize(
    ("number", "told"),
    [
        ("1.2.840.113619.5.2", "1.2.840.113619.5.2"),  # private, of GE
        ("1.2.3.4", "1.2.3.4"),
        ("Doe^Jane", "unreadable"),
    ],
)
def test_transfer_syntax_that_is_not_known_is_told_with_the_way_out(number, told):
    known = ExplicitVRLittleEndian
    content = save(dicom_set(BYTES)).replace(
        known.encode(), number.encode().ljust(len(known), b"\0")
    )
    assert refused(content) == (
        f"DICOM of a transfer syntax that is not known ({told}): export it as Explicit VR Little "
        "Endian"
    )


def test_jpeg_of_12_bits_is_refused_by_name():
    content = compressed(DEEP, coded(SMOOTH[:10], "JPEG"), JPEGExtended12Bit, BitsStored=12)
    data = pydicom.dcmread(io.BytesIO(content))
    data.Rows, data.Columns = 10, 48
    assert "12-bit precision" in refused(save(data))


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_other_encodings_of_the_tags_are_read(syntax):
    np.testing.assert_array_equal(gray_of(save(dicom_set(BYTES), syntax)), BYTES)


def test_big_endian_is_read():
    data = dicom_set(DEEP.astype(">u2"), **window(1000, 2000))
    assert np.abs(gray_of(save(data, ExplicitVRBigEndian)) - linear(DEEP, 1000, 2000)).max() <= 1


@pytest.mark.parametrize("implicit", [True, False])
def test_old_file_without_preamble_is_read(implicit):
    data = dicom_set(BYTES)
    buffer = io.BytesIO()
    del data.file_meta
    data.save_as(buffer, implicit_vr=implicit, little_endian=True)
    np.testing.assert_array_equal(gray_of(buffer.getvalue()), BYTES)


def test_file_that_inflates_without_end_is_refused():
    content = save(dicom_set(BYTES), DeflatedExplicitVRLittleEndian)
    plain = save(dicom_set(BYTES))
    start = 144 + int.from_bytes(content[140:144], "little")
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = packer.compress(plain[144 + int.from_bytes(plain[140:144], "little") :])
    body += packer.flush(zlib.Z_FULL_FLUSH)
    # After a full flush nothing refers back, so the same bytes inflate again and again.
    zeros = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    bomb = content[:start] + body + 420 * zeros + packer.flush()
    assert len(bomb) < 1_000_000
    assert refused(bomb) == "inflates to more than 400 MB"


def test_patient_is_a_hash_and_never_the_number():
    image = read(dicom(BYTES, PatientID="MRN-0815 ", PatientName="Doe^Jane"))
    assert image.patient == "patient-" + hashlib.sha256(b"MRN-0815").hexdigest()[:12]
    assert not any("0815" in note or "Doe" in note for note in image.notes)
    assert read(dicom(BYTES)).patient == ""
    assert read(dicom(BYTES, PatientID="")).patient == ""


@pytest.mark.parametrize("slope", [0, "0.0"])
def test_slope_of_0_is_taken_as_1_and_noted(slope):
    image = read(dicom(BYTES, RescaleSlope=slope, RescaleIntercept=0))
    np.testing.assert_array_equal(image.pixels[:, :, 0], BYTES)
    assert image.notes == ("RescaleSlope of 0 taken as 1",)


@pytest.mark.parametrize(
    ("tags", "noted"),
    [
        ({"PixelSpacing": [0.5, 1]}, "(PixelSpacing) taken as they are, values 0.5 down and 1"),
        ({"PixelAspectRatio": [4, 3]}, "(PixelAspectRatio) taken as they are, values 4 down and 3"),
        ({"PixelSpacing": [0.39062, 0.390625]}, ""),  # rounded
        ({"PixelAspectRatio": [1, 1]}, ""),
        ({"PixelSpacing": []}, ""),
    ],
)
def test_pixels_that_are_not_square_are_noted_and_not_stretched(tags, noted):
    image = read(dicom(BYTES, **tags))
    np.testing.assert_array_equal(image.pixels[:, :, 0], BYTES)
    assert any(noted in note for note in image.notes) if noted else image.notes == ()


def test_spacing_of_all_frames_is_told_for_each():
    measures = item(PixelMeasuresSequence=[item(PixelSpacing=[1, 2])])
    content = dicom(FRAMES, frames=3, SharedFunctionalGroupsSequence=[measures])
    for image in read_file(content, dicom_frames="split"):
        assert "not square (PixelSpacing)" in image.notes[-1]


def test_spacing_that_is_no_number_refuses_no_picture():
    content = dicom(BYTES, PixelSpacing=["1234", "1234"]).replace(b"1234", b"0,50")
    assert read(content).notes == ()


def test_writing_in_the_picture_is_told_where_the_tags_tell_it():
    notes = read(dicom(BYTES, BurnedInAnnotation="YES")).notes
    assert notes == ("says that it has patient data written into the picture",)


@pytest.mark.parametrize("interpretation", ["CMYK", "HSV", ""])
def test_strange_colours_are_refused_by_name(interpretation):
    said = refused(dicom(BYTES, PhotometricInterpretation=interpretation))
    assert said.startswith(
        f"photometric interpretation {interpretation or 'missing'} with 1 sample"
    )


WITHOUT_PYDICOM = """
import sys
sys.modules["pydicom"] = None
from sightline.images import ImageError, read_file
try:
    read_file(sys.stdin.buffer.read(), "scan.dcm")
except ImageError as error:
    print(error)
"""


def test_without_pydicom_the_file_is_refused_with_what_to_install():
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT_PYDICOM], input=dicom(BYTES), capture_output=True, check=True
    )
    assert (
        ran.stdout.decode().strip() == "DICOM, which needs pydicom: pip install 'sightline[dicom]'"
    )


def test_pydicom_is_loaded_only_for_a_dicom_file():
    code = (
        "import io, sys, PIL.Image; from sightline.images import read_file\n"
        "b = io.BytesIO(); PIL.Image.new('L', (2, 2)).save(b, 'PNG'); read_file(b.getvalue())\n"
        "print('pydicom' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert ran.stdout.strip() == "False"
