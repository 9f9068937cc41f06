"""Each trap is planted in a small pipeline, compiled by KFP itself."""

from typing import NamedTuple

import pytest
import yaml
from kfp import compiler, dsl

from pipelines.lint import find_traps


@dsl.component(base_image="python", install_kfp_package=False)
def named() -> NamedTuple("Named", score=float, items=list):
    return (1.0, [1, 2])


@dsl.component(base_image="python", install_kfp_package=False)
def single() -> float:
    return 1.0


@dsl.component(base_image="python", install_kfp_package=False)
def word() -> str:
    return "yes"


@dsl.component(base_image="python", install_kfp_package=False)
def show(value: float = 0.0, text: str = "") -> None:
    print(value, text)


@dsl.component(base_image="python", install_kfp_package=False)
def make_artifact(made: dsl.Output[dsl.Artifact]) -> None:
    print(made.path)


@dsl.component(base_image="python", install_kfp_package=False)
def read_artifact(made: dsl.Input[dsl.Artifact]) -> None:
    print(made.path)


@pytest.fixture
def traps_of(tmp_path):
    def compile_and_lint(pipeline):
        target = tmp_path / "pipeline.yaml"
        compiler.Compiler().compile(pipeline, str(target))
        return find_traps(yaml.safe_load(target.read_text(encoding="utf-8")))

    return compile_and_lint


def test_plain_chain_has_no_trap(traps_of):
    @dsl.pipeline
    def chain(text: str = ""):
        show(value=single().output, text=text)

    assert traps_of(chain) == []


def test_condition_on_a_named_output_is_found(traps_of):
    @dsl.pipeline
    def gated():
        with dsl.If(named().outputs["score"] > 0.5):
            show()

    assert traps_of(gated) == ["root/condition-1: a condition on a named output is silently false"]


def test_condition_on_a_single_number_is_no_trap(traps_of):
    @dsl.pipeline
    def gated():
        with dsl.If(single().output > 0.5):
            show()

    assert traps_of(gated) == []


def test_condition_on_a_text_is_found(traps_of):
    @dsl.pipeline
    def gated():
        with dsl.If(word().output == "yes"):
            show()

    assert traps_of(gated) == [
        "root/condition-1: a condition on a text is evaluated as code: compare numbers"
    ]


def test_loop_over_a_named_output_is_found(traps_of):
    @dsl.pipeline
    def looped():
        with dsl.ParallelFor(named().outputs["items"]) as item:
            show(value=item)

    assert traps_of(looped) == ["root/for-loop-1: a loop over a named output fails"]


def test_nested_pipeline_with_nothing_but_artifacts_is_found(traps_of):
    @dsl.pipeline
    def inner(made: dsl.Input[dsl.Artifact]):
        read_artifact(made=made)

    @dsl.pipeline
    def outer():
        inner(made=make_artifact().outputs["made"])

    assert traps_of(outer) == [
        "root/inner: a nested pipeline with artifacts as its only inputs fails: add a parameter"
    ]


def test_parameter_that_defaults_to_none_is_found(traps_of):
    @dsl.pipeline
    def optional(text: str = None):  # noqa: RUF013, as a user would write it
        show(text=text)

    assert traps_of(optional) == ['root: parameter text defaults to None, which fails: use "" or 0']


@pytest.mark.parametrize(
    "placeholder",
    [
        dsl.PIPELINE_JOB_RESOURCE_NAME_PLACEHOLDER,
        dsl.PIPELINE_JOB_CREATE_TIME_UTC_PLACEHOLDER,
        dsl.PIPELINE_JOB_SCHEDULE_TIME_UTC_PLACEHOLDER,
    ],
)
def test_placeholder_without_a_local_value_is_found(traps_of, placeholder):
    @dsl.pipeline
    def placed():
        show(text=placeholder)

    assert traps_of(placed) == [f"placeholder {placeholder} has no value in kfp.local"]
