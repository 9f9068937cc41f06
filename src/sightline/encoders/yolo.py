"""YOLOv12's own backbone as an encoder, and the one door through which Ultralytics is imported.

Ultralytics is AGPL-3.0 and comes with the extra `sightline[detect]`; nothing else needs it.
"""

from __future__ import annotations

import functools
import os
from typing import Any

from PIL import Image
from torch import Tensor, nn

from sightline.encoders.base import Encoder, EncoderSpec
from sightline.errors import UserError
from sightline.storage.scratch import scratch_until_exit

# Left alone, Ultralytics looks for the network at import, installs packages at run time, runs
# pickled code on loading a model, and reads torchrun's variables as orders to join a group.
_ENVIRONMENT = {
    "YOLO_OFFLINE": "true",
    "YOLO_AUTOINSTALL": "false",
    "ULTRALYTICS_SAFE_LOAD": "1",
    "YOLO_VERBOSE": "false",  # its errors are still logged
}
_TORCHRUN_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE")

STRIDE = 32
_LAYERS = 9
_STRIDE_LAYERS = (4, 6, 8)


@functools.cache
def import_ultralytics() -> Any:
    """Import Ultralytics so that it stays offline, silent to its makers and a single process.

    Its settings go to a folder of this process alone, so a user's own are neither read nor
    changed; a `YOLO_CONFIG_DIR` that is set is honoured.

    Raises:
        UserError: If it is not installed.
    """
    os.environ.update(_ENVIRONMENT)
    if not os.environ.get("YOLO_CONFIG_DIR"):
        os.environ["YOLO_CONFIG_DIR"] = str(scratch_until_exit("ultralytics"))
    hidden = {name: os.environ.pop(name) for name in _TORCHRUN_VARIABLES if name in os.environ}
    pillow_open = Image.open
    try:
        import ultralytics
        import ultralytics.utils
    except ModuleNotFoundError as error:
        raise UserError(
            f"YOLOv12 needs Ultralytics (no module named {error.name!r}): "
            'pip install "sightline[detect]"'
        ) from None
    finally:
        os.environ.update(hidden)
        # Ultralytics puts its own in place, which wants pi_heif for whatever is no image.
        Image.open = pillow_open
    ultralytics.utils.SETTINGS.update(sync=False)
    return ultralytics


class YoloEncoder(Encoder):
    """YOLOv12's backbone (Tian et al. 2025, arXiv:2502.12524); h pools its deepest map.

    Its BatchNorm constants are Ultralytics' own (eps 1e-3, momentum 0.03), in pretraining and
    in the detector alike. Images need sides that are multiples of 32 pixels.
    """

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__(spec)
        import_ultralytics()
        from ultralytics.nn.tasks import DetectionModel

        detector = DetectionModel(f"{spec.name}.yaml", ch=3, nc=1, verbose=False)
        self.trunk: nn.Sequential = detector.model[:_LAYERS]
        self.width = 256 if spec.name.endswith("n") else 512

    def feature_maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs of layers 4, 6 and 8, which the neck of YOLOv12 reads.

        Raises:
            UserError: If a side of the images is no multiple of 32 pixels.
        """
        height, width = images.shape[-2:]
        if height % STRIDE or width % STRIDE:
            raise UserError(
                f"{self.spec.name} needs images with sides that are multiples of {STRIDE} pixels, "
                f"got {width} x {height}: choose another image_size_px"
            )
        maps = []
        x = self.normalize(images)
        for place, layer in enumerate(self.trunk):
            x = layer(x)
            if place in _STRIDE_LAYERS:
                maps.append(x)
        return tuple(maps)
