"""One image of a packed data set: what is known of it, and where its bytes lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Box:
    """An object in an image; centre and size as shares of the image's width and height."""

    class_name: str
    x_center: float
    y_center: float
    width: float
    height: float


@dataclass(frozen=True)
class Sample:
    """One stored image.

    `name` is its path below the input folder, `group` the patient (or whatever must not be
    split), `label` its class if it has one, `boxes` its objects (None: not annotated, empty: none).
    """

    name: str
    group: str
    split: str
    sha256: str
    shard: str
    offset_bytes: int
    size_bytes: int
    width: int
    height: int
    label: str | None = None
    boxes: tuple[Box, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the sample as one line of `samples.jsonl`."""
        values = {key: value for key, value in self.__dict__.items() if value is not None}
        if self.boxes is not None:
            values["boxes"] = [list(box.__dict__.values()) for box in self.boxes]
        return values

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Sample:
        """Rebuild a sample from one line of `samples.jsonl`."""
        boxes = values.get("boxes")
        parsed = None if boxes is None else tuple(Box(*box) for box in boxes)
        return cls(**{**values, "boxes": parsed})
