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
    with exporter.serving("pretrain"):
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


def test_a_steps_counters_are_served_at_0_before_they_count(exporter):
    with exporter.serving("pretrain"):
        found = scrape(exporter.port)
    counters = {key[0]: value for key, value in found.items() if key[1:] == ("pretrain",)}
    assert counters == {
        "sightline_train_steps_total": 0,
        "sightline_train_images_total": 0,
        "sightline_train_data_wait_seconds_total": 0,
        "sightline_checkpoint_failures_total": 0,
        "sightline_checkpoint_fallbacks_total": 0,
    }


@pytest.mark.parametrize("port", ["taken", "no number", "99999"])
def test_a_port_that_cannot_be_had_is_told_and_fails_nothing(port, monkeypatch, capsys):
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        value = str(taken.getsockname()[1]) if port == "taken" else port
        monkeypatch.setenv("SIGHTLINE_METRICS_PORT", value)
        exporter = Exporter()
        with exporter.serving("pretrain"):
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


def wait_for_pushes():
    for thread in threading.enumerate():
        if thread.name == "push-metrics":
            thread.join()


def push_from(url, monkeypatch, step="pretrain"):
    monkeypatch.setenv("SIGHTLINE_PUSHGATEWAY_URL", url)
    before = len(exporter_module._DROPPED)
    with outcome_pushed(step):
        wait_for_pushes()
    return len(exporter_module._DROPPED) - before


def pushed(received):
    return [{key[0]: v for key, v in samples_of(body.decode()).items()} for _, _, body in received]


def test_that_a_step_begins_and_how_it_ended_is_pushed_under_its_name(monkeypatch, capsys):
    with gateway() as (url, received):
        assert push_from(url, monkeypatch) == 0
    assert {path for _, path, _ in received} == {"/metrics/job/sightline/step/pretrain"}
    first, last = sorted(pushed(received), key=len)
    now = pytest.approx(time.time(), abs=60)
    assert first == {"sightline_step_last_start_timestamp_seconds": now}
    assert 0 <= last.pop("sightline_step_duration_seconds") < 60
    assert last == {"sightline_step_last_success_timestamp_seconds": now}
    assert capsys.readouterr().err == ""


def begin(step="pretrain"):
    """Begin a step that fails, and wait until what it pushes has arrived."""
    with contextlib.suppress(KeyError), outcome_pushed(step):
        wait_for_pushes()
        raise KeyError


@pytest.mark.parametrize(("rank", "pushes"), [(None, 1), ("0", 1), ("1", 0)])
def test_a_step_that_fails_has_begun_and_of_workers_only_the_first_tells(rank, pushes, monkeypatch):
    if rank is not None:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
        monkeypatch.setenv("RANK", rank)
    with gateway() as (url, received):
        monkeypatch.setenv("SIGHTLINE_PUSHGATEWAY_URL", url)
        begin()
    assert [set(values) for values in pushed(received)] == [
        {"sightline_step_last_start_timestamp_seconds"}
    ] * pushes


def test_a_worker_leaves_it_to_its_launcher_to_tell_that_the_step_ended(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("RANK", "1")
    with gateway() as (url, received):
        assert push_from(url, monkeypatch) == 0
    assert received == []


def test_what_was_dropped_when_the_step_began_is_served_while_it_runs(
    exporter, monkeypatch, capsys
):
    monkeypatch.setenv("SIGHTLINE_PUSHGATEWAY_URL", "http://127.0.0.1:9")  # nobody listens
    with exporter.serving("pretrain"):
        before = scrape(exporter.port)["sightline_push_dropped_total",]
        begin()
        assert scrape(exporter.port)["sightline_push_dropped_total",] == before + 1


def test_a_gateway_that_answers_500_or_not_at_all_costs_seconds_and_fails_nothing(
    monkeypatch, capsys
):
    monkeypatch.setattr(exporter_module, "_DROPPED", [])
    with gateway(code=500) as (url, _):
        assert push_from(url, monkeypatch) == 2
    assert push_from(url, monkeypatch) == 2  # refused: nobody listens there any more
    with socket.socket() as black_hole:
        black_hole.bind(("127.0.0.1", 0))
        black_hole.listen()
        url = f"http://127.0.0.1:{black_hole.getsockname()[1]}"
        assert push_from(url, monkeypatch) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "did not take how pretrain goes (" in line


def test_a_real_pushgateway_shows_what_was_pushed(monkeypatch):
    url = os.environ.get("TESTBED_PUSHGATEWAY")
    if not url:
        pytest.skip("needs TESTBED_PUSHGATEWAY, the address of a Pushgateway")
    step = f"test-{uuid.uuid4().hex[:8]}"
    assert push_from(url, monkeypatch, step) == 0
    with urllib.request.urlopen(f"{url}/metrics", timeout=5) as answer:
        found = samples_of(answer.read().decode())
    names = {key[0] for key in found if step in key}
    assert {
        "sightline_step_last_start_timestamp_seconds",
        "sightline_step_last_success_timestamp_seconds",
        "push_time_seconds",
    } <= names
    request = urllib.request.Request(f"{url}/metrics/job/sightline/step/{step}", method="DELETE")
    urllib.request.urlopen(request, timeout=5).close()
