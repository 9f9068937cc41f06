"""The whole compiled pipeline from a bucket to a bucket, as `python -m pipelines run` runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sightline.steps import PIPELINE_STEPS, run_step
from sightline.storage import fetch_artifacts, open_storage

ROOT = Path(__file__).parents[2]
STEPS = [step.name for step in PIPELINE_STEPS]
DATA = {
    "patients": 36,
    "slices_per_patient": 2,
    "unlabelled_slices_per_patient": 1,
    "unlabelled_patients": 0,
    "boxed_slices_per_patient": 1,
    "healthy_boxed_slices": 2,
    "image_size_px": 48,
}
SETTINGS = {
    "pretrain": {"epochs": 1, "image_size": 32, "global_batch_size": 16},
    "evaluate": {"epochs": 1, "bootstrap_samples": 100},
    "finetune": {"epochs": 1, "image_size": 32, "bootstrap_samples": 100, "scratch": False},
    "detect": {"epochs": 1, "image_size_px": 64, "bootstrap_samples": 10, "picture_count": 1},
    "report": {"bootstrap_samples": 100},
    "storage": {"s3_retries": 3},
}


@pytest.fixture(scope="module")
def environment(s3_server, tmp_path_factory):
    """Return what the run starts with: credentials, and a home where files of its own show."""
    home = tmp_path_factory.mktemp("home")
    kept = {name: v for name, v in os.environ.items() if not name.startswith("AWS_")}
    own = {
        "HOME": str(home),
        "TMPDIR": str(home),
        "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}",
        "OMP_NUM_THREADS": "1",
    }
    return {**kept, **s3_server.environment(), **own, "MPLCONFIGDIR": str(home / "matplotlib")}


@pytest.fixture(scope="module")
def bucket(s3_server):
    with s3_server.fresh_bucket() as name:
        yield f"s3://{name}"


@pytest.fixture(scope="module")
def finished(s3_server, bucket, environment, tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "data"
    run_step("demo-data", {"out_uri": str(folder)}, DATA)
    client = s3_server.client()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        key = f"clinic/{path.relative_to(folder).as_posix()}"
        client.upload_file(str(path), bucket.removeprefix("s3://"), key)
    given = ["--preset", "demo", "--out", f"{bucket}/team", "--run-id", "first"]
    given += ["--gate-floor", "0", "--settings", json.dumps(SETTINGS)]
    for kind in ("images", "labels", "boxes"):
        given += [f"--{kind}", f"{bucket}/clinic/{kind}"]
    work = tmp_path_factory.mktemp("work")
    done = subprocess.run(
        [sys.executable, "-m", "pipelines", "run", *given, "--table", f"{bucket}/clinic/table.csv"],
        capture_output=True,
        text=True,
        check=False,
        cwd=work,
        env=environment,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(work.iterdir()) == []
    return done


@pytest.fixture
def reached(environment, monkeypatch):
    for name, value in environment.items():
        if name.startswith(("AWS_", "SIGHTLINE_")):
            monkeypatch.setenv(name, value)


@pytest.mark.parametrize("step", STEPS)
def test_every_step_publishes_its_folder_whole_in_the_bucket(step, finished, bucket, reached):
    folder = fetch_artifacts(f"{bucket}/team/runs/first/{step}")
    assert {"config.json", "metrics.json"} <= {path.name for path in folder.iterdir()}
    assert "skipped" not in json.loads((folder / "metrics.json").read_text())


def test_first_champion_is_in_the_bucket_and_names_its_step_there(finished, bucket, reached):
    models = open_storage(f"{bucket}/team/models")
    (record,) = (e.key for e in models.list() if e.key.endswith("champion.json"))
    assert f"{bucket}/team/runs/first/finetune" in models.read_bytes(record).decode()


def test_run_says_what_it_reads_writes_and_how_and_where_the_report_is(finished, bucket):
    lines = finished.stdout.splitlines()
    assert f"labels {bucket}/clinic/labels" in lines[1]
    assert lines[2] == f"  writes    {bucket}/team/runs/first"
    assert lines[3].startswith("  storage   ")
    assert "s3_retries 3" in lines[3]
    assert f"{bucket}/team/runs/first/report/report.html" in lines[-1]


def test_bucket_holds_nothing_but_data_sets_runs_and_models(finished, bucket, reached):
    keys = [entry.key for entry in open_storage(bucket).list()]
    assert {key.split("/")[0] for key in keys} == {"clinic", "team"}
    made = {tuple(key.split("/")[1:2]) for key in keys if key.startswith("team/")}
    assert made == {("datasets",), ("models",), ("runs",)}
    assert list(open_storage(bucket).list_unfinished()) == []


def test_no_output_and_no_file_of_ours_holds_the_secret(finished, bucket, s3_server, reached):
    secret = s3_server.secret_key
    assert secret not in finished.stdout + finished.stderr
    storage = open_storage(f"{bucket}/team")
    texts = [e.key for e in storage.list() if e.key.endswith((".json", ".csv", ".html", ".md"))]
    assert len(texts) > len(STEPS)
    assert [key for key in texts if secret.encode() in storage.read_bytes(key)] == []


def test_same_run_again_is_refused_before_any_work(finished, bucket, environment, tmp_path):
    given = ["--labels", f"{bucket}/clinic/labels", "--out", f"{bucket}/team", "--run-id", "first"]
    again = subprocess.run(
        [sys.executable, "-m", "pipelines", "run", *given],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
    )
    assert again.returncode == 2
    assert "choose another --run-id" in again.stderr
    assert again.stdout == ""
