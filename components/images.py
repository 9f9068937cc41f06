"""The container images a step runs in: named here and nowhere else.

A laptop run ignores them: there every step runs in the environment that started the pipeline.
"""

from sightline import __version__

TRAIN = f"sightline/train-python:{__version__}"
"""Everything but the detector."""

DETECT = f"sightline/detect-python:{__version__}"
"""The same with Ultralytics, which is AGPL-3.0 and therefore lives in this image alone."""
