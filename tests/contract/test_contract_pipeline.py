import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from components.detect import detect
from components.evaluate import evaluate
from components.finetune import finetune
from components.prepare import prepare
from components.pretrain import pretrain
from components.promote import promote
from components.report import report
from pipelines.lint import find_traps
from pipelines.parameters import own_parameters
from sightline.steps import PIPELINE_STEPS
from sightline.storage.settings import StorageConfig
from sightline_cluster.config import ClusterConfig
from sightline_cluster.images import DETECT, LAUNCH
from sightline_cluster.task import STEPS

STEPS_DAG = "comp-exit-handler-1"
COMPONENTS = {
    component.name: component
    for component in (prepare, pretrain, evaluate, finetune, detect, report, promote)
}
# Addresses that a component works out itself from `out` and the run's folder.
DERIVED = {"out_uri", "store_uri", "models_uri"}
# What a component needs to work them out.
PLACES = {"out", "run", "run_id", "job_id"}
DICTS = {"settings", "storage"}


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    from pipelines.compile import compile_pipeline

    target = tmp_path_factory.mktemp("compiled") / "pipeline.yaml"
    compile_pipeline(target)
    return list(yaml.safe_load_all(target.read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def compiled(documents):
    return documents[0]


@pytest.fixture(scope="module")
def tasks(compiled):
    """Return the steps' tasks by name; what ends every run, whatever its end, is around them."""
    return compiled["components"][STEPS_DAG]["dag"]["tasks"]


@pytest.mark.parametrize("step", PIPELINE_STEPS, ids=lambda step: step.name)
def test_component_takes_exactly_the_addresses_and_own_settings_of_its_step(step):
    inputs = set(COMPONENTS[step.name].component_spec.inputs)
    addresses = set(step.uris_class.model_fields) - DERIVED
    dicts = DICTS | ({"cluster"} if step.name in STEPS else set())
    assert inputs - PLACES == addresses | set(own_parameters(step.name)) | dicts


@pytest.mark.parametrize("step", PIPELINE_STEPS, ids=lambda step: step.name)
def test_own_parameters_are_settings_of_the_step_with_the_same_type(step):
    types = {int: "Integer", float: "Float", str: "String"}
    inputs = COMPONENTS[step.name].component_spec.inputs
    for name in own_parameters(step.name):
        default = step.config_class.defaults()[name]
        assert inputs[name].type in (types[type(default)], "NUMBER_INTEGER", "NUMBER_DOUBLE")


@pytest.mark.parametrize("step", PIPELINE_STEPS, ids=lambda step: step.name)
def test_component_says_what_the_step_table_says(step):
    assert COMPONENTS[step.name].component_spec.description == step.summary


@pytest.mark.parametrize("step", PIPELINE_STEPS, ids=lambda step: step.name)
def test_pipeline_shows_every_setting_of_the_step_at_its_own_default(step, compiled):
    parameters = compiled["root"]["inputDefinitions"]["parameters"]
    shown = dict(parameters[f"settings_{step.name}"]["defaultValue"])
    for name in own_parameters(step.name):
        if name in parameters:
            shown[name] = parameters[name]["defaultValue"]
    assert step.config_class.from_values(shown) == step.config_class()


def test_pipeline_shows_every_setting_of_storage_and_hands_it_to_every_step(compiled, tasks):
    parameters = compiled["root"]["inputDefinitions"]["parameters"]
    shown = parameters["settings_storage"]["defaultValue"]
    assert set(shown) == set(StorageConfig.model_fields)
    assert StorageConfig.from_values(shown) == StorageConfig()
    for name, task in tasks.items():
        given = task["inputs"]["parameters"]["storage"]
        assert given == _parameter("settings_storage"), name


def test_training_steps_run_as_jobs_unless_a_run_says_otherwise(compiled, tasks):
    parameters = compiled["root"]["inputDefinitions"]["parameters"]
    shown = parameters["settings_cluster"]["defaultValue"]
    assert set(shown) == set(ClusterConfig.model_fields)
    assert ClusterConfig.from_values(shown) == ClusterConfig(backend="pytorchjob")
    given = {name: task["inputs"]["parameters"].get("cluster") for name, task in tasks.items()}
    told = _parameter("settings_cluster")
    assert {name for name, value in given.items() if value == told} == set(STEPS)


def test_every_run_ends_with_the_reaper_of_its_own_jobs_whatever_its_end(compiled):
    root = compiled["root"]["dag"]["tasks"]
    assert root.keys() == {"exit-handler-1", "reap"}
    reaper = root["reap"]
    assert reaper["dependentTasks"] == ["exit-handler-1"]
    assert reaper["triggerPolicy"] == {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"}
    assert not reaper["cachingOptions"].get("enableCache")
    given = reaper["inputs"]["parameters"]
    assert given["cluster"] == {"componentInputParameter": "settings_cluster"}
    steps = compiled["components"][STEPS_DAG]["dag"]["tasks"]["prepare"]["inputs"]["parameters"]
    assert given["job_id"] == steps["job_id"]
    assert given["run_id"] == {"componentInputParameter": "run_id"}


@pytest.mark.parametrize("step", PIPELINE_STEPS, ids=lambda step: step.name)
def test_defaults_of_every_preset_survive_protobuf(step):
    from google.protobuf import json_format, struct_pb2

    for preset in step.config_class.presets:
        message = struct_pb2.Struct()
        message.update(step.config_class.defaults(preset))
        travelled = json_format.MessageToDict(message)
        kept = step.config_class.from_values(travelled)
        assert kept == step.config_class.from_values({"preset": preset})


def test_every_step_has_the_four_presets():
    for step in PIPELINE_STEPS:
        assert set(step.config_class.presets) == {"seed", "paper", "mri", "demo"}, step.name


def test_every_parameter_is_described_and_only_the_output_place_is_required(compiled):
    parameters = compiled["root"]["inputDefinitions"]["parameters"]
    assert [name for name, facts in parameters.items() if not facts.get("description")] == []
    required = [name for name, facts in parameters.items() if not facts.get("isOptional")]
    assert required == ["out"]


def test_steps_depend_on_each_other_as_the_table_of_contents_says(tasks):
    after = {name: set(task.get("dependentTasks", [])) for name, task in tasks.items()}
    assert after == {
        "prepare": set(),
        "pretrain": {"prepare"},
        "evaluate": {"prepare", "pretrain"},
        "finetune": {"prepare", "pretrain"},
        "detect": {"prepare", "pretrain"},
        "report": {"prepare", "pretrain", "evaluate", "finetune", "detect"},
        "promote": {"prepare", "report", "finetune", "detect"},
    }


def test_no_step_is_served_from_a_cache_that_cannot_see_what_lies_at_an_address(tasks):
    cached = {name for name, task in tasks.items() if task["cachingOptions"].get("enableCache")}
    assert cached == set()


def test_steps_run_in_the_smallest_image_that_holds_what_they_need(compiled):
    executors = compiled["deploymentSpec"]["executors"]
    images = {
        name.removeprefix("exec-"): facts["container"]["image"] for name, facts in executors.items()
    }
    # Their work is done by the job's pods, which run in images of their own.
    assert {name for name, image in images.items() if image == LAUNCH} == {*STEPS, "reap"}
    assert {name for name, image in images.items() if image == DETECT} == {"promote"}


def test_components_install_nothing_at_run_time(compiled):
    for executor in compiled["deploymentSpec"]["executors"].values():
        assert "pip install" not in " ".join(executor["container"]["command"])


def test_every_step_of_a_pipeline_takes_the_keys_of_s3_from_a_secret_that_may_be_missing(documents):
    executors = documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(executors) == {f"exec-{step.name}" for step in PIPELINE_STEPS}
    for executor in executors.values():
        (secret,) = executor["secretAsEnv"]
        assert secret["secretName"] == "sightline-s3"
        assert secret["optional"] is True
        taken = {key["envVar"]: key["secretKey"] for key in secret["keyToEnv"]}
        assert taken == {key: key for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}


def test_compiled_pipeline_is_free_of_traps(compiled):
    assert find_traps(compiled) == []


def test_compiling_needs_no_torch(tmp_path):
    program = (
        "import sys; from pathlib import Path; from pipelines.compile import compile_pipeline; "
        f"compile_pipeline(Path({str(tmp_path / 'p.yaml')!r})); "
        "print(sorted({'torch', 'torchvision', 'ultralytics', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(inspect.getfile(find_traps)).parents[1],
    )
    assert done.stdout.strip() == "[]"


def _parameter(name):
    return {"componentInputParameter": f"pipelinechannel--{name}"}
