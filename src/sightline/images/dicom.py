"""DICOM to checked images: the window of its tags, its colours, its frames. Needs pydicom."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import math
import re
import warnings
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import numpy as np
import pydicom
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from pydicom import encaps, filereader, pixels, uid

from sightline.images.checked import (
    MAX_MEGAPIXELS,
    CheckedImage,
    ImageError,
    name_damage,
    refuse_size,
    without_quotes,
)
from sightline.images.headers import JPEG_START, read_jpeg_header
from sightline.images.inflating import count_inflated
from sightline.images.intensities import find_levels, share_to_8_bit, window_percentiles
from sightline.telemetry import count

# Of all frames together, when a file is split: 3 bytes a pixel are held at once.
MAX_SPLIT_MEGAPIXELS = 4 * MAX_MEGAPIXELS
_MAX_INFLATED_BYTES = 400_000_000
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_COLOR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "PALETTE COLOR")
_JPEG_SYNTAXES = (*uid.JPEGTransferSyntaxes, *uid.JPEG2000TransferSyntaxes)
_CODE = re.compile("[A-Z0-9_ ]{1,16}")  # PS3.5, table 6.2-1: CS
_NUMBER = re.compile("[0-9.]{1,64}")  # UI
_GRAY = ("MONOCHROME1", "MONOCHROME2")
_ADOBE_RGB = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\0"  # a marker by which libjpeg turns no colours
# Markers of ISO 15444-1, A.2: SOC and SIZ, COD, SOT.
_J2K_START, _J2K_CODING, _J2K_TILE = b"\xff\x4f\xff\x51", b"\xff\x52", b"\xff\x90"

# Values that break their type's rules are common in real files, and harm nothing that is read here.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
warnings.filterwarnings("ignore", module="pydicom")
logging.getLogger("pydicom").setLevel(logging.CRITICAL)


def read_dicom(content: bytes, frames: Literal["refuse", "split"]) -> list[CheckedImage]:
    """Read a DICOM file: one image, or one for each of its frames.

    Gray goes through the modality's rescaling or table, then through the first window or table of
    values of interest in the tags (DICOM PS3.3, C.11.1 and C.11.2), or between the percentiles
    0.5 and 99.5 where the tags have none that shows anything; gray of at most 8 bits without any
    is taken as it is. MONOCHROME1 is inverted. Padding is black and counts for no percentile.

    Args:
        content: The whole file.
        frames: Whether a file with several frames is refused or split.

    Raises:
        ImageError: If it holds no pixels, several frames against `frames`, more than 50 megapixels
            a frame, is compressed in a way that nothing installed decodes, or is damaged.
    """
    try:
        return _read(content, frames)
    except (ImageError, MemoryError):
        raise
    except RuntimeError as error:
        # pydicom lists what each of its plugins said, one a line.
        said = str(error).strip().split("\n")
        if len(said) < 2:
            raise name_damage(error) from None
        raise ImageError(
            f"DICOM whose pixels cannot be decoded: {without_quotes(said[-1])}"
        ) from None
    # A damaged file makes pydicom raise almost anything; each means: not readable.
    except Exception as error:
        raise name_damage(error) from None


def _read(content: bytes, frames: Literal["refuse", "split"]) -> list[CheckedImage]:
    _refuse_inflating(content)
    header = pydicom.dcmread(io.BytesIO(content), stop_before_pixels=True, force=True)
    if "Rows" not in header or "Columns" not in header:
        raise ImageError(f"DICOM without an image (modality {_code(header, 'Modality')})")
    refuse_size(int(header.Columns), int(header.Rows))
    number = int(header.get("NumberOfFrames") or 1)
    _refuse_frames(header, number, frames)
    _refuse_unknown_colour(header)
    file = pydicom.dcmread(io.BytesIO(content), force=True)
    if not any(name in file for name in _PIXELS):
        raise ImageError("DICOM without pixel data")
    syntax = _transfer_syntax(file)
    decoder = _find_decoder(syntax)
    _refuse_missing(file, syntax)
    if syntax.is_encapsulated:
        _refuse_hidden_frames(file, number)
    if syntax in _JPEG_SYNTAXES:
        _check_compressed(file, number)
    elif "PixelData" in file:
        _refuse_shifted(file)
        _refuse_more_bits(file, decoder)
    if "PixelData" in file and not syntax.is_encapsulated:
        _refuse_rest(file, number)
    patient = _hash_patient(str(file.get("PatientID") or ""))
    images = []
    decoded: Iterable[tuple[NDArray[Any], str]] = _decode(file, number, decoder, syntax)
    if number == 1:  # the stored form of a large picture is not kept beside its values
        decoded = list(decoded)
        for name in _PIXELS:
            file.pop(name, None)
    for index, (stored, interpretation) in enumerate(decoded):
        _refuse_beyond(file, stored)
        color, notes = _to_8_bit(file, index, stored, interpretation)
        if str(file.get("BurnedInAnnotation", "")).upper() == "YES":
            notes = (*notes, "says that it has patient data written into the picture")
        notes = (*notes, *_tell_oblong(file, index))
        frame = index + 1 if number > 1 else 0
        images.append(CheckedImage(color, "png", False, notes, frame=frame, patient=patient))
    return images


def _refuse_inflating(content: bytes) -> None:
    # pydicom inflates a deflated file whole, however large it becomes.
    stream = io.BytesIO(content)
    filereader.read_preamble(stream, force=True)
    meta = filereader.read_dataset(
        stream,
        is_implicit_VR=False,
        is_little_endian=True,
        stop_when=lambda tag, _vr, _length: tag >> 16 != 2,
    )
    if meta.get("TransferSyntaxUID") != uid.DeflatedExplicitVRLittleEndian:
        return
    rest = memoryview(content)[stream.tell() :]
    size = count_inflated(zlib.decompressobj(-zlib.MAX_WBITS), [rest], _MAX_INFLATED_BYTES)
    if size > _MAX_INFLATED_BYTES:
        raise ImageError(f"inflates to more than {_MAX_INFLATED_BYTES // 1_000_000} MB")


def _refuse_frames(header: Any, number: int, frames: Literal["refuse", "split"]) -> None:
    if number < 2:
        return
    if frames == "refuse":
        raise ImageError(f"DICOM with {number} frames: set dicom_frames to split, or export them")
    if number * int(header.Rows) * int(header.Columns) > MAX_SPLIT_MEGAPIXELS * 1_000_000:
        raise ImageError(
            f"{number} frames of {header.Columns} x {header.Rows} pixels, more than "
            f"{MAX_SPLIT_MEGAPIXELS} megapixels together: export them as single files"
        )


def _refuse_unknown_colour(header: Any) -> None:
    interpretation = str(header.get("PhotometricInterpretation", ""))
    samples = int(header.get("SamplesPerPixel") or 1)
    expected = 1 if interpretation in (*_GRAY, "PALETTE COLOR") else 3
    if interpretation not in (*_GRAY, *_COLOR) or samples != expected:
        raise ImageError(
            f"photometric interpretation {_code(header, 'PhotometricInterpretation')} with "
            f"{count(samples, 'sample')} a pixel is not read"
        )
    if interpretation.startswith("YBR") and int(header.get("BitsAllocated") or 8) > 8:
        raise ImageError(f"{interpretation} of more than 8 bits is not read: save it as RGB")


def _code(header: Any, keyword: str) -> str:
    """Return a tag's code, fit to be quoted: a damaged tag may hold all that follows it."""
    value = str(header.get(keyword) or "")
    return (value if _CODE.fullmatch(value) else "unreadable") if value else "missing"


def _refuse_missing(file: Any, syntax: uid.UID) -> None:
    needed = ["BitsAllocated", "SamplesPerPixel"]
    if "PixelData" in file:
        needed += ["BitsStored", "PixelRepresentation"]
    if file.get("SamplesPerPixel", 1) > 1 and syntax not in _JPEG_SYNTAXES:
        needed += ["PlanarConfiguration"]
    if missing := [name for name in needed if file.get(name) is None]:
        raise ImageError(f"DICOM that lacks {' and '.join(missing)}, which its pixels need: add it")


def _refuse_rest(file: Any, number: int) -> None:
    # Some writers fill up to an even or a round number of bytes, but nobody by a row.
    expected = pixels.utils.get_expected_length(file)
    rest = len(file.PixelData) - expected
    row_bytes = expected / (number * int(file.Rows))
    if rest >= max(2, row_bytes):
        raise ImageError(
            f"{count(rest, 'byte')} behind the {int(file.Rows)} rows that the tags tell: more rows "
            "or frames than they say"
        )


def _refuse_shifted(file: Any) -> None:
    if (allocated := int(file.BitsAllocated)) not in (1, 8, 16, 32, 64):
        raise ImageError(
            f"values packed into {allocated} bits each (BitsAllocated): save it anew with 16"
        )
    # Old files may; PS3.5 forbids it since, and pydicom would cut the upper bits off in silence.
    stored, highest = file.get("BitsStored"), file.get("HighBit")
    if stored is not None and highest is not None and highest != stored - 1:
        raise ImageError(
            f"values of {count(int(stored), 'bit')} whose highest is bit {int(highest)}, not "
            f"{stored - 1}: save it anew with the values in the low bits"
        )


def _refuse_more_bits(file: Any, decoder: Any) -> None:
    # pydicom cuts them off, and a value that needs them would begin anew at 0.
    stored, allocated = int(file.BitsStored), int(file.BitsAllocated)
    if stored >= allocated:
        return
    overlays = [group for group in range(0x6000, 0x6020, 2) if (group, 0x0102) in file]
    known = 2**stored - 1
    for group in overlays:  # of old files, whose marks lie in the bits above the values
        known |= 1 << int(file[group, 0x0102].value)
    for frame, _ in decoder.iter_array(file, raw=True, correct_unused_bits=False):
        bits = frame.view(frame.dtype.str.replace("i", "u"))
        unknown = bits & (2**allocated - 1 & ~known)
        if file.PixelRepresentation:  # a negative value has its sign in all of them, or in none
            negative = (bits >> (stored - 1)) & 1
            unknown[unknown == negative * (2**allocated - 1 & ~known)] = 0
        if unknown.any():
            raise _more_bits(stored)


def _refuse_beyond(file: Any, stored: NDArray[Any]) -> None:
    """Refuse values that the tags say cannot be, for they would be clipped or begin anew at 0."""
    if stored.dtype.kind not in "iu":
        return
    bits, is_signed = int(file.BitsStored), stored.dtype.kind == "i"
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if is_signed else (0, 2**bits - 1)
    if stored.min() < low or stored.max() > high:
        raise _more_bits(bits)


def _more_bits(bits: int) -> ImageError:
    return ImageError(
        f"values of more than the {count(bits, 'bit')} that its tags give them (BitsStored): "
        "correct the tag, or save it anew"
    )


def _transfer_syntax(file: Any) -> uid.UID:
    """Return how the pixels are stored; without a preamble only the encoding tells it."""
    if "TransferSyntaxUID" not in file.file_meta:
        implicit, little = file.original_encoding
        plain = uid.ImplicitVRLittleEndian if implicit else uid.ExplicitVRLittleEndian
        file.file_meta.TransferSyntaxUID = plain if little else uid.ExplicitVRBigEndian
    syntax: uid.UID = file.file_meta.TransferSyntaxUID
    return syntax


def _find_decoder(syntax: uid.UID) -> Any:
    try:
        decoder = pixels.get_decoder(syntax)
    except NotImplementedError:
        if syntax.is_transfer_syntax:
            told = f"compressed as {syntax.name}, which is not read"
        else:
            number = syntax if _NUMBER.fullmatch(syntax) else "unreadable"
            told = f"of a transfer syntax that is not known ({number})"
        raise ImageError(f"DICOM {told}: export it as Explicit VR Little Endian") from None
    if not decoder.is_available:
        raise ImageError(
            f"DICOM compressed as {syntax.name}, which nothing installed decodes: decompress it "
            "(gdcmconv --raw), or install a plugin of pydicom that does"
        )
    return decoder


def _refuse_hidden_frames(file: Any, number: int) -> None:
    frames = sum(1 for _ in encaps.generate_frames(file.PixelData, number_of_frames=number))
    if number == 1:  # without a table of frames, pydicom takes all that there is for one
        stream = io.BytesIO(file.PixelData)
        encaps.parse_basic_offsets(stream)
        starts = (JPEG_START, _J2K_START)
        frames = max(
            frames, sum(part.startswith(starts) for part in encaps.generate_fragments(stream))
        )
    if frames != number:
        raise ImageError(f"{frames} frames where the tags say {number}")


def _check_compressed(file: Any, number: int) -> None:
    """Refuse a compressed frame of another size than the tags', or of colours that are not clear.

    pydicom checks the length of RLE itself.
    """
    for frame in encaps.generate_frames(file.PixelData, number_of_frames=number):
        width, height = _frame_size(frame)
        if (width, height) != (file.Columns, file.Rows):
            raise ImageError(
                f"a frame of {width} x {height} pixels where the tags say "
                f"{file.Columns} x {file.Rows}"
            )
        wave = pixels.utils.get_j2k_parameters(frame)
        if wave.get("precision", 0) > file.BitsAllocated:
            raise _more_bits(int(file.BitsStored))
        if wave.get("is_signed") and not file.PixelRepresentation:
            raise ImageError(
                "JPEG 2000 of values with a sign, though its tags say without one: correct the tag "
                "(PixelRepresentation)"
            )
        interpretation = str(file.PhotometricInterpretation)
        if interpretation.startswith("YBR_FULL") and _turns_colors(frame):
            raise ImageError(
                f"JPEG 2000 that turns its colours into RGB itself, though its tags say "
                f"{interpretation}: save it as RGB, or correct the tag (YBR_ICT, YBR_RCT)"
            )


def _frame_size(frame: bytes) -> tuple[int, int]:
    if header := read_jpeg_header(frame):
        return header.width, header.height
    try:
        with Image.open(io.BytesIO(frame), formats=("JPEG2000",)) as image:
            return image.size
    except UnidentifiedImageError:
        raise ImageError("damaged: a compressed frame starts as none") from None


def _turns_colors(frame: bytes) -> bool:
    """Tell whether a JPEG 2000's components are RGB once decoded (ISO 15444-1, A.6.1)."""
    place = frame.find(_J2K_START)
    while place >= 0 and (marker := frame[place : place + 2]) not in (b"", _J2K_TILE):
        if marker == _J2K_CODING:
            return frame[place + 8] == 1
        is_start = marker == _J2K_START[:2]
        place += 2 if is_start else 2 + int.from_bytes(frame[place + 2 : place + 4], "big")
    return False


def _decode(
    file: Any, number: int, decoder: Any, syntax: uid.UID
) -> Iterator[tuple[NDArray[Any], str]]:
    """Yield the stored values of each frame, and how they are to be interpreted."""
    if syntax == uid.JPEGBaseline8Bit or (syntax == uid.JPEGExtended12Bit and file.BitsStored == 8):
        for frame in encaps.generate_frames(file.PixelData, number_of_frames=number):
            yield _decode_jpeg(file, frame)
        return
    # JPEGs hold no bits beside the values, so what lies above them is one of the values.
    is_whole = syntax in _JPEG_SYNTAXES
    if is_whole:
        file.PlanarConfiguration = 0  # is how they come out, whatever they were before
    # Frame by frame pydicom puts a sign right that JPEG 2000 lacks; of all in a row it cannot.
    signed = range(number) if is_whole and file.PixelRepresentation else None
    decoded = decoder.iter_array(file, indices=signed, correct_unused_bits=not is_whole)
    for stored, properties in decoded:
        yield stored, properties["photometric_interpretation"]


def _decode_jpeg(file: Any, frame: bytes) -> tuple[NDArray[Any], str]:
    """Decode 8 bits a value. Which colours are stored the JPEG tells, or else the tags.

    libjpeg knows it by a marker of JFIF or Adobe, or by components that are named R, G and B, and
    takes the rest for YCbCr; the tags are often left at RGB. pydicom follows the tags.
    """
    tagged, samples = str(file.PhotometricInterpretation), int(file.SamplesPerPixel)
    header, bits = read_jpeg_header(frame), int(file.BitsStored)
    if header and header.rare_kind:
        raise ImageError(f"{header.rare_kind} where the tags say JPEG of 8 bits: correct them")
    if bits > 8:
        raise ImageError(f"a JPEG of 8 bits a value where the tags say {bits} (BitsStored)")
    *_, space, subsampling = simplejpeg.decode_jpeg_header(frame)
    if {"Gray": 1, "RGB": 3, "YCbCr": 3}.get(space) != samples:
        raise ImageError(f"a JPEG of {space} where the tags say {count(samples, 'sample')} a pixel")
    # Strict: libjpeg otherwise paints what it lacks gray and only warns.
    if space == "Gray":
        gray = simplejpeg.decode_jpeg(frame, colorspace="GRAY", strict=True)[:, :, 0]
        return gray.view(np.int8) if file.PixelRepresentation else gray, tagged
    is_told = space == "RGB" or subsampling != "444" or (header and header.tells_colors)
    if tagged == "RGB" and header and not is_told:
        if header.components == (1, 2, 3):  # as JFIF numbers those of YCbCr
            raise ImageError(
                "JPEG whose colours are RGB by its tags, and YCbCr by its components: save it "
                "anew, or correct the tag (YBR_FULL_422)"
            )
        frame = frame[:2] + _ADOBE_RGB + frame[2:]
    return simplejpeg.decode_jpeg(frame, colorspace="RGB", strict=True), "RGB"


def _hash_patient(number: str) -> str:
    stripped = number.strip(" \0")
    return f"patient-{hashlib.sha256(stripped.encode()).hexdigest()[:12]}" if stripped else ""


def _to_8_bit(
    file: Any, frame: int, stored: NDArray[Any], interpretation: str
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    if interpretation == "PALETTE COLOR":
        return _color_to_8_bit(*_apply_palette(file, stored))
    if stored.ndim == 3:
        return _color_to_8_bit(stored, int(file.BitsStored))
    padding = _find_padding(file, stored)
    gray, notes = _gray_to_8_bit(file, frame, stored, padding)
    if inverse := _tell_inverse(file, interpretation):
        gray = 255 - gray
        notes = (*notes, f"{inverse} inverted")
    if padding is not None:
        gray[padding] = 0
        notes = (*notes, f"{count(int(padding.sum()), 'pixel')} of padding set to black")
    return np.repeat(gray[:, :, None], 3, axis=2), notes


def _tell_oblong(file: Any, frame: int) -> tuple[str, ...]:
    """Note pixels that are not square: nothing is stretched."""
    for keyword in ("PixelSpacing", "PixelAspectRatio"):
        with contextlib.suppress(TypeError, ValueError):  # no number, which harms no picture
            down, across = _value(file, frame, "PixelMeasuresSequence", keyword) or (1, 1)
            if not math.isclose(down, across, rel_tol=0.01):
                values = f"values {float(down):g} down and {float(across):g} across"
                return (f"pixels that are not square ({keyword}) taken as they are, {values}",)
    return ()


def _tell_inverse(file: Any, interpretation: str) -> str:
    """Return which tag has the lowest value shown white (PS3.3, C.7.6.3.1.2 and C.11.6)."""
    shape = str(file.get("PresentationLUTShape") or "").upper()
    if interpretation == "MONOCHROME1":
        if shape == "IDENTITY":
            raise ImageError(
                "MONOCHROME1, whose lowest value is white, with a PresentationLUTShape of "
                "IDENTITY, where it is black: correct one of the tags"
            )
        return "MONOCHROME1"
    return "PresentationLUTShape INVERSE" if shape == "INVERSE" else ""


def _gray_to_8_bit(
    file: Any, frame: int, stored: NDArray[Any], padding: NDArray[np.bool_] | None
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    levels = find_levels(stored, padding)
    seen = levels.counts > 0
    values, rescaled, notes = _rescale(file, frame, levels.values, seen)
    share, name = _apply_voi(file, frame, values, seen)
    if share is not None:
        shown = share_to_8_bit(share)
        if np.ptp(shown[seen]) > 0 or np.ptp(values[seen]) == 0:
            beyond = levels.counts[(share < 0) | (share > 1)].sum() / levels.counts.sum()
            return (
                levels.paint(shown),
                (*notes, f"{name}, {100 * beyond:.0f} % of the pixels beyond it"),
            )
        notes = (*notes, f"shows nothing with the {name}")
    bits = int(file.get("BitsStored", 32))
    if bits <= 8 and stored.dtype.kind == "u" and not rescaled:
        return levels.paint(share_to_8_bit(values / (2**bits - 1))), notes
    kind = f"{bits}-bit DICOM gray" if stored.dtype.kind in "iu" else "floating-point DICOM gray"
    shown, windowed = window_percentiles(levels, values, kind)
    return levels.paint(shown), (*notes, *windowed)


def _rescale(
    file: Any, frame: int, stored: NDArray[np.float64], seen: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], bool, tuple[str, ...]]:
    """Return what the modality measured (PS3.3, C.11.1), whether that differs, and notes."""
    if table := _first_item(file, "ModalityLUTSequence"):
        return _apply_table(file, table, stored, seen)[0], True, ()
    slope = _number(file, frame, "PixelValueTransformationSequence", "RescaleSlope")
    intercept = _number(file, frame, "PixelValueTransformationSequence", "RescaleIntercept")
    notes = ("RescaleSlope of 0 taken as 1",) if slope == 0 else ()
    slope, intercept = slope or 1.0, intercept or 0.0
    if (slope, intercept) == (1.0, 0.0):
        return stored, False, notes
    measured = stored * slope
    measured += intercept
    return measured, True, notes


def _apply_voi(
    file: Any, frame: int, values: NDArray[np.float64], seen: NDArray[np.bool_]
) -> tuple[NDArray[np.float64] | None, str]:
    """Return 0 for black to 1 for white, beyond both where a window cuts, and the name of it."""
    if table := _first_item(file, "VOILUTSequence"):
        looked_up, bits, highest = _apply_table(file, table, np.rint(values), seen)
        name = "table of the tags (VOI LUT)"
        if highest.bit_length() == bits:
            return looked_up / (2**bits - 1), name
        # Either number may be wrong, but what a table is for is to show the whole range.
        name = f"{name} whose highest entry {highest} is not one of {bits} bits, and shown white"
        return looked_up / max(highest, 1), name
    macro = "FrameVOILUTSequence"
    center = _number(file, frame, macro, "WindowCenter")
    width = _number(file, frame, macro, "WindowWidth")
    if center is None or width is None:
        return None, ""
    function = str(_value(file, frame, macro, "VOILUTFunction") or "LINEAR").upper()
    name = f"window of the tags ({function}), values around {center:g}, {width:g} wide"
    if function == "SIGMOID" and width > 0:
        return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700))), name
    if function == "LINEAR" and width == 1:
        return np.where(values > center - 0.5, np.inf, -np.inf), name  # all of it is cut
    if function == "LINEAR" and width > 1:
        share = values - (center - 0.5)
        share /= width - 1
    elif function == "LINEAR_EXACT" and width > 0:
        share = values - center
        share /= width
    else:
        return None, ""
    share += 0.5
    return share, name


def _apply_table(
    file: Any, item: Any, values: NDArray[Any], seen: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], int, int]:
    """Look values up in a table of the tags; return also its bits by the tags, and its highest."""
    entries, first, bits = (int(number) for number in item.LUTDescriptor)
    # Without types in the file, the first value is read as unsigned.
    if file.original_encoding[0] and first >= 2**15 and values[seen].min() < 0:
        first -= 2**16
    table = _table_entries(file, item.LUTData, entries or 2**16)
    index = np.clip(values.astype(np.int64) - first, 0, len(table) - 1)
    return table[index].astype(np.float64), bits, int(table.max())


def _table_entries(file: Any, data: Any, entries: int) -> NDArray[np.uint16]:
    if not isinstance(data, bytes):
        found = np.asarray(data, dtype=np.uint16).reshape(-1)
    elif len(data) <= entries + 1:
        found = np.frombuffer(data, dtype=np.uint8).astype(np.uint16)
    else:
        order = "<" if file.original_encoding[1] else ">"
        found = np.frombuffer(data, dtype=f"{order}u2").astype(np.uint16)
    if not entries <= len(found) <= entries + 1:  # one byte may fill up
        raise ImageError(f"a table of the tags has {len(found)} entries where it says {entries}")
    return found[:entries]


def _apply_palette(file: Any, stored: NDArray[Any]) -> tuple[NDArray[np.uint16], int]:
    """Return the colours, and how many bits the palette's entries have."""
    if "RedPaletteColorLookupTableData" not in file:
        expanded: NDArray[Any] = pixels.apply_color_lut(stored, file)
        return expanded[:, :, :3].astype(np.uint16), 16 if expanded.max() > 255 else 8
    channels, highest = [], 0
    for color in ("Red", "Green", "Blue"):
        entries, first, _ = file[f"{color}PaletteColorLookupTableDescriptor"].value
        data = file[f"{color}PaletteColorLookupTableData"].value
        table = _table_entries(file, data, int(entries) or 2**16)
        channels.append(table[np.clip(stored.astype(np.int64) - int(first), 0, len(table) - 1)])
        highest = max(highest, int(table.max()))
    # Entries of 8 bits may lie in 16.
    return np.stack(channels, axis=-1), 16 if highest > 255 else 8


def _color_to_8_bit(color: NDArray[Any], bits: int) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    if color.dtype.kind != "u":
        kind = "signed" if color.dtype.kind == "i" else "floating-point"
        raise ImageError(f"colour of {kind} values: save it with values from 0")
    if bits == 8:
        return color.astype(np.uint8), ()
    levels = find_levels(color)
    shown = share_to_8_bit(levels.values / (2**bits - 1))
    return levels.paint(shown), (f"{bits}-bit colour scaled to 8 bit",)


def _find_padding(file: Any, stored: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Return where the stored values are padding (PS3.3, C.7.5.1.1.2); None where none is."""
    prefix = {"f4": "Float", "f8": "DoubleFloat"}.get(stored.dtype.str[1:], "")
    value = file.get(f"{prefix}PixelPaddingValue")
    if value is None:
        return None
    limit = file.get(f"{prefix}PixelPaddingRangeLimit")
    ends = [float(value), float(value if limit is None else limit)]
    # Some writers give a negative value as an unsigned one, of 16 bits or of those that are stored,
    # or the other way round.
    if stored.dtype.kind == "i":
        half = 2 ** (int(file.BitsStored) - 1)
        ends = [end - 2**16 if end >= 2**15 else end for end in ends]
        ends = [end - 2 * half if half <= end < 2 * half else end for end in ends]
    elif stored.dtype.kind == "u":
        ends = [end + 2**16 if end < 0 else end for end in ends]
    padding: NDArray[np.bool_] = (stored >= min(ends)) & (stored <= max(ends))
    return padding if padding.any() and not padding.all() else None


def _first_item(file: Any, sequence: str) -> Any:
    items = file.get(sequence)
    item = items[0] if items else None
    return item if item is not None and "LUTDescriptor" in item and "LUTData" in item else None


def _value(file: Any, frame: int, macro: str, keyword: str) -> Any:
    """Return a tag's value for a frame: its own, the one all frames share, or the file's."""
    for place in _places(file, frame, macro):
        value = place.get(keyword)
        if value is not None and value != "":
            return value
    return None


def _places(file: Any, frame: int, macro: str) -> Iterator[Any]:
    groups = file.get("PerFrameFunctionalGroupsSequence") or []
    for group in [*groups[frame : frame + 1], *(file.get("SharedFunctionalGroupsSequence") or [])]:
        yield from (group.get(macro) or [])[:1]
    yield file


def _number(file: Any, frame: int, macro: str, keyword: str) -> float | None:
    try:
        value = _value(file, frame, macro, keyword)
        if isinstance(value, pydicom.multival.MultiValue):  # the first alternative is the writer's
            value = value[0] if len(value) else None
        number = None if value is None else float(value)
    except (TypeError, ValueError):
        raise ImageError(
            f"{keyword} is no number: correct the tag (with a decimal point), or remove it"
        ) from None
    return number if number is not None and math.isfinite(number) else None
