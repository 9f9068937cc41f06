"""A thousand damaged files: each is read or refused with a reason, and nothing else happens."""

from __future__ import annotations

import io
import json
import random
import subprocess
import sys

import numpy as np
import pytest
from dicom_files import compressed, dicom, dicom_set, save
from PIL import Image
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from sightline.data import open_dataset
from sightline.images import ImageError, read_file
from sightline.prepare.config import PrepareConfig, PrepareUris
from sightline.prepare.run import run

FILES = 1000
CANARY = "Canary"  # who must be in no reason

# Reads one file after the other; says how far it came, so that a crash names its file.
READER = """
import hashlib, json, resource, sys
from pathlib import Path
from sightline.images import CheckedImage, ImageError, read_file

def peak_kb():
    # getrusage keeps the peak of the process that started this one; the kernel's own line does not.
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1])

def seen(images):
    whole = hashlib.sha256()
    for image in images:
        whole.update(str(image.pixels.shape).encode() + image.pixels.tobytes())
    return whole.hexdigest()

good = {}
for start in sorted(Path("good").iterdir()):  # what the libraries themselves take
    good[start.name] = seen(read_file(start.read_bytes(), start.name, dicom_frames="split"))
before, peak_before = resource.getrusage(resource.RUSAGE_SELF), peak_kb()
results, altered = {}, []
for file in sorted(Path("mutated").iterdir()):
    print(file.name, file=sys.stderr)
    try:
        images = read_file(file.read_bytes(), file.name, dicom_frames="split")
        assert images and all(isinstance(image, CheckedImage) for image in images)
        assert all(image.pixels.dtype == "uint8" and image.pixels.ndim == 3 for image in images)
        results[file.name] = ""  # read
        name = file.name.split("-")[2]
        altered += [file.name] * (seen(images) != good[name])
    except ImageError as error:
        results[file.name] = str(error)
after = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({
    "results": results,
    "altered": altered,
    "grown_kb": peak_kb() - peak_before,
    "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
}))
"""


def coded(picture, file_format, **options):
    buffer = io.BytesIO()
    picture.save(buffer, file_format, **options)
    return buffer.getvalue()


def good_files():
    y, x = np.mgrid[:60, :80]
    color = Image.fromarray(np.stack([2 * x, 3 * y, x + y], axis=-1).astype(np.uint8))
    gray = color.convert("L")
    deep = np.add.outer(np.arange(60), np.arange(80)).astype(np.uint16) * 300
    alpha = color.copy()
    alpha.putalpha(gray)
    exif = Image.Exif()
    exif[0x0112] = 6
    yield "color.jpg", coded(color, "JPEG", exif=exif)
    yield "progressive.jpg", coded(color, "JPEG", progressive=True)
    yield "cmyk.jpg", coded(color.convert("CMYK"), "JPEG")
    yield "color.png", coded(color, "PNG", exif=exif)
    yield "deep.png", coded(Image.fromarray(deep), "PNG")
    yield "palette.png", coded(color.quantize(32), "PNG", transparency=3)
    yield "alpha.png", coded(alpha, "PNG")
    yield "one_bit.png", coded(gray.convert("1"), "PNG")
    yield "plain.tif", coded(color, "TIFF")
    yield "packed.tif", coded(color, "TIFF", compression="tiff_lzw", exif=exif)
    yield "deep.tif", coded(Image.fromarray(deep), "TIFF", compression="tiff_adobe_deflate")
    yield "float.tif", coded(Image.fromarray(deep.astype(np.float32)), "TIFF")
    yield "jpeg.tif", coded(color, "TIFF", compression="jpeg")
    yield "color.gif", coded(color.quantize(64), "GIF")
    yield "color.bmp", coded(color, "BMP")
    yield "lossy.webp", coded(color, "WEBP")
    yield "lossless.webp", coded(alpha, "WEBP", lossless=True)
    yield "color.ppm", coded(color, "PPM")
    named = {"PatientID": f"{CANARY}-17", "PatientName": f"{CANARY}^Jane"}
    window = {"WindowCenter": 9000, "WindowWidth": 9000, **named}
    yield "window.dcm", dicom(deep, **window, RescaleSlope=2, RescaleIntercept=-5)
    yield "frames.dcm", dicom(np.stack([deep, deep + 9]), frames=2, PixelPaddingValue=0, **named)
    yield "deflated.dcm", save(dicom_set(deep, **named), DeflatedExplicitVRLittleEndian)
    run_length = dicom_set(deep, **window)
    run_length.compress(RLELossless)
    yield "run_length.dcm", save(run_length)
    bytes_of_gray = np.asarray(gray)
    yield "jpeg.dcm", compressed(bytes_of_gray, coded(gray, "JPEG"), JPEGBaseline8Bit, **named)
    waves = coded(gray, "JPEG2000", no_jp2=True)
    yield "waves.dcm", compressed(bytes_of_gray, waves, JPEG2000Lossless, **named)


def is_fit_to_be_shown(reason):
    return reason.isprintable() and 0 < len(reason) <= 300 and CANARY not in reason


KINDS = ("bits", "header bits", "truncate", "splice", "fill")


def mutate(draw, kind, content, others):
    """Return the bytes with some bits flipped, cut short, or with another file's header."""
    content = bytearray(content)
    if kind == "bits":
        for _ in range(draw.randint(1, 12)):
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    elif kind == "header bits":
        for _ in range(draw.randint(1, 6)):
            content[draw.randrange(min(600, len(content)))] ^= 1 << draw.randrange(8)
    elif kind == "truncate":
        del content[draw.randrange(len(content)) :]
    elif kind == "splice":
        other, size = draw.choice(others), draw.randint(4, 400)
        content[:size] = other[: draw.choice([size, draw.randint(4, 400)])]
    else:
        start = draw.randrange(len(content))
        size = min(draw.randint(1, 60), len(content) - start)
        content[start : start + size] = bytes([draw.choice([0, 0xFF, 0x7F])]) * size
    return bytes(content)


def reasons_of(contents):
    for content in contents:
        try:
            read_file(content, dicom_frames="split")
        except ImageError as error:
            yield str(error)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_no_flipped_bit_in_a_dicom_file_tells_who_the_patient_is(syntax):
    # Each bit of each tag's number, type and length: a length may swallow all that follows.
    tags = {"PatientID": f"{CANARY}-17", "PatientName": f"{CANARY}^Jane", "WindowCenter": 5}
    tags |= {"WindowWidth": 9, "RescaleSlope": 2, "RescaleIntercept": 1, "PixelPaddingValue": 0}
    tags |= {"BurnedInAnnotation": "NO", "VOILUTFunction": "LINEAR", "PixelAspectRatio": [1, 1]}
    content = save(dicom_set(np.arange(64, dtype=np.uint16).reshape(8, 8), **tags), syntax)
    places = [
        place
        for group in (b"\2\0", b"\x08\0", b"\x10\0", b"\x28\0", b"\xe0\x7f")
        for place in range(len(content))
        if content[place : place + 2] == group
    ]
    flipped = []
    for place in {byte for start in places for byte in range(start, min(start + 12, len(content)))}:
        for bit in range(8):
            other = bytearray(content)
            other[place] ^= 1 << bit
            flipped.append(bytes(other))
    reasons = list(reasons_of(flipped))
    assert len(reasons) > 200
    assert not [reason for reason in reasons if not is_fit_to_be_shown(reason)]


# pytest undoes the filter of Pillow's warnings that importing sightline.images sets.
@pytest.mark.filterwarnings("error::RuntimeWarning", "ignore:.*bomb", "ignore::UserWarning")
def test_a_thousand_damaged_files_are_each_read_or_refused(tmp_path):
    (tmp_path / "good").mkdir()
    (tmp_path / "mutated").mkdir()
    good = dict(good_files())
    for name, content in good.items():
        (tmp_path / "good" / name).write_bytes(content)
    draw = random.Random(20)
    for number in range(FILES):
        name = list(good)[number % len(good)]
        kind = draw.choice(KINDS)
        content = mutate(draw, kind, good[name], list(good.values()))
        (tmp_path / "mutated" / f"{number:04d}-{kind}-{name}").write_bytes(content)
    reader = tmp_path / "reader.py"
    reader.write_text(READER)
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", reader], cwd=tmp_path, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    told = json.loads(ran.stdout)
    refused = [reason for reason in told["results"].values() if reason]
    assert len(told["results"]) == FILES
    assert 100 < len(refused) < FILES - 100  # the damage is real, and not all of it matters
    assert not [reason for reason in refused if not is_fit_to_be_shown(reason)]
    # What is cut short is never read otherwise than whole, and what has a checksum neither.
    altered = [name.split("-") for name in told["altered"]]
    assert not [name for name in altered if name[1] == "truncate"]
    assert not [name for name in altered if name[1] != "splice" and name[2].endswith(".png")]
    assert told["grown_kb"] < 500 * 1024
    assert told["cpu_seconds"] < 60
    # And the whole step: every file is in the set, or listed with that very reason.
    config = PrepareConfig(dicom_frames="split", max_bad_fraction=1.0)
    uris = PrepareUris(
        images_uri=str(tmp_path / "mutated"),
        store_uri=str(tmp_path / "store"),
        out_uri=str(tmp_path / "out"),
    )
    metrics = run(uris, config)
    listed = {bad["name"]: bad["reason"] for bad in metrics["rejected"]}
    assert listed == {name: reason for name, reason in told["results"].items() if reason}
    names = {sample.name for sample in open_dataset(metrics["datasets"]["images"]).samples}
    assert {name.partition("#")[0] for name in names} == told["results"].keys() - listed.keys()
