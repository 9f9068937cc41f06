"""One image of a packed data set: what is known of it, and where its bytes lie."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, fields
from typing import Any

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Box:
    """An object in an image; centre and size as shares of the image's width and height."""

    class_name: str
    x_center: float
    y_center: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Sample:
    """One stored image.

    `name` is its path below the input folder, `group` the patient (or whatever must not be
    split), `shard` the shard's place in the manifest, `offset_bytes` where its bytes begin there,
    `label` its class if it has one, `boxes` its objects (None: not annotated, empty: none).
    """

    name: str
    group: str
    split: str
    sha256: str
    shard: int
    offset_bytes: int
    size_bytes: int
    width: int
    height: int
    label: str | None = None
    boxes: tuple[Box, ...] | None = None

    def to_line(self) -> bytes:
        """Return the sample as one line of `samples.jsonl`."""
        values = {name: getattr(self, name) for name in _NAMES}
        if self.label is None:
            del values["label"]
        if self.boxes is None:
            del values["boxes"]
        else:
            values["boxes"] = [[getattr(box, name) for name in _BOX_NAMES] for box in self.boxes]
        return (json.dumps(values, ensure_ascii=False, separators=(",", ":")) + "\n").encode()

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> Sample:
        """Rebuild a sample from what its line of `samples.jsonl` holds."""
        boxes = values.get("boxes")
        if boxes is not None:
            values["boxes"] = tuple(Box(*box) for box in boxes)
        # Few values, each in many samples: a million of them share the strings.
        for name in ("group", "split", "label"):
            if name in values:
                values[name] = sys.intern(values[name])
        return cls(**values)


_NAMES = tuple(field.name for field in fields(Sample))
_BOX_NAMES = tuple(field.name for field in fields(Box))


def parse_samples(lines: bytes) -> list[Sample]:
    """Return the samples of some whole lines of `samples.jsonl`."""
    # Only a line feed ends a line, and JSON holds none inside a value. Parsed as one list, a line
    # costs a sixth less than alone.
    listed = b"[%s]" % lines.strip(b"\n").replace(b"\n", b",")
    return [Sample.from_values(values) for values in json.loads(listed)]
