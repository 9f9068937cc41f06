"""The whole compiled pipeline, as `python -m pipelines run` runs it, on tiny demo data."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sightline.steps import PIPELINE_STEPS, run_step
from sightline.storage import fetch_artifacts

ROOT = Path(__file__).parents[2]
STEPS = [step.name for step in PIPELINE_STEPS]
TINY_DATA = {
    "patients": 36,
    "slices_per_patient": 2,
    "unlabelled_slices_per_patient": 1,
    "unlabelled_patients": 0,
    "boxed_slices_per_patient": 1,
    "healthy_boxed_slices": 2,
    "image_size_px": 48,
}
TINY_SETTINGS = {
    "pretrain": {"epochs": 1, "image_size": 32, "global_batch_size": 16},
    "evaluate": {"epochs": 2, "bootstrap_samples": 100},
    "finetune": {"epochs": 1, "image_size": 32, "bootstrap_samples": 100},
    "detect": {"epochs": 1, "image_size_px": 64, "bootstrap_samples": 10, "picture_count": 1},
    "report": {"bootstrap_samples": 100},
}


def run_pipeline(*arguments, cwd=ROOT):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "pipelines", "run", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "data"
    run_step("demo-data", {"out_uri": str(folder)}, TINY_DATA)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    # KFP replaces each python3 in a step's command, addresses included; a space breaks its shell.
    return tmp_path_factory.mktemp("my python3 results")


@pytest.fixture(scope="module")
def given(data, place):
    (place / "settings.json").write_text(json.dumps(TINY_SETTINGS))
    given = ["--preset", "demo", "--out", "out", "--run-id", "first", "--gate-floor", "0"]
    given += ["--settings", "settings.json", "--table", data / "table.csv"]
    for kind in ("images", "labels", "boxes"):
        given += [f"--{kind}", data / kind]
    return given


@pytest.fixture(scope="module")
def finished(given, place):
    done = run_pipeline(*given, cwd=place)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture
def run_folder(finished, place):
    return place / "out" / "runs" / "first"


@pytest.mark.parametrize("step", STEPS)
def test_every_step_publishes_its_folder_whole(step, run_folder):
    folder = fetch_artifacts(str(run_folder / step))
    assert {"config.json", "metrics.json"} <= {path.name for path in folder.iterdir()}
    assert "skipped" not in json.loads((folder / "metrics.json").read_text())


def test_summary_compares_every_protocol_on_the_same_test_images(run_folder):
    summary = json.loads((run_folder / "report" / "summary.json").read_text())
    protocols = summary["protocols"]
    assert {
        "majority",
        "pixel_nearest_neighbour",
        "knn",
        "linear",
        "finetuned",
        "scratch",
    } <= set(protocols)
    assert len({entry["test_images"] for entry in protocols.values()}) == 1
    for entry in protocols.values():
        assert 0 <= entry["accuracy"]["value"] <= 1
    assert set(summary["detection"]) == {"pretrained", "scratch"}
    assert summary["demo_scale"]["is_demo_scale"]


def test_settings_of_the_command_line_reach_the_steps(run_folder):
    for step, settings in TINY_SETTINGS.items():
        told = json.loads((run_folder / step / "config.json").read_text())["settings"]
        assert {name: told[name] for name in settings} == settings


def test_first_champion_needs_only_the_floor(run_folder, place):
    champions = list((place / "out" / "models").rglob("champion.json"))
    assert len(champions) == 1
    assert str(run_folder / "finetune") in champions[0].read_text()


def test_steps_are_followed_live_and_the_run_ends_with_five_lines(finished, run_folder):
    lines = finished.stdout.splitlines()
    assert next(line for line in lines if line.startswith("[")) == "[1/7] prepare"
    assert any(line.startswith("pretrain: epoch 1/1") for line in lines)
    assert not any("executor_input" in line or "KFP Executor" in line for line in lines)
    words = [line.split()[0] for line in lines[-5:]]
    assert words == ["compared", "accuracy", "mAP50-95", "promote", "report"]
    assert lines[-6].startswith("run first: done in ")
    assert str(run_folder / "report" / "report.html") in lines[-1]


def test_run_leaves_nothing_but_its_results(finished, place):
    assert sorted(path.name for path in place.iterdir()) == ["out", "settings.json"]
    assert sorted(path.name for path in (place / "out").iterdir()) == [
        "datasets",
        "models",
        "runs",
    ]


def test_same_run_again_is_refused_before_any_work(given, finished, place):
    again = run_pipeline(*given, cwd=place)
    assert again.returncode == 2
    assert "has finished, and results are never overwritten: choose another" in again.stderr
    assert again.stdout == ""


def test_run_that_was_stopped_goes_on_after_its_finished_steps(given, finished, run_folder, place):
    for step in ("report", "promote"):  # as if it had been killed before these
        shutil.rmtree(run_folder / step)
    before = {path: path.stat().st_mtime_ns for path in sorted(run_folder.rglob("*"))}
    again = run_pipeline(*given, cwd=place)
    assert again.returncode == 0, again.stdout + again.stderr
    assert {path: path.stat().st_mtime_ns for path in before if path != run_folder} == {
        path: moment for path, moment in before.items() if path != run_folder
    }
    kept = [
        line.split(":")[0] for line in again.stdout.splitlines() if "finished before in" in line
    ]
    assert sorted(kept) == sorted(STEPS[:5])
    assert (run_folder / "promote" / "artifacts.json").is_file()


def test_folder_without_images_ends_the_run_with_2_and_is_told_once(tmp_path):
    (tmp_path / "empty").mkdir()
    done = run_pipeline(
        "--labels", tmp_path / "empty", "--out", tmp_path / "out", "--run-id", "first"
    )
    assert done.returncode == 2
    (told,) = done.stderr.strip().splitlines()
    reason = told.removeprefix("pipelines: step prepare failed: ").partition(" (after ")[0]
    assert reason != told
    assert str(tmp_path / "empty") in reason
    assert reason not in done.stdout
    assert "finished steps stay" not in told
    assert "Traceback" not in done.stdout + done.stderr
    assert list((tmp_path / "out").rglob("artifacts.json")) == []
