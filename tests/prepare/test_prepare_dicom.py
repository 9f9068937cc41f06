"""DICOM through the whole step: whose it is, how many frames it has, what is never told."""

from __future__ import annotations

import hashlib
import io
import re

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from sightline.data import open_dataset
from sightline.errors import UserError
from sightline.prepare.config import PrepareConfig, PrepareUris
from sightline.prepare.run import run
from sightline.prepare.splits import split_of


def save_dicom(path, seed, patient="", frames=1, window=None):
    pixels = np.random.default_rng(seed).integers(0, 4096, (frames, 24, 24), dtype=np.uint16)
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, generate_uid()
    data.Rows = data.Columns = 24
    data.PhotometricInterpretation, data.SamplesPerPixel = "MONOCHROME2", 1
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
    data.PixelRepresentation = 0
    data.PatientID = patient
    if frames > 1:
        data.NumberOfFrames = frames
    if window:
        data.WindowCenter, data.WindowWidth = window
    data.PixelData = pixels.tobytes()
    buffer = io.BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getvalue())


def hashed(patient):
    return "patient-" + hashlib.sha256(patient.encode()).hexdigest()[:12]


@pytest.fixture
def prepare(tmp_path):
    """Return a function that prepares `images` and returns metrics and samples."""

    def run_step(**settings):
        uris = PrepareUris(
            images_uri=str(tmp_path / "images"),
            store_uri=str(tmp_path / "store"),
            out_uri=str(tmp_path / f"out-{len(list(tmp_path.iterdir()))}"),
            table_uri=settings.pop("table_uri", ""),
        )
        metrics = run(uris, PrepareConfig(**settings))
        return metrics, open_dataset(metrics["datasets"]["images"]).samples

    return run_step


def test_patient_is_the_group_and_is_only_told_as_a_hash(tmp_path, prepare):
    for number in range(40):
        save_dicom(tmp_path / "images" / f"{number:02d}.dcm", number, f"MRN-{number // 4}")
    metrics, samples = prepare()
    splits = {sample.group: sample.split for sample in samples}
    assert splits == {
        hashed(f"MRN-{n}"): split_of(hashed(f"MRN-{n}"), 0, 0.2, 0.15) for n in range(10)
    }
    assert {s.group for s in samples if s.name in ("04.dcm", "07.dcm")} == {hashed("MRN-1")}
    assert metrics["groups"] == {
        "source": "the patient in the DICOM files, for 40 of 40 images",
        "known": 40,
        "images": 40,
        "count": 10,
        "in_several_splits": 0,
        "in_several_splits_of_a_set": 0,
        "patients_in_several_splits": 0,
    }
    assert metrics["warnings"] == []
    written = [
        path.read_bytes()
        for path in tmp_path.rglob("*")
        if path.suffix != ".dcm" and path.is_file()
    ]
    assert not any(b"MRN-1" in content for content in written)


def test_table_and_pattern_win_over_the_patient(tmp_path, prepare):
    for number in range(20):
        save_dicom(tmp_path / "images" / f"p{number // 2}_{number}.dcm", number, f"MRN-{number}")
    save_dicom(tmp_path / "images" / "other.dcm", 99, "MRN-99")
    table = tmp_path / "table.csv"
    table.write_text("name,group\np0_0,patient 7\n")
    _, samples = prepare(table_uri=str(table), group_pattern=r"(p\d+)_")
    groups = {sample.name: sample.group for sample in samples}
    assert groups["p0_0.dcm"] == "patient 7"
    assert groups["p0_1.dcm"] == "p0"
    assert groups["other.dcm"] == hashed("MRN-99")


def test_a_patient_is_in_the_group_of_the_files_that_the_table_names(tmp_path, prepare):
    rows = ["name,group"]
    for number in range(40):
        save_dicom(tmp_path / "images" / f"{number:02d}.dcm", number, f"MRN-{number // 4}")
        if number % 4 < 2:
            rows.append(f"{number:02d},case-{number // 4}")
    table = tmp_path / "table.csv"
    table.write_text("\n".join(rows))
    metrics, samples = prepare(table_uri=str(table))
    assert {s.name: s.group for s in samples} == {
        f"{number:02d}.dcm": f"case-{number // 4}" for number in range(40)
    }
    assert metrics["groups"]["patients_in_several_splits"] == 0
    assert metrics["warnings"] == []


def test_a_table_that_tears_patients_apart_is_followed_and_told(tmp_path, prepare):
    rows = ["name,group"]
    for number in range(60):
        save_dicom(tmp_path / "images" / f"{number:02d}.dcm", number, f"MRN-{number // 4}")
        rows.append(f"{number:02d},{'ab'[number % 2]}-{number // 4:02d}")
    table = tmp_path / "table.csv"
    table.write_text("\n".join(rows))
    metrics, _ = prepare(table_uri=str(table))
    assert metrics["groups"]["patients_in_several_splits"] > 0
    (warning,) = metrics["warnings"]
    assert "puts 15 patients of the DICOM files into several groups" in warning
    first = min(hashed(f"MRN-{number}") for number in range(15))
    assert re.search(rf"{first} \(a-(\d\d), b-\1\);", warning)


def test_split_folders_that_tear_a_patient_apart_are_refused(tmp_path, prepare):
    for number in range(10):
        save_dicom(tmp_path / "images" / "train" / f"{number}.dcm", number, "MRN-1")
        save_dicom(tmp_path / "images" / "test" / f"{number}.dcm", 50 + number, "MRN-1")
    with pytest.raises(UserError, match=f"folders put 1 group into two splits: {hashed('MRN-1')}"):
        prepare()
    assert list((tmp_path / "store").glob("*/manifest.json")) == []


def test_frames_are_refused_or_become_images_of_one_group(tmp_path, prepare):
    for number in range(30):
        save_dicom(tmp_path / "images" / f"{number:02d}.dcm", number)
    save_dicom(tmp_path / "images" / "film.dcm", 99, frames=3)
    metrics, samples = prepare()
    assert [entry["name"] for entry in metrics["rejected"]] == ["film.dcm"]
    assert len(samples) == 30
    metrics, samples = prepare(dicom_frames="split")
    assert metrics["rejected"] == []
    frames = {s.name: (s.group, s.split) for s in samples if s.name.startswith("film")}
    split = split_of("film.dcm", 0, 0.2, 0.15)
    assert frames == {f"film.dcm#{n}": ("film.dcm", split) for n in (1, 2, 3)}


def test_bad_files_are_weighed_against_the_frames_of_the_good_ones(tmp_path, prepare):
    save_dicom(tmp_path / "images" / "series.dcm", 0, frames=30)
    (tmp_path / "images" / "empty.dcm").write_bytes(b"")
    # 1 of 2 files is bad, and 1 of 31 images.
    metrics, samples = prepare(dicom_frames="split", max_bad_fraction=0.05)
    assert len(samples) == 30
    assert [entry["name"] for entry in metrics["rejected"]] == ["empty.dcm"]


def test_files_as_scanners_and_archives_name_them_are_read(tmp_path, prepare):
    for number in range(12):
        save_dicom(tmp_path / "images" / "scanner" / f"IM{number:04d}", number)
        save_dicom(tmp_path / "images" / "archive" / f"1.2.840.{number}", 100 + number)
    save_dicom(tmp_path / "images" / "scanner" / "DICOMDIR", 1000)
    (tmp_path / "images" / "archive" / "1.2.840.0").write_bytes(b"a note of somebody")
    metrics, samples = prepare()
    # A folder's first such file may be none of them; a later one that is none is rejected.
    assert len(samples) == 23
    assert metrics["rejected"] == []
    names = {sample.name for sample in samples}
    assert {"scanner/IM0000", "archive/1.2.840.11"} <= names
    assert not {"scanner/DICOMDIR", "archive/1.2.840.0"} & names
    (tmp_path / "images" / "archive" / "1.2.840.5").write_bytes(b"another note")
    assert "archive/1.2.840.5" in {entry["name"] for entry in prepare()[0]["rejected"]}


def test_window_that_cuts_most_is_the_example(tmp_path, prepare):
    for number in range(40):
        # The values are 0 to 4095; one window shows 20 of them.
        window = (2048, 20) if number == 7 else (2048, 5000)
        save_dicom(tmp_path / "images" / f"{number:02d}.dcm", number, f"p{number}", window=window)
    metrics, _ = prepare()
    [change] = metrics["adjusted"]
    assert (change["images"], change["most_beyond_percent"]) == (40, 100)
    assert "07.dcm" in change["example"]
    assert "100 % of the pixels beyond it" in change["example"]
