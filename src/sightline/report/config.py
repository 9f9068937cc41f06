"""Settings of the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from sightline.config import Seed, StepConfig, StepUris


class ReportUris(StepUris):
    """Where the report reads every step's results, and where it leaves its page."""

    prepare_uri: str
    """Folder of the finished prepare step."""
    pretrain_uri: str = ""
    """Folder of the finished pretrain step; empty: it was not run."""
    evaluate_uri: str = ""
    """Folder of the finished evaluate step, or one that says it was skipped; empty: not run."""
    finetune_uri: str = ""
    """Folder of the finished finetune step, or one that says it was skipped; empty: not run."""
    detect_uri: str = ""
    """Folder of the finished detect step, or one that says it was skipped; empty: not run."""
    out_uri: str
    """Folder for report.html, summary.json and model_card.md; must hold no result yet."""


class ReportConfig(StepConfig):
    """What the page is called, how features are mapped, and when numbers are demo scale."""

    title: Annotated[str, Field(min_length=1, max_length=200)] = "Sightline report"
    """Title at the head of the page and of the model card."""
    groups_are: Annotated[str, Field(max_length=500)] = ""
    """What a group stands for where it is no patient, such as `runs of consecutive slices, a
    stand-in that narrows the intervals`; shown beside the intervals."""
    seed: Seed = 0
    """Seed of the bootstrap, of t-SNE and of the choice of the images it maps."""
    bootstrap_samples: Annotated[int, Field(ge=100, le=100_000)] = 2000
    """Bootstrap draws of groups behind the interval of each gap between two protocols."""
    tsne_points: Annotated[int, Field(ge=10, le=5000)] = 5000
    """Most test images in a t-SNE map; of more, the same random ones are drawn in each map."""
    tsne_perplexity: Annotated[float, Field(ge=2, le=100)] = 30.0
    """How many neighbours a t-SNE point attends to; lowered to a third of the points if few."""
    demo_below_test_images: Annotated[int, Field(ge=0)] = 200
    """With fewer test images than this the page says that its numbers are demo scale."""
    demo_below_test_groups: Annotated[int, Field(ge=0)] = 30
    """With fewer test groups (patients) than this the page says that its numbers are demo scale."""
    demo_below_pretrain_images: Annotated[int, Field(ge=0)] = 1000
    """With fewer pretraining images than this the page says that its numbers are demo scale."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "seed": {},
        "paper": {},
        "mri": {},
        "demo": {"bootstrap_samples": 1000},
    }
