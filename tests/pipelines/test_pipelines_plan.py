import json

import pytest

from pipelines.__main__ import main
from pipelines.plan import make_plan, read_assignments
from sightline.errors import SettingsError
from sightline.steps import COMMANDS, PIPELINE_STEPS
from sightline.storage import join_uri, new_artifacts, open_storage
from sightline.storage.settings import StorageConfig

NO_DATA = {"data_images": "", "data_labels": "", "data_boxes": "", "data_table": ""}


@pytest.fixture(autouse=True)
def folder_with_images(tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def storage_settings_of_this_test(monkeypatch):
    # A plan makes its settings of storage hold in the process: each is put back after the test.
    for name in StorageConfig.model_fields:
        monkeypatch.setenv(f"SIGHTLINE_{name.upper()}", "")


def plan(out, data=None, preset="seed", run_id="first", own=None, **settings):
    data = {**NO_DATA, **({"data_images": "images"} if data is None else data)}
    return make_plan(str(out), run_id, data, preset, own or {}, settings)


def test_all_problems_of_all_steps_are_told_at_once(tmp_path):
    with pytest.raises(SettingsError) as refusal:
        plan(tmp_path, pretrain={"temprature": 0.1}, finetune={"epochs": 0}, detekt={})
    message = str(refusal.value)
    assert "temprature is unknown, did you mean temperature?" in message
    assert "FinetuneConfig rejects 1 setting: epochs" in message
    assert "step 'detekt' is unknown, did you mean detect?" in message


def test_setting_with_a_parameter_of_its_own_is_sent_there(tmp_path):
    with pytest.raises(SettingsError, match=r"pretrain\.workers is given by --workers"):
        plan(tmp_path, pretrain={"workers": 2})


def test_address_of_data_that_is_refused_is_told_once_without_its_credentials(tmp_path):
    with pytest.raises(SettingsError) as refusal:
        plan(tmp_path, data={"data_images": "s3://KEY:S3CRET@b/d"})
    (problem,) = refusal.value.problems
    assert problem.startswith("--images: an S3 address holds no credentials")
    assert "S3CRET" not in str(refusal.value)


def test_run_without_any_images_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="at least one of images_uri, labels_uri and boxes_uri"):
        plan(tmp_path, data={})


def test_every_folder_and_file_of_data_that_is_not_there_is_told_at_once(tmp_path):
    data = {"data_labels": "nowhere", "data_boxes": "ftp://x/boxes", "data_table": "images"}
    with pytest.raises(SettingsError) as refusal:
        plan(tmp_path, data=data)
    assert str(refusal.value).splitlines() == [
        "nothing was started:",
        f"  --labels needs a folder that can be read, got {tmp_path / 'nowhere'}",
        f"  --table needs a file that can be read, got {tmp_path / 'images'}",
        "  --boxes: cannot open ftp://…: give s3://bucket/prefix or a folder",
    ]


@pytest.mark.parametrize("run_id", ["../up", "a/b", ".hidden", "a b", "x" * 101])
def test_run_id_that_is_no_folder_name_is_refused(tmp_path, run_id):
    with pytest.raises(SettingsError, match="--run-id needs letters, digits"):
        plan(tmp_path, run_id=run_id)


def test_place_of_an_unknown_kind_is_refused_before_work():
    with pytest.raises(SettingsError, match="--out: cannot open ftp://…"):
        plan("ftp://x")


def test_arguments_carry_every_step_whole_and_own_settings_apart(tmp_path):
    arguments = plan(
        tmp_path, own={"seed": "3", "gate_floor": "0.7"}, pretrain={"epochs": "5"}
    ).arguments()
    assert arguments["seed"] == 3
    assert arguments["gate_floor"] == 0.7
    assert arguments["settings_pretrain"]["epochs"] == 5
    assert arguments["settings_pretrain"]["temperature"] == 0.07
    assert "seed" not in arguments["settings_pretrain"]
    assert "workers" not in arguments["settings_pretrain"]


def test_preset_decides_what_is_not_given(tmp_path):
    from sightline.pretrain.config import PretrainConfig
    from sightline.promote.config import PromoteConfig

    arguments = plan(tmp_path, preset="demo", pretrain={"epochs": "5"}).arguments()
    preset = PretrainConfig.presets["demo"]
    assert arguments["settings_pretrain"]["image_size"] == preset["image_size"]
    assert arguments["settings_pretrain"]["epochs"] == 5
    assert arguments["gate_floor"] == PromoteConfig.from_values({"preset": "demo"}).gate_floor


def test_folders_become_absolute_so_that_results_can_be_found_again(tmp_path):
    arguments = plan("out").arguments()
    assert arguments["out"] == str(tmp_path / "out")
    assert arguments["data_images"] == str(tmp_path / "images")
    assert arguments["data_labels"] == ""


def finish(step, out, uris=None, **settings):
    """Leave what a step of run `first` leaves; where it read is as a plan of these tests says."""
    config = COMMANDS[step].config_class.from_values(settings)
    out_uri = join_uri(str(out), "runs", "first", step)
    uris = COMMANDS[step].uris_class.model_construct(**(uris or {}), out_uri=out_uri)
    with new_artifacts(step, uris, config, out_uri) as folder:
        (folder / "metrics.json").write_text("{}")


def test_run_that_was_stopped_goes_on_after_what_it_finished(tmp_path):
    finish("prepare", tmp_path, {"images_uri": str(tmp_path / "images")})
    finish("pretrain", tmp_path, epochs=5, log_steps=7)
    going_on = plan(tmp_path, pretrain={"epochs": 5, "log_steps": 1}, finetune={"epochs": 3})
    assert going_on.finished == ["prepare", "pretrain"]
    assert "goes on   after prepare, pretrain" in going_on.describe()


def test_run_goes_on_with_the_data_and_settings_that_it_began_with_alone(tmp_path):
    finish("prepare", tmp_path, {"images_uri": "/others"})
    finish("pretrain", tmp_path, {"initial_weights_uri": "/weights.pth"}, epochs=5)
    with pytest.raises(SettingsError) as refusal:
        plan(tmp_path, pretrain={"epochs": 6})
    (told,) = refusal.value.problems
    assert "holds finished steps (prepare, pretrain), which were made with other values" in told
    assert f"--images /others there and {tmp_path / 'images'} here; " in told
    assert "--initial-weights /weights.pth there and none here; " in told
    assert "pretrain.epochs 5 there and 6 here)" in told
    assert told.endswith("choose another --run-id")


def test_run_that_has_finished_is_refused_before_work(tmp_path):
    for step in PIPELINE_STEPS:
        finish(step.name, tmp_path)
    with pytest.raises(SettingsError, match=r"run first .* has finished.*choose another --run-id"):
        plan(tmp_path)


def test_finished_step_that_was_altered_is_refused_before_work(tmp_path):
    finish("prepare", tmp_path, {"images_uri": str(tmp_path / "images")})
    (tmp_path / "runs" / "first" / "prepare" / "config.json").write_text("{}")
    with pytest.raises(SettingsError, match=r"prepare/config\.json"):
        plan(tmp_path)


def test_list_setting_is_given_with_commas():
    settings, problems = read_assignments(["finetune.label_fractions=0.1,0.5", "pretrain.epochs=2"])
    assert settings == {
        "finetune": {"label_fractions": ["0.1", "0.5"]},
        "pretrain": {"epochs": "2"},
    }
    assert problems == []


def test_assignment_of_another_form_is_told_with_the_form_and_the_others_are_read():
    settings, problems = read_assignments(["epochs=3", "pretrian.epochs=3", "report.title=x"])
    assert settings == {"report": {"title": "x"}}
    assert problems == [
        "--set needs step.setting=value, got 'epochs=3'",
        "--set pretrian.epochs=3: step 'pretrian' is unknown, did you mean pretrain?",
    ]


def test_problems_of_every_kind_are_told_at_once_and_each_of_them_once(capsys):
    given = ["run", "--labels", "nowhere", "--preset", "nosuch", "--seed", "x", "--run-id", "a/b"]
    given += ["--set", "pretrian.epochs=3", "--set", "foo", "--set", "pretrain.epoch=2"]
    given += ["--set", "finetune.epochs=-3", "--set", "detect.image_size=abc"]
    given += ["--settings", '{"report": 3}', "--gate-floor", "2", "--bogus", "3", "--imags=y"]
    assert main(given) == 2
    first, *told = capsys.readouterr().err.splitlines()
    assert first == "pipelines: nothing was started:"
    expected = [
        "--bogus 3 is unknown",
        "--imags=y is unknown, did you mean --images?",
        "--settings needs an object for step 'report', got 3",
        "--set pretrian.epochs=3: step 'pretrian' is unknown, did you mean pretrain?",
        "--set needs step.setting=value, got 'foo'",
        "--preset 'nosuch' is unknown, use one of seed, paper, mri, demo",
        "--seed: input should be a valid integer",
        "PretrainConfig rejects 1 setting: epoch is unknown, did you mean epochs?",
        "FinetuneConfig rejects 1 setting: epochs: input should be greater than or equal to 1",
        "DetectConfig rejects 1 setting: image_size is unknown, did you mean image_size_px?",
        "PromoteConfig rejects 1 setting: gate_floor: input should be less than or equal to 1",
        "--run-id needs letters, digits, dots, _ or -, got 'a/b'",
        "--out is required: the folder for data sets, runs and models",
        "--labels needs a folder that can be read, got ",
    ]
    assert len(told) == len(expected), told
    for line, start in zip(told, expected, strict=True):
        assert line.startswith(f"  {start}")


def test_settings_that_cannot_be_read_are_told_of_beside_the_rest(capsys):
    assert main(["run", "--images", "images", "--settings", "nope.json", "stray"]) == 2
    assert capsys.readouterr().err.splitlines()[1:] == [
        "  unexpected argument 'stray'",
        "  --settings needs a JSON object or a readable file, got 'nope.json': "
        "No such file or directory",
        "  --out is required: the folder for data sets, runs and models",
    ]


def test_command_line_ends_with_2_and_starts_nothing_on_a_refused_setting(tmp_path, capsys):
    given = [
        "run",
        "--images",
        "images",
        "--out",
        str(tmp_path / "out"),
        "--set",
        "pretrain.epocs=1",
    ]
    assert main(given) == 2
    assert "epocs is unknown, did you mean epochs?" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_unknown_flag_is_refused_with_the_nearest(tmp_path, capsys):
    assert main(["run", "--imags", "x", "--out", str(tmp_path)]) == 2
    assert "--imags x is unknown, did you mean --images?" in capsys.readouterr().err


def test_settings_file_is_read_and_set_wins(tmp_path, capsys):
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"pretrain": {"epochs": -1, "temperature": 0.5}}))
    given = ["run", "--images", "images", "--out", str(tmp_path), "--settings", str(file)]
    assert main(given) == 2
    assert "epochs" in capsys.readouterr().err
    assert main([*given, "--set", "pretrain.epochs=2", "--set", "report.titel=x"]) == 2
    message = capsys.readouterr().err
    assert "epochs" not in message
    assert "titel is unknown, did you mean title?" in message


def test_storage_settings_reach_every_step_and_are_shown_before_work(tmp_path):
    made = plan(tmp_path, storage={"s3_region": "eu-central-1", "s3_retries": "3"})
    shown = {**StorageConfig.defaults(), "s3_region": "eu-central-1", "s3_retries": 3}
    assert made.arguments()["settings_storage"] == shown
    assert "  storage   s3_region eu-central-1, s3_retries 3\n" in made.describe()


def test_storage_settings_of_the_environment_are_taken_where_none_is_given(tmp_path, monkeypatch):
    monkeypatch.setenv("SIGHTLINE_S3_REGION", "eu-central-1")
    monkeypatch.setenv("SIGHTLINE_S3_RETRIES", "3")
    storage = plan(tmp_path, storage={"s3_retries": 4}).arguments()["settings_storage"]
    assert (storage["s3_region"], storage["s3_retries"]) == ("eu-central-1", 4)


def test_storage_settings_are_assigned_and_refused_like_those_of_a_step(tmp_path, capsys):
    assert read_assignments(["storage.s3_region=x"]) == ({"storage": {"s3_region": "x"}}, [])
    given = ["run", "--images", "images", "--out", str(tmp_path), "--set", "storage.s3_retry=3"]
    assert main([*given, "--set", "stroage.s3_region=x"]) == 2
    message = capsys.readouterr().err
    assert "StorageConfig rejects 1 setting: s3_retry is unknown" in message
    assert "step 'stroage' is unknown, did you mean storage?" in message


def test_no_bucket_is_asked_with_refused_storage_settings():
    with pytest.raises(SettingsError) as refusal:
        plan("out", data={"data_images": "s3://no-such-bucket/x"}, storage={"s3_retries": -1})
    (told,) = refusal.value.problems
    assert "s3_retries" in told


def test_data_and_results_may_lie_in_a_bucket(s3_bucket):
    bucket = open_storage(s3_bucket)
    bucket.write_bytes("in/images/a.png", b"an image")
    bucket.write_bytes("in/table.csv", b"name,group")
    data = {"data_images": f"{s3_bucket}/in/images", "data_table": f"{s3_bucket}/in/table.csv"}
    made = plan(f"{s3_bucket}/out", data=data)
    assert made.run_uri == f"{s3_bucket}/out/runs/first"
    finish("prepare", f"{s3_bucket}/out")
    with pytest.raises(SettingsError, match=f"--images none there and {s3_bucket}/in/images here"):
        plan(f"{s3_bucket}/out", data=data)


def test_prefixes_that_hold_nothing_and_buckets_that_are_missing_are_told_at_once(s3_bucket):
    missing = f"s3://missing-{s3_bucket.removeprefix('s3://')}"
    open_storage(s3_bucket).write_bytes("images-of-another/a.png", b"an image")
    data = {"data_images": f"{s3_bucket}/images", "data_table": f"{s3_bucket}/table.csv"}
    with pytest.raises(SettingsError) as refusal:
        plan("out", data={**data, "data_boxes": f"{missing}/boxes"})
    images, table, boxes = refusal.value.problems
    assert images == f"--images needs a folder that can be read, got {s3_bucket}/images"
    assert boxes.startswith("--boxes: ")
    assert missing.removeprefix("s3://") in boxes
    assert table == f"--table needs a file that can be read, got {s3_bucket}/table.csv"


def test_reason_that_concerns_several_addresses_is_told_once(s3_bucket):
    missing = f"s3://missing-{s3_bucket.removeprefix('s3://')}"
    data = {"data_labels": f"{missing}/labels", "data_table": f"{missing}/table.csv"}
    with pytest.raises(SettingsError) as refusal:
        plan("out", data=data)
    (told,) = refusal.value.problems
    assert told.startswith("--labels, --table: ")


def test_out_in_a_missing_bucket_is_refused_before_work(s3_bucket):
    with pytest.raises(SettingsError, match=r"--out: .*missing-"):
        plan(f"s3://missing-{s3_bucket.removeprefix('s3://')}/out")


def test_server_that_gives_no_answer_ends_with_1_and_one_line(s3_bucket, monkeypatch, capsys):
    monkeypatch.setenv("SIGHTLINE_S3_ENDPOINT_URL", "http://127.0.0.1:9")
    given = ["run", "--images", "images", "--out", f"{s3_bucket}/out"]
    assert main([*given, "--set", "storage.s3_retries=0"]) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("pipelines: try later: ")


def test_a_sha256_without_weights_to_start_from_is_refused(tmp_path):
    sha256 = {"initial_weights_sha256": "f37072fd"}
    with pytest.raises(SettingsError, match=r"pretrain: .*f37072fd .* got no initial_weights_uri"):
        plan(tmp_path / "out", pretrain=sha256)


def test_weights_to_start_from_are_looked_for_and_handed_on(tmp_path):
    data = {"data_images": "images", "data_initial_weights": "weights.pth"}
    with pytest.raises(SettingsError, match="--initial-weights needs a file that can be read"):
        plan(tmp_path / "out", data)
    (tmp_path / "weights.pth").write_bytes(b"weights")
    found = plan(tmp_path / "out", data)
    assert found.arguments()["data_initial_weights"] == str(tmp_path / "weights.pth")
    assert f"initial weights {tmp_path / 'weights.pth'}" in found.describe()
