"""What the API server itself noted of a launcher: SIGHTLINE_TEST_AUDIT_LOG names its audit log."""

import json
import os
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
AUDIT_LOG = os.environ.get("SIGHTLINE_TEST_AUDIT_LOG", "")


@pytest.mark.skipif(not AUDIT_LOG, reason="needs SIGHTLINE_TEST_AUDIT_LOG, a cluster's audit log")
def test_launcher_asks_for_nothing_that_its_role_does_not_give(launch, namespace):
    launcher = launch(epochs=40)
    launcher.wait_for("submitted job")
    time.sleep(10)  # a few rounds of following
    launcher.process.terminate()
    launcher.wait(143)
    asked = {
        (_resource(entry), entry["verb"])
        for entry in _entries(f"system:serviceaccount:{namespace.name}:sightline-launcher")
    }
    roles = yaml.safe_load_all((ROOT / "k8s" / "base" / "roles.yaml").read_text())
    rules = next(entry for entry in roles if entry["kind"] == "Role")["rules"]
    given = {(r, verb) for rule in rules for r in rule["resources"] for verb in rule["verbs"]}
    assert {("pytorchjobs", "create"), ("pytorchjobs", "delete"), ("pods", "watch")} <= asked
    assert asked <= given
    trainer = f"system:serviceaccount:{namespace.name}:sightline-trainer"
    # Only a test of refusals asks anything in its name.
    assert all(entry["responseStatus"]["code"] == 403 for entry in _entries(trainer))


def _entries(user):
    for line in Path(AUDIT_LOG).read_text().splitlines():
        entry = json.loads(line)
        if entry["user"]["username"] == user and "objectRef" in entry:
            yield entry


def _resource(entry):
    reference = entry["objectRef"]
    return "/".join(filter(None, [reference["resource"], reference.get("subresource")]))
