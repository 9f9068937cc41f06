"""What the API server itself noted of these tests: SIGHTLINE_TEST_AUDIT_LOG names its audit log.

Runs last (conftest.py), and looks at every request of both accounts since the namespace was made.
"""

import os
import time
from pathlib import Path

import pytest
from audit_log import LAUNCHER, TRAINER, complaints, given_by, lines_of, requests

ROOT = Path(__file__).parents[2]
AUDIT_LOG = os.environ.get("SIGHTLINE_TEST_AUDIT_LOG", "")


@pytest.mark.skipif(not AUDIT_LOG, reason="needs SIGHTLINE_TEST_AUDIT_LOG, a cluster's audit log")
def test_accounts_asked_for_nothing_that_their_roles_do_not_give(launch, namespace, api_restarts):
    launcher = launch(epochs=40)
    launcher.wait_for("submitted job")
    time.sleep(10)  # a few rounds of following
    launcher.process.terminate()
    launcher.wait(143)
    lines = list(lines_of(Path(AUDIT_LOG), namespace.name))
    asked = {(what, verb) for _, _, what, verb, _, _ in requests(lines, namespace.name)}
    assert {("pytorchjobs", "create"), ("pytorchjobs", "delete"), ("pods", "watch")} <= asked
    print(f"{len(lines)} lines about {', '.join(sorted(f'{verb} {what}' for what, verb in asked))}")
    given = given_by((ROOT / "k8s" / "base" / "roles.yaml").read_text())
    # Of test_cluster_refusals.py: launchers without rights, and in a namespace that is not theirs.
    on_purpose = {
        (LAUNCHER, "none-such", "pytorchjobs", "get"),
        (TRAINER, namespace.name, "pytorchjobs", "get"),
    }
    assert complaints(lines, namespace.name, given, on_purpose, api_restarts) == []
