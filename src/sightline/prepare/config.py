"""Settings and addresses of the prepare step."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from sightline.config import Rule, Seed, StepConfig, StepUris


class PrepareUris(StepUris):
    """Where the pictures come from and where the packed data sets go."""

    images_uri: str = ""
    """Folder of unlabelled images for pretraining, any tree; empty: pretrain on the images of
    `labels_uri` and `boxes_uri`."""
    labels_uri: str = ""
    """Folder of class folders, `<class>/x.png` or `{train,val,test}/<class>/x.png`; empty: no
    classification."""
    boxes_uri: str = ""
    """Folder in YOLO layout: `images/[split/]x.png`, `labels/[split/]x.txt`, `data.yaml` with the
    class names; empty: no detection."""
    table_uri: str = ""
    """CSV file with the column `name` and the columns `group` (patient), `split` or both; empty:
    groups come from `group_pattern`."""
    store_uri: str
    """Data set store: each version becomes a folder below it, named by its digest."""
    out_uri: str
    """Folder for this step's report and metrics."""

    rules: ClassVar[Sequence[Rule]] = (
        (
            "give at least one of images_uri, labels_uri and boxes_uri",
            lambda uris: bool(uris.images_uri or uris.labels_uri or uris.boxes_uri),
        ),
    )


class PrepareConfig(StepConfig):
    """How images are checked, split by group and stored."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "seed": {},
        "paper": {},
        "mri": {},
        "demo": {},
    }

    split_seed: Seed = 0
    """Decides, with a group's name and nothing else, the split of the group. The pipeline's seed
    leaves it alone: trainings with other seeds are tested on the same images."""
    test_fraction: float = Field(default=0.2, gt=0, lt=1)
    """Share of the groups that the test split gets, where neither folders nor table say."""
    val_fraction: float = Field(default=0.15, gt=0, lt=1)
    """Share of the groups that the val split gets, where neither folders nor table say."""
    group_pattern: str = ""
    """Regular expression with one pair of parentheses that finds the group (patient) in an image's
    path, such as `(patient-[0-9]+)`; a table's group wins over it."""
    stored_short_side_px: int = Field(default=256, ge=16, le=10_000)
    """Longest short side, in pixels, at which unlabelled and labelled images are stored; larger
    images are scaled down, smaller ones stay."""
    boxes_short_side_px: int = Field(default=640, ge=32, le=10_000)
    """Longest short side, in pixels, at which images with boxes are stored; choose it no smaller
    than the detector's input."""
    dicom_frames: Literal["refuse", "split"] = "refuse"
    """What becomes of a DICOM file with several frames: it is rejected, or each frame is an image
    of its own in the file's group; files with boxes are always rejected."""
    max_file_mib: int = Field(default=512, ge=1, le=4096)
    """Size in MiB beyond which an image file is rejected without being read; each is read whole
    into memory."""
    max_bad_fraction: float = Field(default=0.05, ge=0, le=1)
    """Share of a folder's images that may be rejected before the step fails."""
    max_box_overhang: float = Field(default=0.02, ge=0, le=1)
    """How far a box may reach outside its image, as a share of the image's side, and is clipped;
    beyond it the image is rejected."""
    min_images_per_class: int = Field(default=5, ge=3)
    """Fewest labelled images that a class may have."""
    shard_size_mib: int = Field(default=64, ge=1, le=4096)
    """Size in MiB at which a new shard is started."""
    report_pictures: int = Field(default=6, ge=0, le=50)
    """Sample pictures of each class, and of the unlabelled images, in the data report."""

    @field_validator("group_pattern")
    @classmethod
    def _need_one_group(cls, pattern: str) -> str:
        try:
            groups = re.compile(pattern).groups
        except re.error as error:
            raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
        if pattern and groups != 1:
            raise ValueError(
                f"{pattern!r} needs exactly one pair of capturing parentheses, got {groups}; "
                "write (?:…) for the others"
            )
        return pattern

    rules: ClassVar[Sequence[Rule]] = (
        (
            "test_fraction {0.test_fraction:g} and val_fraction {0.val_fraction:g} leave nothing "
            "for training: their sum must be below 1",
            lambda config: config.test_fraction + config.val_fraction < 1,
        ),
    )
