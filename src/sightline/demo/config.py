"""Settings and addresses of the demo data."""

from __future__ import annotations

from pydantic import Field

from sightline.config import Seed, StepConfig, StepUris


class DemoUris(StepUris):
    """Where the demo data go."""

    out_uri: str
    """Folder for images, labels, boxes and the table; empty, or made by this command before."""


class DemoConfig(StepConfig):
    """How many phantoms are drawn, and how large."""

    seed: Seed = 0
    """Decides every pixel: the same seed and settings give the same files."""
    patients: int = Field(default=132, ge=12, le=100_000)
    """Patients with a labelled lesion; a third has each kind."""
    slices_per_patient: int = Field(default=3, ge=1, le=20)
    """Labelled slices of each patient, all through the lesion."""
    unlabelled_slices_per_patient: int = Field(default=2, ge=0, le=50)
    """Further slices of each patient for `images/`; some show no lesion."""
    unlabelled_patients: int = Field(default=32, ge=0, le=100_000)
    """Patients that are in `images/` alone."""
    boxed_slices_per_patient: int = Field(default=2, ge=1, le=20)
    """Slices of each labelled patient that also have boxes, at most `slices_per_patient`."""
    healthy_boxed_slices: int = Field(default=12, ge=0, le=100_000)
    """Slices without a lesion in `boxes/`, each of a patient of its own; their label files are
    empty."""
    image_size_px: int = Field(default=96, ge=48, le=1024)
    """Side of the square pictures in pixels."""
