"""The data report: one page that shows what was found and what was made of it."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sightline.prepare.config import PrepareConfig
from sightline.prepare.duplicates import PlacedImage


def write_report(
    path: Path,
    metrics: Mapping[str, Any],
    placed: Sequence[PlacedImage],
    sets: Mapping[str, Sequence[PlacedImage]],
    config: PrepareConfig,
) -> None:
    """Write the page."""
    del placed, sets, config
    path.write_text("<pre>" + html.escape(json.dumps(metrics, indent=1)) + "</pre>")
