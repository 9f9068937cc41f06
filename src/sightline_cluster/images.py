"""The container images of Sightline: named here and nowhere else.

A laptop run ignores them: there every step runs in the environment that started the pipeline.
"""

from sightline import __version__

TRAIN = f"sightline/train-python:{__version__}"
"""Everything but the detector."""

DETECT = f"sightline/detect-python:{__version__}"
"""The same with Ultralytics, which is AGPL-3.0 and therefore lives in this image alone."""

LAUNCH = f"sightline/launch-python:{__version__}"
"""The client that submits and follows a step's job; no torch."""


def image_of(step: str, encoder: str = "") -> str:
    """Return the image that a step's work needs: a YOLO encoder is Ultralytics', too."""
    needs_detector = step in ("detect", "promote") or encoder.startswith("yolo")
    return DETECT if needs_detector else TRAIN
