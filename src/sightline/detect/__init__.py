"""YOLOv12 with the pretrained encoder as its backbone, and the same detector from scratch.

The names are loaded when they are first used: the settings live in this package too, and they
must bring neither torch nor Ultralytics along.
"""

from typing import TYPE_CHECKING

from sightline.lazy import lazy_exports

if TYPE_CHECKING:
    from sightline.detect.config import DetectConfig
    from sightline.detect.training import train_detector
    from sightline.detect.yolo_folder import write_yolo_folder

__all__ = ["DetectConfig", "train_detector", "write_yolo_folder"]

__getattr__ = lazy_exports(
    __name__,
    {
        "DetectConfig": "config",
        "train_detector": "training",
        "write_yolo_folder": "yolo_folder",
    },
)
