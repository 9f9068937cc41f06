import json

import pytest
from kfp import dsl

from sightline.pipeline_step import GOES_ON, FinishedStep, run_folder, run_pipeline_step
from sightline.report.config import ReportConfig, ReportUris
from sightline.storage import StorageUnavailableError, new_artifacts
from sightline.storage.settings import StorageConfig

SCORES = {
    "labels_used": 10,
    "accuracy": {"value": 0.75, "low": 0.5, "high": 1.0},
    "auc_macro": {"value": None, "low": None, "high": None},
    "per_class": {"checks": {"auc": 0.75}, "rows": {"auc": 0.5}, "columns": {"auc": None}},
    "confusion_matrix": {"classes": ["checks", "rows"], "counts": [[3, 1], [0, 4]]},
    "roc": {
        "checks": {"false_positive_rate": [9], "true_positive_rate": [9], "threshold": [9]},
        "rows": {
            "false_positive_rate": [0, 0.5, 1],
            "true_positive_rate": [0, 0.5, 1],
            "threshold": [None, 0.75, 0.25],
        },
        "columns": None,
    },
}


def test_numbers_reach_the_metrics_artifact_by_protocol_without_nulls_and_tables():
    metrics = dsl.Metrics()
    FinishedStep("x", {"loss": 2, "note": "text", "protocols": {"linear": SCORES}}).show(metrics)
    assert metrics.metadata == {"loss": 2.0, "linear labels_used": 10.0, "linear accuracy": 0.75}


def test_confusion_matrix_has_one_row_a_true_class():
    shown = dsl.ClassificationMetrics()
    FinishedStep("x", {"protocols": {"linear": SCORES}}).show(classification={"linear": shown})
    matrix = shown.metadata["confusionMatrix"]
    assert [spec["displayName"] for spec in matrix["annotationSpecs"]] == ["checks", "rows"]
    assert [row["row"] for row in matrix["rows"]] == [[3, 1], [0, 4]]


def test_curve_is_that_of_the_class_which_is_hardest_to_tell():
    shown = dsl.ClassificationMetrics()
    FinishedStep("x", {"protocols": {"linear": SCORES}}).show(classification={"linear": shown})
    assert shown.metadata["confidenceMetrics"] == [
        {"confidenceThreshold": 1.0, "recall": 0, "falsePositiveRate": 0},
        {"confidenceThreshold": 0.75, "recall": 0.5, "falsePositiveRate": 0.5},
        {"confidenceThreshold": 0.25, "recall": 1, "falsePositiveRate": 1},
    ]


def test_skipped_step_leaves_the_artifacts_empty(tmp_path):
    metrics, shown = dsl.Metrics(), dsl.ClassificationMetrics()
    page = dsl.HTML(uri=str(tmp_path / "page"))
    FinishedStep("nowhere", {"skipped": "no labels were given"}).show(
        metrics, {"linear": shown}, {"report.html": page}
    )
    assert metrics.metadata == shown.metadata == {}
    assert not (tmp_path / "page").exists()


def test_run_folder_takes_the_users_name_before_the_jobs():
    assert run_folder("out/", "mine", "job-1") == "out/runs/mine"
    assert run_folder("out", "", "job-1") == "out/runs/job-1"


@pytest.mark.parametrize(("out", "run_id"), [("", "mine"), ("out", "../up"), ("out", "a/b")])
def test_run_folder_that_cannot_be_ends_with_2(out, run_id, capsys):
    with pytest.raises(SystemExit, match="2"):
        run_folder(out, run_id, "job-1")
    assert capsys.readouterr().err.startswith("sightline pipeline: ")


def test_refused_setting_ends_with_2_and_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        run_pipeline_step("pretrain", str(tmp_path), {}, {"temprature": 1}, {"seed": 0}, {})
    assert capsys.readouterr().err == (
        "sightline pretrain: PretrainConfig rejects 1 setting: "
        "temprature is unknown, did you mean temperature?\n"
    )


def test_setting_given_twice_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        run_pipeline_step("pretrain", str(tmp_path), {}, {"seed": 1}, {"seed": 0}, {})
    assert "settings_pretrain repeats seed" in capsys.readouterr().err


def test_step_without_data_is_skipped_through_the_pipelines_door(tmp_path):
    step = run_pipeline_step("pretrain", str(tmp_path), {"dataset_uri": ""}, {}, {"seed": 0}, {})
    assert step.uri == str(tmp_path / "pretrain")
    assert json.loads((tmp_path / "pretrain" / "metrics.json").read_text()) == step.metrics
    assert "skipped" in step.metrics


def test_step_that_finished_before_is_not_done_again_where_a_run_goes_on(
    tmp_path, monkeypatch, capsys
):
    out_uri = str(tmp_path / "report")
    uris, config = ReportUris(prepare_uri="there", out_uri=out_uri), ReportConfig(seed=3)
    with new_artifacts("report", uris, config, out_uri) as folder:
        (folder / "metrics.json").write_text('{"protocols": 3}')

    def metrics_of(seed=3, prepare_uri="there"):
        given = {"prepare_uri": prepare_uri}, {}, {"seed": seed}, {}
        return run_pipeline_step("report", str(tmp_path), *given, lambda *_, **__: {}).metrics

    assert metrics_of() == {}
    monkeypatch.setenv(GOES_ON, "yes")
    assert metrics_of() == {"protocols": 3}
    assert capsys.readouterr().out.startswith(f"report: finished before in {out_uri}")
    assert metrics_of(seed=4) == metrics_of(prepare_uri="elsewhere") == {}


class AskedStep(list):
    """Does a step's work: it notes the storage settings that hold when it starts."""

    def __call__(self, *given, **more):
        self.append(StorageConfig.from_environment())
        return {}


@pytest.fixture
def asked(monkeypatch):
    """Return a step in a container that has storage settings of its own."""
    monkeypatch.setenv("SIGHTLINE_S3_ENDPOINT_URL", "http://minio:9000")
    monkeypatch.setenv("SIGHTLINE_S3_RETRIES", "3")
    return AskedStep()


def test_storage_settings_of_the_pipeline_hold_before_the_step_runs(asked):
    run_pipeline_step("pretrain", "out", {}, {}, {}, {"s3_retries": 4.0}, asked)
    assert asked[0].s3_retries == 4


def test_storage_settings_at_their_defaults_leave_those_of_the_container(asked):
    run_pipeline_step("pretrain", "out", {}, {}, {}, StorageConfig.defaults(), asked)
    assert asked[0].s3_endpoint_url == "http://minio:9000"
    assert asked[0].s3_retries == 3


def test_refused_storage_setting_ends_with_2_before_the_step_runs(asked, capsys):
    with pytest.raises(SystemExit, match="2"):
        run_pipeline_step("pretrain", "out", {}, {}, {}, {"s3_retry": 4}, asked)
    assert "s3_retry is unknown, did you mean s3_retries?" in capsys.readouterr().err
    assert not asked


def test_store_that_gives_no_answer_ends_with_1_and_one_line(capsys):
    def work(*given, **more):
        raise StorageUnavailableError("s3://bucket: no answer in 180 s")

    with pytest.raises(SystemExit, match="1"):
        run_pipeline_step("pretrain", "out", {}, {}, {}, {}, work)
    assert capsys.readouterr().err == (
        "sightline pretrain: try later: s3://bucket: no answer in 180 s\n"
    )


def test_page_that_cannot_be_read_back_is_one_line_and_2(tmp_path, capsys):
    page = dsl.HTML(uri=str(tmp_path / "page"))
    with pytest.raises(SystemExit, match="2"):
        FinishedStep(str(tmp_path / "report"), {}).show(pages={"report.html": page})
    assert capsys.readouterr().err.startswith("sightline report: no finished result under ")
