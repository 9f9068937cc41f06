import os
import subprocess
import sys

import pytest

from sightline import __version__
from sightline.__main__ import main
from sightline.cli import parse_step
from sightline.errors import SettingsError
from sightline.evaluate.config import EvaluateConfig, EvaluateUris
from sightline.finetune.config import FinetuneConfig, FinetuneUris
from sightline.steps import COMMANDS, OTHER_COMMANDS, PIPELINE_STEPS, Step, run_step
from sightline.storage import StorageUnavailableError
from sightline.storage.settings import StorageConfig

ADDRESSES = ["--encoder-uri", "e", "--out-uri", "o"]
HEAVY = ("torch", "torchvision", "sklearn", "matplotlib", "ultralytics")


def parse(*arguments, uris=EvaluateUris, config=EvaluateConfig):
    return parse_step("evaluate", "Measure.", uris, config, arguments)


def test_flags_win_over_config_and_config_wins_over_the_preset():
    found = [
        parse(*ADDRESSES, *more)[1]
        for more in (
            ["--preset", "paper"],
            ["--preset", "paper", "--config", '{"epochs": 7}'],
            ["--preset", "paper", "--config", '{"epochs": 7}', "--epochs", "8"],
            ["--config", '{"preset": "paper", "batch_size": 9}'],
        )
    ]
    assert [config.epochs for config in found] == [90, 7, 8, 90]
    assert [config.batch_size for config in found] == [256, 256, 256, 9]


def test_preset_flag_wins_over_the_preset_in_config():
    config = parse(*ADDRESSES, "--config", '{"preset": "demo"}', "--preset", "paper")[1]
    assert config.epochs == EvaluateConfig.defaults("paper")["epochs"]


def test_switches_and_lists_have_their_own_spelling():
    config = parse(
        *ADDRESSES, "--no-scratch", "--label-fractions", "0.01, 0.1",
        uris=FinetuneUris, config=FinetuneConfig,
    )[1]  # fmt: skip
    assert config.scratch is False
    assert config.label_fractions == (0.01, 0.1)


def test_every_problem_of_addresses_settings_and_flags_is_named_at_once():
    with pytest.raises(SettingsError) as caught:
        parse("--out-uri", "o", "--knn-neigbours", "5", "--epochs", "0", "--config", '{"sed": 1}')
    message = str(caught.value)
    assert "--knn-neigbours is unknown, did you mean --knn-neighbours?" in message
    assert "encoder_uri is required" in message
    assert "epochs: input should be greater than or equal to 1" in message
    assert "sed is unknown, did you mean seed?" in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs"], "--epochs: expected one argument"),
        (["stray"], "unexpected argument 'stray'"),
        (["--epoch", "3"], "--epoch is unknown, did you mean --epochs"),
        (["--learning-rate", "-1"], "learning_rate: input should be greater than 0, got '-1'"),
        (["--standardize-features=no"], "ignored explicit argument 'no'"),
    ],
)
def test_arguments_that_cannot_be_read_are_settings_errors(arguments, message):
    with pytest.raises(SettingsError) as caught:
        parse(*ADDRESSES, *arguments)
    assert message in str(caught.value)


def test_storage_flags_are_a_group_of_their_own_and_only_what_was_given_is_returned():
    config, storage = parse(*ADDRESSES, "--s3-retries", "3", "--epochs", "5")[1:]
    assert config.epochs == 5
    assert storage == {"s3_retries": "3"}


@pytest.mark.parametrize("step", COMMANDS.values(), ids=lambda step: step.name)
def test_no_command_has_a_setting_named_like_one_of_storage(step):
    own = {*step.uris_class.model_fields, *step.config_class.model_fields}
    assert not own & set(StorageConfig.model_fields)


def test_refused_storage_setting_is_told_with_every_other_problem():
    with pytest.raises(SettingsError) as caught:
        parse("--out-uri", "o", "--s3-retries", "-1", "--s3-addresing", "path")
    message = str(caught.value)
    assert "encoder_uri is required" in message
    assert "s3_retries: input should be greater than or equal to 0, got '-1'" in message
    assert "--s3-addresing is unknown, did you mean --s3-addressing?" in message


@pytest.fixture(autouse=True)
def own_folder(monkeypatch, tmp_path):
    """Run each test in a folder of its own, where a command may leave something."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def started(monkeypatch):
    """Note the storage settings that hold when a step starts, instead of running it."""
    monkeypatch.setenv("SIGHTLINE_S3_RETRIES", "5")
    monkeypatch.setenv("SIGHTLINE_S3_REGION", "eu-central-1")
    found = []

    def run(uris, config):
        found.append(StorageConfig.from_environment())

    monkeypatch.setattr(Step, "run", property(lambda _: run))
    return found


def test_storage_flag_holds_before_the_step_starts_and_wins_over_the_environment(started):
    assert main(["evaluate", *ADDRESSES, "--s3-retries", "3"]) == 0
    assert (started[0].s3_retries, started[0].s3_region) == (3, "eu-central-1")
    assert os.environ["SIGHTLINE_S3_RETRIES"] == "3"  # for the processes that it starts


def test_refused_variable_of_storage_is_one_line_and_exit_code_2(started, monkeypatch, capsys):
    monkeypatch.setenv("SIGHTLINE_S3_RETRIES", "many")
    assert main(["evaluate", *ADDRESSES]) == 2
    assert "s3_retries" in capsys.readouterr().err
    assert not started


def test_store_that_gives_no_answer_is_one_line_and_exit_code_1(monkeypatch, capsys):
    def run(uris, config):
        raise StorageUnavailableError("s3://bucket: no answer in 180 s, 9 tries, last: 503")

    monkeypatch.setattr(Step, "run", property(lambda _: run))
    assert main(["evaluate", *ADDRESSES]) == 1
    assert capsys.readouterr().err == (
        "sightline evaluate: try later: s3://bucket: no answer in 180 s, 9 tries, last: 503\n"
    )


def test_user_error_is_one_line_and_exit_code_2(capsys):
    assert main(["evaluate", "--temperatur", "3"]) == 2
    written = capsys.readouterr().err
    assert written.startswith("sightline evaluate: ")
    assert written.count("\n") == 1


def test_unknown_command_is_refused_with_the_nearest(capsys):
    assert main(["pretrian"]) == 2
    assert capsys.readouterr().err == (
        "sightline: unknown command 'pretrian', did you mean pretrain?\n"
    )


def test_help_lists_every_command_with_its_summary(capsys):
    assert main([]) == main(["--help"]) == 0
    written = capsys.readouterr().out
    for step in COMMANDS.values():
        assert step.name in written
        assert step.summary in written


def test_version_is_printed(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"sightline {__version__}\n"


def test_step_runs_from_plain_values_as_a_pipeline_hands_them_over(tmp_path):
    addresses = {"encoder_uri": "nowhere", "dataset_uri": "", "out_uri": str(tmp_path / "out")}
    assert "skipped" in run_step("evaluate", addresses, {"epochs": 5.0}, seed=3)


def test_pipeline_has_the_seven_steps_in_order():
    assert [step.name for step in PIPELINE_STEPS] == [
        "prepare", "pretrain", "evaluate", "finetune", "detect", "report", "promote",
    ]  # fmt: skip


@pytest.mark.parametrize("step", PIPELINE_STEPS, ids=lambda step: step.name)
def test_every_step_has_the_same_presets_and_each_of_them_is_valid(step):
    assert list(step.config_class.presets) == ["seed", "paper", "mri", "demo"]
    assert step.config_class.presets["seed"] == {}
    for preset in step.config_class.presets:
        assert step.config_class.defaults(preset)


@pytest.mark.parametrize("step", COMMANDS.values(), ids=lambda step: step.name)
def test_every_setting_and_address_says_what_it_means(step):
    for cls in (step.uris_class, step.config_class):
        for name, field in cls.model_fields.items():
            assert field.description, f"{cls.__name__}.{name}"
            assert field.description.rstrip().endswith("."), f"{cls.__name__}.{name}"


@pytest.mark.parametrize("step", COMMANDS.values(), ids=lambda step: step.name)
def test_every_address_ends_in_uri_and_every_step_says_where_it_writes(step):
    names = list(step.uris_class.model_fields)
    assert all(name.endswith("_uri") for name in names)


@pytest.mark.parametrize("step", [*PIPELINE_STEPS], ids=lambda step: step.name)
def test_every_step_can_be_seeded(step):
    name = "split_seed" if step.name == "prepare" else "seed"
    assert step.config_class.from_values({name: 3.0}).to_json()[name] == 3
    with pytest.raises(SettingsError, match="seed: input should be greater than or equal to 0"):
        step.config_class.from_values({name: -1})


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_and_its_refusals_import_nothing_heavy(command):
    program = f"""
import sys
from sightline.__main__ import main
try:
    code = main([{command!r}, "--help"])
except SystemExit as stopped:
    code = stopped.code
assert code in (0, None), code
assert main([{command!r}, "--no-such-setting", "1"]) == 2
loaded = [name for name in {HEAVY!r} if name in sys.modules]
assert not loaded, loaded
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage: sightline " + command in done.stdout


def test_other_commands_are_not_part_of_the_pipeline():
    assert not {step.name for step in OTHER_COMMANDS} & {step.name for step in PIPELINE_STEPS}
