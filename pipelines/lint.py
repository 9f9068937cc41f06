"""Finds, in a compiled pipeline, what kfp.local 2.17 runs wrongly or KFP cannot compile well.

Each finding was reproduced; most fail silently, so a pipeline must stay clear of them.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

Node = Mapping[str, Any]

_BROKEN_PLACEHOLDERS = (
    "{{$.pipeline_job_resource_name}}",
    "{{$.pipeline_job_create_time_utc}}",
    "{{$.pipeline_job_schedule_time_utc}}",
)


def find_traps(spec: Node) -> list[str]:
    """Return one line for each trap in a pipeline's intermediate representation."""
    found: list[str] = []
    components = {"root": spec["root"], **spec.get("components", {})}
    for name, component in components.items():
        for task_name, task in component.get("dag", {}).get("tasks", {}).items():
            where = f"{name}/{task_name}"
            found += (f"{where}: {trap}" for trap in _task_traps(task, components, name == "root"))
        found += (f"{name}: {trap}" for trap in _input_traps(component))
    found += (f"placeholder {text} has no value in kfp.local" for text in _broken(spec))
    return found


def _task_traps(task: Node, components: Mapping[str, Node], at_root: bool) -> Iterator[str]:
    inputs = task.get("inputs", {})
    producers = [
        parameter["taskOutputParameter"]["outputParameterKey"]
        for parameter in inputs.get("parameters", {}).values()
        if "taskOutputParameter" in parameter
    ]
    condition = task.get("triggerPolicy", {}).get("condition", "")
    if condition:
        if at_root and any(key != "Output" for key in producers):
            yield "a condition on a named output is silently false"
        if re.search(r"==\s*'|'\s*==|!=\s*'", condition):
            yield "a condition on a text is evaluated as code: compare numbers"
    items = task.get("parameterIterator", {}).get("items", {}).get("inputParameter", "")
    looped = inputs.get("parameters", {}).get(items, {}).get("taskOutputParameter")
    if at_root and looped and looped["outputParameterKey"] != "Output":
        yield "a loop over a named output fails"
    component = components.get(task["componentRef"]["name"], {})
    if "dag" in component and inputs.get("artifacts") and not inputs.get("parameters"):
        yield "a nested pipeline with artifacts as its only inputs fails: add a parameter"


def _input_traps(component: Node) -> Iterator[str]:
    parameters = component.get("inputDefinitions", {}).get("parameters", {})
    for name, parameter in parameters.items():
        if "dag" in component and parameter.get("isOptional") and "defaultValue" not in parameter:
            yield f'parameter {name} defaults to None, which fails: use "" or 0'


def _broken(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        for value in node.values():
            yield from _broken(value)
    elif isinstance(node, list):
        for value in node:
            yield from _broken(value)
    elif isinstance(node, str):
        yield from (text for text in _BROKEN_PLACEHOLDERS if text in node)
