"""What reads the audit log for tests/cluster complains where it should; needs no cluster."""

import copy
import json
from pathlib import Path

import pytest
from audit_log import LAUNCHER, TRAINER, complaints, given_by, lines_of

ROOT = Path(__file__).parents[2]

# As Kubernetes 1.34 writes it, without what is not read here.
DELETION = {
    "kind": "Event",
    "apiVersion": "audit.k8s.io/v1",
    "level": "Metadata",
    "stage": "ResponseComplete",
    "requestURI": "/apis/kubeflow.org/v1/namespaces/team/pytorchjobs/sl-pretrain-r-0a9cb996",
    "verb": "delete",
    "user": {"username": "system:serviceaccount:team:sightline-launcher"},
    "objectRef": {
        "resource": "pytorchjobs",
        "namespace": "team",
        "name": "sl-pretrain-r-0a9cb996",
        "apiGroup": "kubeflow.org",
        "apiVersion": "v1",
    },
    "responseStatus": {"metadata": {}, "code": 200},
    "requestReceivedTimestamp": "2026-11-26T19:04:57.011783Z",
}
GIVEN = given_by((ROOT / "k8s" / "base" / "roles.yaml").read_text())


def line(account=LAUNCHER, code=200, verb="delete", **about):
    entry = copy.deepcopy(DELETION)
    entry["user"]["username"] = f"system:serviceaccount:team:{account}"
    entry["responseStatus"]["code"] = code
    entry["verb"] = verb
    entry["objectRef"] |= about
    return json.dumps(entry)


def complained(*lines, **options):
    return complaints(lines, "team", GIVEN, **options)


def test_what_the_role_gives_is_no_complaint():
    assert complained(line(), line(verb="get", resource="pods", subresource="log")) == []


@pytest.mark.parametrize(
    "unwanted",
    [
        line(code=403),
        line(code=403, resource="secrets", verb="list"),
        line(resource="secrets", verb="list"),  # somebody gave more than the role says
        line(resource="pods", subresource="exec", verb="create"),
        line(namespace="kube-system"),
        line(account=TRAINER),
        line(account=TRAINER, code=403),
    ],
)
def test_what_is_refused_or_beyond_the_role_is_a_complaint(unwanted):
    assert len(complained(line(), unwanted, line())) == 1


def test_complaint_says_who_asked_for_what_and_when():
    assert complained(line(TRAINER, 403, "list", resource="secrets")) == [
        "2026-11-26T19:04:57.011783Z sightline-trainer list secrets in team: 403"
    ]


def test_what_tests_ask_on_purpose_excuses_nothing_else():
    purpose = {(TRAINER, "team", "pytorchjobs", "get")}
    asked = line(account=TRAINER, code=403, verb="get")
    assert complained(asked, on_purpose=purpose) == []
    assert len(complained(line(account=TRAINER, code=403), on_purpose=purpose)) == 1


def test_server_that_has_just_started_may_refuse_what_it_gives_and_nothing_else():
    around = [("2026-11-26T19:04", "2026-11-26T19:05")]
    assert complained(line(code=403), restarts=around) == []
    assert len(complained(line(code=403, resource="secrets"), restarts=around)) == 1
    assert len(complained(line(code=403), restarts=[("2026-11-26T18", "2026-11-26T19:04")])) == 1


def test_other_accounts_and_namespaces_are_not_ours(tmp_path):
    log = tmp_path / "audit.log"
    ours = line(code=403)
    others = [ours.replace(":team:", ":other:"), ours.replace("sightline-launcher", "default")]
    log.write_text("\n".join([*others, ours]) + "\n")
    (tmp_path / "audit-2026-11-26T19-00-00.000.log").write_text(f"{ours}\n")
    assert len(complained(*lines_of(log, "team"))) == 2
