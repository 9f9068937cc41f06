import contextlib
import http.server
import os
import socket
import threading
import time
import urllib.request
import uuid
from typing import ClassVar

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sightline.telemetry import exporter as exporter_module
from sightline.telemetry.exporter import Exporter, outcome_pushed
from sightline.telemetry.metrics import (
    CHECKPOINT_FALLBACKS,
    TRAIN_LOSS,
    TRAIN_STEP_SECONDS,
    TRAIN_STEPS,
)


def scrape(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        return samples_of(answer.read().decode())


def samples_of(text):
    families = text_string_to_metric_families(text)
    return {
        (s.name, *sorted(s.labels.values())): s.value for family in families for s in family.samples
    }


@pytest.fixture
def exporter(monkeypatch):
    monkeypatch.setenv("SIGHTLINE_METRICS_PORT", "0")
    return Exporter(lambda: {"HTTP 503": 3})


def test_what_was_set_is_served_and_the_server_goes_with_the_block(exporter):
    with exporter.serving():
        exporter.set(TRAIN_LOSS, 2.5, "pretrain")
        exporter.add(TRAIN_STEPS, 1, "pretrain")
        exporter.add(TRAIN_STEPS, 1, "pretrain")
        exporter.observe(TRAIN_STEP_SECONDS, 0.2, "pretrain")
        exporter.add(CHECKPOINT_FALLBACKS, 1, "pretrain")
        port = exporter.port
        found = scrape(port)
    assert found["sightline_train_loss", "pretrain"] == 2.5
    assert found["sightline_train_steps_total", "pretrain"] == 2
    assert found["sightline_train_step_duration_seconds_bucket", "0.3", "pretrain"] == 1
    assert found["sightline_train_step_duration_seconds_bucket", "0.1", "pretrain"] == 0
    assert found["sightline_checkpoint_fallbacks_total", "pretrain"] == 1
    assert found["sightline_storage_retries_total", "HTTP 503"] == 3
    assert ("sightline_push_dropped_total",) in found
    with pytest.raises(OSError, match="refused"):
        scrape(port)


@pytest.mark.parametrize("port", ["taken", "no number", "99999"])
def test_a_port_that_cannot_be_had_is_told_and_fails_nothing(port, monkeypatch, capsys):
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        value = str(taken.getsockname()[1]) if port == "taken" else port
        monkeypatch.setenv("SIGHTLINE_METRICS_PORT", value)
        exporter = Exporter()
        with exporter.serving():
            exporter.set(TRAIN_LOSS, 1.0, "pretrain")
            assert exporter.port is None
    assert f"metrics are not served on port '{value}'" in capsys.readouterr().err


class Gateway(http.server.BaseHTTPRequestHandler):
    code = 202
    received: ClassVar[list[tuple[str, str, bytes]]] = []

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.received.append((self.command, self.path, body))
        self.send_response(self.code)
        self.end_headers()

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def gateway(code=202):
    handler = type("Handler", (Gateway,), {"code": code, "received": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", handler.received
        server.shutdown()
        thread.join()


def push_from(url, monkeypatch, step="pretrain"):
    monkeypatch.setenv("SIGHTLINE_PUSHGATEWAY_URL", url)
    before = len(exporter_module._DROPPED)
    with outcome_pushed(step):
        pass
    return len(exporter_module._DROPPED) - before


def test_how_a_step_ended_is_pushed_once_under_its_name(monkeypatch, capsys):
    with gateway() as (url, received):
        assert push_from(url, monkeypatch) == 0
    ((_, path, body),) = received
    assert path == "/metrics/job/sightline/step/pretrain"
    found = samples_of(body.decode())
    assert found["sightline_step_last_success_timestamp_seconds",] == pytest.approx(
        time.time(), abs=60
    )
    assert 0 <= found["sightline_step_duration_seconds",] < 60
    assert capsys.readouterr().err == ""


def test_a_step_that_fails_and_a_worker_push_nothing(monkeypatch):
    with gateway() as (url, received):
        monkeypatch.setenv("SIGHTLINE_PUSHGATEWAY_URL", url)
        with pytest.raises(KeyError), outcome_pushed("pretrain"):
            raise KeyError
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
        with outcome_pushed("pretrain"):
            pass
    assert received == []


def test_a_gateway_that_answers_500_or_not_at_all_costs_seconds_and_fails_nothing(
    monkeypatch, capsys
):
    with gateway(code=500) as (url, _):
        assert push_from(url, monkeypatch) == 1
    assert push_from(url, monkeypatch) == 1  # refused: nobody listens there any more
    with socket.socket() as black_hole:
        black_hole.bind(("127.0.0.1", 0))
        black_hole.listen()
        url = f"http://127.0.0.1:{black_hole.getsockname()[1]}"
        assert push_from(url, monkeypatch) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all("did not take how pretrain ended" in line for line in lines)


def test_a_real_pushgateway_shows_what_was_pushed(monkeypatch):
    url = os.environ.get("TESTBED_PUSHGATEWAY")
    if not url:
        pytest.skip("needs TESTBED_PUSHGATEWAY, the address of a Pushgateway")
    step = f"test-{uuid.uuid4().hex[:8]}"
    assert push_from(url, monkeypatch, step) == 0
    with urllib.request.urlopen(f"{url}/metrics", timeout=5) as answer:
        found = samples_of(answer.read().decode())
    names = {key[0] for key in found if step in key}
    assert {"sightline_step_last_success_timestamp_seconds", "push_time_seconds"} <= names
    request = urllib.request.Request(f"{url}/metrics/job/sightline/step/{step}", method="DELETE")
    urllib.request.urlopen(request, timeout=5).close()
