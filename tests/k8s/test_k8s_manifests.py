import os
import shutil
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from kubernetes.utils.quantity import parse_quantity

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
OVERLAYS = ("dev", "gpu", "kueue")
FOREIGN = ("LocalQueue",)
"""Kinds of others, which Kubernetes' own schemas do not know."""

needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")


def documents(path):
    return [entry for entry in yaml.safe_load_all(path.read_text(encoding="utf-8")) if entry]


def own_files():
    return sorted(p for p in K8S.rglob("*.yaml") if p.name != "kustomization.yaml")


def one(kind, name):
    (found,) = [
        entry
        for path in own_files()
        for entry in documents(path)
        if (entry["kind"], entry["metadata"]["name"]) == (kind, name)
    ]
    return found


def rendered(overlay):
    done = subprocess.run(
        ["kubectl", "kustomize", str(K8S / "overlays" / overlay)],
        capture_output=True,
        text=True,
        check=True,
    )
    return list(yaml.safe_load_all(done.stdout))


@pytest.mark.parametrize("folder", ["base", *(f"overlays/{name}" for name in OVERLAYS)])
def test_every_folder_lists_every_manifest_in_it(folder):
    listed = yaml.safe_load((K8S / folder / "kustomization.yaml").read_text())["resources"]
    there = [p.name for p in (K8S / folder).glob("*.yaml") if p.name != "kustomization.yaml"]
    assert sorted(name for name in listed if not name.startswith("..")) == sorted(there)


@pytest.mark.parametrize("path", own_files(), ids=lambda path: path.stem)
def test_manifests_are_what_kubernetes_knows(path):
    for entry in documents(path):
        if entry["kind"] not in FOREIGN:
            kubernetes_validate.validate(entry, "1.34", strict=True)


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlays_render_to_one_restricted_namespace_with_everything_in_it(overlay):
    found = rendered(overlay)
    (namespace,) = [entry for entry in found if entry["kind"] == "Namespace"]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    others = [entry for entry in found if entry["kind"] != "Namespace"]
    assert {entry["metadata"]["namespace"] for entry in others} == {namespace["metadata"]["name"]}
    for entry in found:
        if entry["kind"] not in FOREIGN:
            kubernetes_validate.validate(entry, "1.34", strict=True)


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_quotas_are_numbers(overlay):
    (quota,) = [entry for entry in rendered(overlay) if entry["kind"] == "ResourceQuota"]
    assert all(parse_quantity(value) >= 0 for value in quota["spec"]["hard"].values())


def test_launcher_may_do_this_and_nothing_else():
    role = one("Role", "sightline-launcher")
    allowed = {
        (resource, verb)
        for rule in role["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert allowed == {
        *(("pytorchjobs", verb) for verb in ("create", "get", "list", "patch", "delete")),
        *{("pods", "list"), ("pods", "watch"), ("pods/log", "get")},
        *{("events", "list"), ("resourcequotas", "list")},
    }
    assert [rule["apiGroups"] for rule in role["rules"]] == [["kubeflow.org"], [""], [""], [""]]
    (subject,) = one("RoleBinding", "sightline-launcher")["subjects"]
    assert subject["name"] == "sightline-launcher"


def test_workers_have_neither_rights_nor_a_token():
    assert one("ServiceAccount", "sightline-trainer")["automountServiceAccountToken"] is False
    bound = {
        subject["name"]
        for path in own_files()
        for entry in documents(path)
        for subject in entry.get("subjects", [])
    }
    assert bound == {"sightline-launcher"}


def test_network_is_closed_but_for_what_is_named():
    denied = one("NetworkPolicy", "default-deny")["spec"]
    assert denied == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    openings = {}
    for path in own_files():
        for entry in documents(path):
            if entry["kind"] == "NetworkPolicy":
                spec = entry["spec"]
                for way in ("ingress", "egress"):
                    for rule in spec.get(way, []):
                        ports = sorted(str(port["port"]) for port in rule.get("ports", []))
                        whom = sorted(str(w) for w in rule.get("from", rule.get("to", [])))
                        openings[entry["metadata"]["name"], way] = (ports, whom)
    workers = (
        "{'podSelector': {'matchLabels': {'app.kubernetes.io/managed-by': 'sightline-cluster'}}}"
    )
    system = (
        "{'namespaceSelector': {'matchLabels': {'kubernetes.io/metadata.name': 'kube-system'}}}"
    )
    watchers = (
        "{'namespaceSelector': {'matchLabels': {'kubernetes.io/metadata.name': 'monitoring'}}}"
    )
    assert openings == {
        ("names", "egress"): (["53", "53"], [system]),
        ("workers", "ingress"): ([], [workers]),
        ("workers", "egress"): ([], [workers]),
        ("store", "egress"): (["443"], []),
        ("store-in-cluster", "egress"): (["9000"], []),
        ("pushgateway", "egress"): (["9091"], [watchers]),
        ("launcher", "egress"): (["443", "6443"], []),
        ("metrics", "ingress"): (["metrics"], [watchers]),
    }


def test_policies_select_the_pods_that_jobs_make():
    from sightline_cluster.config import ClusterConfig
    from sightline_cluster.render import render_pytorchjob
    from sightline_cluster.task import make_task

    uris = {"dataset_uri": "s3://b/d", "out_uri": "s3://b/runs/r/pretrain"}
    job = render_pytorchjob(make_task("pretrain", uris, {}, {}), ClusterConfig())
    labels = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["metadata"]["labels"]
    for name in ("workers", "store", "metrics", "pushgateway"):
        selected = one("NetworkPolicy", name)["spec"]["podSelector"]["matchLabels"]
        assert selected.items() <= labels.items(), name


def test_images_page_names_the_image_of_every_step():
    from sightline_cluster import images

    page = (ROOT / "images" / "README.md").read_text()
    rows = [line.split("|") for line in page.splitlines() if line.startswith("| `")]
    told = {step.strip(): row[1].strip(" `") for row in rows for step in row[2].split(",")}
    declared = {}
    for path in (ROOT / "components").glob("*.py"):
        for constant in ("TRAIN", "DETECT", "LAUNCH"):
            if f"base_image=images.{constant}" in path.read_text():
                declared[path.stem] = getattr(images, constant).partition(":")[0]
    assert told == declared


def test_make_test_cluster_fails_where_there_is_no_cluster():
    recipe = (ROOT / "Makefile").read_text().partition("\ntest-cluster:")[2].splitlines()[1]
    setting = recipe.split()[0]
    environment = {**os.environ, "KUBECONFIG": "/none"} | dict([setting.split("=")])
    collect = [sys.executable, "-m", "pytest", "tests/cluster", "--collect-only", "-q"]
    done = subprocess.run(collect, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "tests/cluster needs " in done.stderr


def test_example_launcher_is_let_through_by_the_base():
    from sightline_cluster.images import LAUNCH

    (job,) = documents(K8S / "examples" / "launcher-job.yaml")
    assert job["metadata"]["namespace"] == one("Namespace", "sightline")["metadata"]["name"]
    template = job["spec"]["template"]
    labels, pod = template["metadata"]["labels"], template["spec"]
    for name in ("launcher", "store"):
        selected = one("NetworkPolicy", name)["spec"]["podSelector"]["matchLabels"]
        assert selected.items() <= labels.items(), name
    (subject,) = one("RoleBinding", "sightline-launcher")["subjects"]
    assert pod["serviceAccountName"] == subject["name"]
    assert pod["automountServiceAccountToken"] is True  # its account's default is none
    assert pod["shareProcessNamespace"] is True  # as process 1 it would not hear every SIGTERM
    (container,) = pod["containers"]
    assert container["image"] == LAUNCH


def test_example_launchers_arguments_are_those_it_takes(capsys):
    from sightline_cluster.__main__ import main

    (job,) = documents(K8S / "examples" / "launcher-job.yaml")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["sightline-cluster", "run"]
    assert main(["render", *container["args"]]) == 0
    rendered = yaml.safe_load(capsys.readouterr().out)
    assert rendered["spec"]["pytorchReplicaSpecs"]["Worker"]["replicas"] == 2


def test_example_launcher_is_made_anew_only_where_its_job_goes_on():
    (job,) = documents(K8S / "examples" / "launcher-job.yaml")
    assert job["spec"]["backoffLimit"] > 0
    final, disrupted = job["spec"]["podFailurePolicy"]["rules"]
    assert (final["action"], disrupted["action"]) == ("FailJob", "Ignore")
    # NotIn is asked of codes other than 0. SIGKILL and SIGTERM are 128 + 9 and 128 + 15; 75 is
    # EX_TEMPFAIL, here of an API that was away.
    assert final["onExitCodes"]["operator"] == "NotIn"
    assert final["onExitCodes"]["values"] == [75, 137, 143]
