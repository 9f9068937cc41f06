import re
import shutil
import subprocess

import pytest

from sightline.telemetry.exporter import Exporter, _Instruments
from sightline.telemetry.metrics import METRICS, TRAIN_LOSS

UNITS = ("_seconds", "_seconds_total", "_ratio", "_info", "_total")
UNITLESS = {
    "sightline_train_loss",
    "sightline_train_learning_rate",
    "sightline_train_epoch",
    "sightline_train_gradient_norm",
    "sightline_embedding_std",
    "sightline_embedding_effective_rank",
}


def test_names_are_unique_prefixed_and_end_in_their_unit():
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    for metric in METRICS:
        assert re.fullmatch(r"sightline_[a-z_]+", metric.name)
        assert metric.name.endswith(UNITS) or metric.name in UNITLESS, metric.name
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name
        assert metric.help.endswith(".")
        assert set(metric.labels) <= {"step", "kind", "version"}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool (Debian: prometheus)")
def test_prometheus_finds_nothing_to_complain_about():
    from prometheus_client import generate_latest

    instruments = _Instruments(lambda: {"HTTP 503": 2})
    for metric in METRICS:
        if metric.labels == ("step",):
            instruments.of(metric, ("pretrain",))
    text = generate_latest(instruments.registry)
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, check=False
    )
    # 3: notes on style; buckets and `_created` are the library's.
    assert checked.returncode in (0, 3), checked.stderr
    assert b"error" not in checked.stderr.lower()


def test_without_a_port_nothing_is_opened_and_setting_costs_nothing(monkeypatch):
    monkeypatch.delenv("SIGHTLINE_METRICS_PORT", raising=False)
    exporter = Exporter()
    with exporter.serving("pretrain"):
        assert exporter.port is None
        exporter.set(TRAIN_LOSS, 1.0, "pretrain")
