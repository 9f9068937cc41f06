"""One file that cannot be read is left out; a store that cannot be used ends the step."""

from __future__ import annotations

import pytest

import sightline.prepare.run as steps
from sightline.data import open_dataset
from sightline.errors import UserError
from sightline.images import ImageError
from sightline.prepare.config import PrepareConfig, PrepareUris
from sightline.prepare.file_errors import read_listed
from sightline.prepare.folders import find_images, reject_large_files
from sightline.prepare.intake import read_all
from sightline.storage import StorageUnavailableError, UnreadableError, open_storage


def failing(error):
    def read(_key):
        raise error

    return read


def test_file_that_can_be_read_is_given_whole(tmp_path):
    (tmp_path / "a.png").write_bytes(b"content")
    assert read_listed(open_storage(str(tmp_path)).read_bytes, "a.png") == b"content"


def test_file_that_is_gone_since_the_listing_is_left_out(tmp_path):
    with pytest.raises(ImageError, match="was removed after it was listed"):
        read_listed(open_storage(str(tmp_path)).read_bytes, "a.png")


def test_file_that_may_not_be_read_is_left_out_with_the_reason():
    with pytest.raises(ImageError, match="is archived"):
        read_listed(failing(UnreadableError("s3://b/a.png is archived")), "a.png")


@pytest.mark.parametrize("kind", [UserError, StorageUnavailableError])
def test_store_that_cannot_be_used_is_no_matter_of_one_file(kind):
    with pytest.raises(kind, match="have expired"):
        read_listed(failing(kind("the credentials have expired")), "a.png")


def test_file_above_the_limit_is_rejected_by_its_listed_size(tmp_path, catalogue):
    for name, size_bytes in (("at.png", 2**20), ("above.png", 2**20 + 1), ("huge.tif", 6 * 2**30)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size_bytes)
    find_images(str(tmp_path), catalogue)
    reject_large_files(catalogue, max_file_mib=1)
    assert catalogue.values("SELECT key FROM files WHERE rejected IS NULL") == ["at.png"]
    assert dict(catalogue.rows("SELECT name, reason FROM rejected")) == {
        "above.png": "has 2 MiB, more than max_file_mib 1",
        "huge.tif": "has 6144 MiB, more than max_file_mib 1",
    }


def test_preparation_goes_on_without_files_that_are_gone_or_too_large(
    tmp_path, make_images, monkeypatch
):
    images = make_images(tmp_path / "images")
    paths = sorted(images.rglob("*.png"))
    gone, large = paths[0], images / "slide.tif"
    with large.open("wb") as file:
        file.truncate(6 * 2**30)

    def remove_and_read(*arguments):
        gone.unlink()
        return read_all(*arguments)

    monkeypatch.setattr(steps, "read_all", remove_and_read)
    uris = PrepareUris(
        images_uri=str(images), store_uri=str(tmp_path / "store"), out_uri=str(tmp_path / "out")
    )
    metrics = steps.run(uris, PrepareConfig(max_bad_fraction=0.5))
    assert len(open_dataset(metrics["datasets"]["images"])) == len(paths) - 1
    assert {entry["name"]: entry["reason"] for entry in metrics["rejected"]} == {
        gone.relative_to(images).as_posix(): "was removed after it was listed",
        "slide.tif": "has 6144 MiB, more than max_file_mib 512",
    }
