from pathlib import Path

from sightline.telemetry.metrics import METRICS

PAGE = Path(__file__).parents[2] / "docs" / "monitoring.md"


def test_the_page_lists_every_metric_as_the_table_has_it():
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if "`sightline_" in line]
    assert rows == [f"| `{m.name}` | {m.kind}: {m.help} |" for m in METRICS]
