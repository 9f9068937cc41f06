"""Demo data: the folders a user would bring, the same bytes for the same seed."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from PIL import Image

from sightline.data import open_dataset
from sightline.demo.config import DemoConfig, DemoUris
from sightline.demo.phantom import LESION_KINDS, draw_patient, draw_slice
from sightline.demo.run import run
from sightline.errors import UserError
from sightline.prepare.config import PrepareConfig, PrepareUris
from sightline.prepare.run import run as prepare

SMALL = DemoConfig(
    patients=12,
    slices_per_patient=2,
    unlabelled_slices_per_patient=1,
    unlabelled_patients=3,
    boxed_slices_per_patient=1,
    healthy_boxed_slices=2,
    image_size_px=64,
)


def files_of(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_same_seed_gives_the_same_bytes_and_another_seed_none_of_them(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(DemoUris(out_uri=str(tmp_path / name)), SMALL.model_copy(update={"seed": seed}))
    first, second, other = (files_of(tmp_path / name) for name in "abc")
    assert first == second
    assert list(first) == list(other)
    assert not [key for key in first if key.endswith(".png") and first[key] == other[key]]


def test_folders_hold_what_the_settings_say(tmp_path, capsys):
    counts = run(DemoUris(out_uri=str(tmp_path)), SMALL)
    # 12 patients of 2 + 1 slices, 3 of 2 + 1, 2 healthy ones of 1; labels 12 x 2; boxes 12 + 2.
    assert counts == {"pictures": {"images": 47, "labels": 24, "boxes": 14}, "patients": 17}
    keys = list(files_of(tmp_path))
    for kind in LESION_KINDS:
        assert sum(key.startswith(f"labels/{kind}/") for key in keys) == 8
    assert sum(key.startswith("images/") for key in keys) == 47
    empty = [p for p in (tmp_path / "boxes" / "labels").iterdir() if not p.read_text()]
    assert sorted(path.name.split("_")[0] for path in empty) == ["healthy-0000", "healthy-0001"]
    said = capsys.readouterr().out
    assert f"python -m pipelines run --images {tmp_path}/images" in said


def test_labelled_pictures_are_among_the_unlabelled_ones(tmp_path):
    run(DemoUris(out_uri=str(tmp_path)), SMALL)
    for path in (tmp_path / "labels").rglob("*.png"):
        assert path.read_bytes() == (tmp_path / "images" / path.name).read_bytes()


def test_table_names_the_patient_of_every_picture(tmp_path):
    run(DemoUris(out_uri=str(tmp_path)), SMALL)
    with (tmp_path / "table.csv").open() as file:
        groups = {row["name"]: row["group"] for row in csv.DictReader(file)}
    names = {path.name for path in tmp_path.rglob("*.png")}
    assert set(groups) == names
    assert all(name.startswith(f"{group}_slice-") for name, group in groups.items())


def test_default_demo_data_pass_prepare_without_a_warning_and_defeat_neighbours(tmp_path):
    uri = tmp_path / "demo"
    run(DemoUris(out_uri=str(uri)), DemoConfig())
    uris = PrepareUris(
        images_uri=f"{uri}/images",
        labels_uri=f"{uri}/labels",
        boxes_uri=f"{uri}/boxes",
        table_uri=f"{uri}/table.csv",
        store_uri=f"{tmp_path}/store",
        out_uri=f"{tmp_path}/out",
    )
    metrics = prepare(uris, PrepareConfig())
    assert metrics["warnings"] == metrics["rejected"] == []
    assert metrics["duplicates"]["exact_across_splits"] == 0
    labels = open_dataset(metrics["datasets"]["labels"])
    assert 350 <= len(labels) <= 450
    for split in ("train", "val", "test"):
        counts = labels.manifest["counts"][split]
        assert len(counts["classes"]) == 3
        # Majority must not be an answer.
        assert max(counts["classes"].values()) < 0.5 * counts["images"]
    assert metrics["pixel_nearest_neighbour"]["this_split"] <= 0.6


@pytest.mark.parametrize("kind", LESION_KINDS)
def test_box_surrounds_the_lesion_and_little_else(kind):
    patient = draw_patient("patient-0", 0, kind)
    healthy = patient.__class__(**{**patient.__dict__, "lesion": None})
    pixels, box = draw_slice(patient, patient.lesion.depth, 128)
    # The same slice of the same patient without the lesion: noise is the same, pixel by pixel.
    without, no_box = draw_slice(healthy, patient.lesion.depth, 128)
    assert no_box is None
    assert box.class_name == kind
    rows, columns = np.nonzero(np.abs(pixels.astype(int) - without) > 16)
    top, left = 128 * (box.y_center - box.height / 2), 128 * (box.x_center - box.width / 2)
    inside = (rows >= top - 1) & (rows <= top + 128 * box.height)
    inside &= (columns >= left - 1) & (columns <= left + 128 * box.width)
    assert inside.mean() > 0.9
    assert box.height * box.width < 0.25


def test_slices_of_a_patient_resemble_each_other_more_than_other_patients():
    def slices(name):
        patient = draw_patient(name, 0, "solid")
        return [draw_slice(patient, patient.lesion.depth + d, 64)[0].ravel() for d in (0, 0.05)]

    (first, second), (other, _) = slices("patient-0"), slices("patient-1")
    assert np.corrcoef(first, second)[0, 1] > np.corrcoef(first, other)[0, 1]


def test_folder_of_somebody_else_is_refused_and_left_as_it_is(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match=r"not empty and was not made by demo-data .*thesis.txt"):
        run(DemoUris(out_uri=str(tmp_path)), SMALL)
    assert files_of(tmp_path) == {"thesis.txt": b"years of work"}


def test_own_folder_is_drawn_anew_without_leftovers(tmp_path):
    run(DemoUris(out_uri=str(tmp_path)), SMALL.model_copy(update={"patients": 15}))
    run(DemoUris(out_uri=str(tmp_path)), SMALL)
    assert len(list((tmp_path / "labels").rglob("*.png"))) == 24


def test_pictures_are_gray_squares_of_the_size_asked_for(tmp_path):
    run(DemoUris(out_uri=str(tmp_path)), SMALL)
    with Image.open(next((tmp_path / "images").glob("*.png"))) as picture:
        assert picture.size == (64, 64)
        assert picture.mode == "L"
