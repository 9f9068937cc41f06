import copy
import re

import kubernetes_validate
import pytest
import yaml
from sightline_cluster_crd import problems

from pipelines.plan import make_plan, read_assignments
from sightline.cli import parse_step
from sightline.errors import SettingsError, UserError
from sightline.steps import COMMANDS
from sightline_cluster.__main__ import main
from sightline_cluster.config import ClusterConfig
from sightline_cluster.images import DETECT, TRAIN
from sightline_cluster.pipeline_step import reap_run
from sightline_cluster.render import differences, job_name, render_pytorchjob, spec_hash
from sightline_cluster.task import make_task

EVERYTHING = ClusterConfig(
    train_image="registry.example/train:2",
    image_pull_secret="registry",
    s3_endpoint_url="http://s3.example:9000",
    pushgateway_url="http://push.example:9091",
    processes_per_pod=2,
    cpu="8",
    memory="32Gi",
    gpus=2,
    node_selector=("gpu=a100", "zone="),
    tolerations=("nvidia.com/gpu:NoSchedule", "team=vision", "spot"),
    queue="vision",
)


def worker_of(manifest):
    return manifest["spec"]["pytorchReplicaSpecs"]["Worker"]


def pod_of(manifest):
    return worker_of(manifest)["template"]["spec"]


def container_of(manifest):
    (container,) = pod_of(manifest)["containers"]
    return container


@pytest.fixture(params=["pretrain alone", "pretrain", "finetune", "detect", "everything"])
def manifest(request, task):
    if request.param == "everything":
        return render_pytorchjob(task(workers=4, global_batch_size=64), EVERYTHING)
    if request.param == "pretrain":
        return render_pytorchjob(task(workers=2), ClusterConfig())
    return render_pytorchjob(task(request.param.split()[0]), ClusterConfig())


def test_operators_schema_knows_every_field(manifest):
    assert problems(manifest) == []


def test_schema_with_unknown_fields_refused_finds_a_misplaced_one(manifest):
    manifest["spec"]["ttlSecondsAfterFinished"] = 1
    assert any("ttlSecondsAfterFinished" in problem for problem in problems(manifest))


def test_kubeflows_own_models_carry_every_field(manifest):
    from kubeflow.training import ApiClient
    from kubeflow.training.utils.utils import FakeResponse

    client = ApiClient()
    model = client.deserialize(FakeResponse(manifest), "KubeflowOrgV1PyTorchJob")
    assert client.sanitize_for_serialization(model) == manifest


def test_pods_are_what_kubernetes_knows_as_pods(manifest):
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "worker"}}
    kubernetes_validate.validate({**pod, "spec": pod_of(manifest)}, "1.34", strict=True)


def test_pods_meet_pod_security_restricted(manifest):
    pod, container = pod_of(manifest), container_of(manifest)
    for context in (pod["securityContext"], container["securityContext"]):
        assert context["runAsNonRoot"] is True
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["securityContext"]["runAsUser"] >= 10000
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert all(set(volume) == {"name", "emptyDir"} for volume in pod["volumes"])
    assert pod["automountServiceAccountToken"] is False


def test_worker_is_not_process_1_which_hears_no_sigterm_before_it_listens(manifest):
    assert pod_of(manifest)["shareProcessNamespace"] is True


def test_several_pods_have_no_master_and_a_fixed_place_to_meet(task):
    manifest = render_pytorchjob(task(workers=4), ClusterConfig())
    assert set(manifest["spec"]["pytorchReplicaSpecs"]) == {"Worker"}
    assert worker_of(manifest)["replicas"] == 4
    policy = manifest["spec"]["elasticPolicy"]
    assert policy["rdzvBackend"] == "c10d"
    assert (policy["minReplicas"], policy["maxReplicas"], policy["maxRestarts"]) == (4, 4, 0)
    assert manifest["spec"]["nprocPerNode"] == "1"


def test_one_pod_meets_nobody(task):
    assert "elasticPolicy" not in render_pytorchjob(task("finetune"), ClusterConfig())["spec"]


def test_processes_share_pods_and_their_cores():
    manifest = render_pytorchjob(
        make_task(
            "pretrain",
            {"dataset_uri": "s3://b/d", "out_uri": "s3://b/runs/r/pretrain"},
            {"workers": 4},
            {},
        ),
        EVERYTHING,
    )
    assert worker_of(manifest)["replicas"] == 2
    assert manifest["spec"]["nprocPerNode"] == "2"
    assert {"name": "OMP_NUM_THREADS", "value": "4"} in container_of(manifest)["env"]
    assert container_of(manifest)["resources"]["limits"]["nvidia.com/gpu"] == "2"


def test_workers_that_no_number_of_pods_holds_are_refused(task):
    with pytest.raises(UserError, match="a multiple of processes_per_pod, got 4 and 3"):
        render_pytorchjob(task(workers=4), ClusterConfig(processes_per_pod=3))


def test_labels_are_the_same_on_job_and_pods_and_name_run_and_step(task):
    manifest = render_pytorchjob(task("detect", "2026-11-26"), ClusterConfig())
    labels = manifest["metadata"]["labels"]
    assert worker_of(manifest)["template"]["metadata"]["labels"] == labels
    assert labels["sightline.dev/run-id"] == "2026-11-26"
    assert labels["sightline.dev/step"] == labels["app.kubernetes.io/component"] == "detect"


@pytest.mark.parametrize("run", ["first", "A.b_c", "9", "x" * 100, "._.", "Änderung"])
@pytest.mark.parametrize("step", ["pretrain", "finetune", "detect"])
def test_names_and_labels_are_those_kubernetes_takes(task, run, step):
    manifest = render_pytorchjob(task(step, run), ClusterConfig())
    name = manifest["metadata"]["name"]
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)
    assert len(f"{name}-worker-99") <= 63
    label = manifest["metadata"]["labels"]["sightline.dev/run-id"]
    assert re.fullmatch(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?", label)
    assert len(label) <= 63


def test_name_is_that_of_the_place_of_the_results(task):
    assert job_name(task(run="a", epochs=1)) == job_name(task(run="a", epochs=2))
    assert job_name(task(run="a")) != job_name(task(run="b"))
    assert job_name(task(run="x" * 50 + "1")) != job_name(task(run="x" * 50 + "2"))


@pytest.mark.parametrize("out", ["s3://b/runs/r/pretrain/", "s3://b//runs/r//pretrain"])
def test_one_place_for_results_is_one_job_however_its_address_is_spelt(out):
    one, other = (
        render_pytorchjob(
            make_task("pretrain", {"dataset_uri": "s3://b/d", "out_uri": uri}, {}, {}),
            ClusterConfig(),
        )
        for uri in ("s3://b/runs/r/pretrain", out)
    )
    assert other == one


def test_another_setting_is_another_job_and_said_in_words(task):
    one = render_pytorchjob(task(epochs=1), ClusterConfig())
    two = render_pytorchjob(task(epochs=2), ClusterConfig(memory="4Gi"))
    assert spec_hash(one) != spec_hash(two)
    assert spec_hash(one) == spec_hash(render_pytorchjob(task(epochs=1), ClusterConfig()))
    assert differences(one, two) == ["cluster.memory 8Gi there, 4Gi here", "epochs 1 there, 2 here"]


OTHERWISE = {
    "train_image": "registry.example/train:3",
    "image_pull_policy": "Always",
    "image_pull_secret": "registry",
    "service_account": "other",
    "s3_secret": "",
    "s3_endpoint_url": "http://s3.example:9000",
    "pushgateway_url": "http://push.example:9091",
    "processes_per_pod": 2,
    "cpu": "3",
    "memory": "9Gi",
    "gpus": 1,
    "shared_memory": "2Gi",
    "scratch": "65Gi",
    "node_selector": ("gpu=a100",),
    "tolerations": ("spot:NoSchedule", "team=vision"),
    "queue": "vision",
    "deadline_hours": 1.5,
    "keep_hours": 0.5,
}
NOT_THE_JOBS = {"backend", "namespace", "detect_image", "restarts", "startup_seconds"} | {
    *("wait_for_nodes", "api_minutes", "cancel_on_sigterm"),
}


def test_every_setting_that_makes_another_job_is_named(task):
    assert {*OTHERWISE, *NOT_THE_JOBS} == set(ClusterConfig.model_fields)
    usual = render_pytorchjob(task(workers=2), ClusterConfig())
    for name, value in OTHERWISE.items():
        other = render_pytorchjob(task(workers=2), ClusterConfig(**{name: value}))
        assert spec_hash(other) != spec_hash(usual)
        said = [text.split()[0] for text in differences(usual, other)]
        expected = {"train_image": "image", "s3_endpoint_url": name}
        assert said == [expected.get(name, f"cluster.{name}")]
    storage = {"s3_region": "eu-central-1"}
    other = render_pytorchjob(task(workers=2, storage=storage), ClusterConfig())
    assert differences(usual, other) == ["s3_region none there, eu-central-1 here"]


def test_setting_of_the_cluster_is_named_although_the_step_has_a_namesake(task):
    usual, other = (
        render_pytorchjob(task("finetune"), ClusterConfig(scratch=scratch))
        for scratch in ("64Gi", "65Gi")
    )
    assert differences(usual, other) == ["cluster.scratch 64Gi there, 65Gi here"]


def test_what_only_the_launcher_does_changes_no_job(task):
    patient = ClusterConfig(restarts=99, startup_seconds=1, api_minutes=1, cancel_on_sigterm=False)
    assert spec_hash(render_pytorchjob(task(), patient)) == spec_hash(
        render_pytorchjob(task(), ClusterConfig())
    )


def test_images_are_those_of_the_step_and_its_encoder(task):
    assert container_of(render_pytorchjob(task("finetune"), ClusterConfig()))["image"] == TRAIN
    assert container_of(render_pytorchjob(task("detect"), ClusterConfig()))["image"] == DETECT
    yolo = task(encoder="yolo12n")
    assert container_of(render_pytorchjob(yolo, ClusterConfig()))["image"] == DETECT
    own = ClusterConfig(train_image="a:1", detect_image="b:2")
    assert container_of(render_pytorchjob(task(), own))["image"] == "a:1"
    assert container_of(render_pytorchjob(task("detect"), own))["image"] == "b:2"


def test_step_without_data_takes_one_pod_of_the_smaller_image_to_say_so():
    for step in ("pretrain", "detect"):
        uris = {"dataset_uri": "", "out_uri": f"s3://b/runs/r/{step}"}
        settings = {"workers": 4} if step == "pretrain" else {}
        uris |= {} if step == "pretrain" else {"encoder_uri": "s3://b/runs/r/pretrain"}
        manifest = render_pytorchjob(make_task(step, uris, settings, {}), ClusterConfig())
        assert worker_of(manifest)["replicas"] == 1
        assert "elasticPolicy" not in manifest["spec"]
        assert container_of(manifest)["image"] == TRAIN
        command = COMMANDS[step]
        flags = container_of(manifest)["args"][1:]
        told, _, _ = parse_step(step, "", command.uris_class, command.config_class, flags)
        assert told.dataset_uri == ""


def test_store_is_reached_as_pods_reach_it_and_keys_come_from_a_secret(task):
    here = task(storage={"s3_endpoint_url": "http://127.0.0.1:9000", "s3_retries": 5})
    there = container_of(render_pytorchjob(here, ClusterConfig(s3_endpoint_url="http://s3:9000")))
    env = {entry["name"]: entry["value"] for entry in there["env"]}
    assert env["SIGHTLINE_S3_ENDPOINT_URL"] == "http://s3:9000"
    assert env["SIGHTLINE_S3_RETRIES"] == "5"
    assert there["envFrom"] == [{"secretRef": {"name": "sightline-s3"}}]
    assert "envFrom" not in container_of(render_pytorchjob(task(), ClusterConfig(s3_secret="")))


def test_texts_reach_the_worker_as_they_are(task):
    # https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/: $(NAME) is
    # replaced, $$ is one $.
    bucket = "s3://b/a$$b$(AWS_SECRET_ACCESS_KEY)$c"
    container = container_of(
        render_pytorchjob(task(bucket=bucket, storage={"s3_region": "$(HOME)"}), ClusterConfig())
    )
    texts = [*container["args"], *(entry["value"] for entry in container["env"])]
    assert not any("$(" in text.replace("$$", "") for text in texts)
    flags = [text.replace("$$", "$") for text in container["args"][1:]]
    command = COMMANDS["pretrain"]
    uris, _, _ = parse_step("pretrain", "", command.uris_class, command.config_class, flags)
    assert uris.out_uri == f"{bucket}/runs/first/pretrain"
    assert {"name": "SIGHTLINE_S3_REGION", "value": "$$(HOME)"} in container["env"]


OWN_HOSTS = [
    *("localhost", "s3.localhost", "LOCALHOST", "localhost.", "localhost.localdomain"),
    *("localhost6", "ip6-localhost", "ip6-loopback"),
    *("127.0.0.1", "127.8.8.8", "127.1", "2130706433", "0x7f.1", "0.0.0.0", "0"),
    *("[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]"),
]


@pytest.mark.parametrize("host", OWN_HOSTS)
def test_server_at_an_address_of_this_machine_alone_is_refused(task, host):
    here = f"http://{host}:9000"
    words = r"pods do not reach .*: set cluster.{}_url to its address inside the cluster"
    s3, pushgateway = words.format("s3_endpoint"), words.format("pushgateway")
    with pytest.raises(UserError, match=s3):
        render_pytorchjob(task(storage={"s3_endpoint_url": here}), ClusterConfig())
    with pytest.raises(UserError, match=s3):
        render_pytorchjob(task(), ClusterConfig(s3_endpoint_url=here))
    with pytest.raises(UserError, match=pushgateway):
        render_pytorchjob(task(), ClusterConfig(pushgateway_url=here))


@pytest.mark.parametrize("host", ["10.0.0.7", "[fd00::7]", "minio", "localhost.example"])
def test_server_at_an_address_of_a_network_is_taken(task, host):
    there = f"http://{host}:9000"
    render_pytorchjob(
        task(storage={"s3_endpoint_url": there}), ClusterConfig(pushgateway_url=there)
    )


def test_where_a_job_may_run_is_rendered_as_kubernetes_writes_it(task):
    pod = pod_of(render_pytorchjob(task(workers=2), EVERYTHING))
    assert pod["nodeSelector"] == {"gpu": "a100", "zone": ""}
    assert pod["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
        {"key": "team", "operator": "Equal", "value": "vision"},
        {"key": "spot", "operator": "Exists"},
    ]
    assert pod["imagePullSecrets"] == [{"name": "registry"}]


def test_queue_is_kueues_label_on_the_job_alone(task):
    manifest = render_pytorchjob(task(workers=2), EVERYTHING)
    assert manifest["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "vision"
    assert "kueue.x-k8s.io/queue-name" not in worker_of(manifest)["template"]["metadata"]["labels"]


def test_rendering_changes_nothing_that_it_was_given(task):
    given, config = task(workers=2), EVERYTHING
    before = copy.deepcopy((given, config))
    render_pytorchjob(given, config)
    assert (given, config) == before


def test_folder_that_no_pod_sees_is_refused():
    uris = {"dataset_uri": "/home/me/data", "out_uri": "s3://b/runs/r/pretrain"}
    with pytest.raises(UserError, match=r"s3://… only, got dataset_uri /home/me/data"):
        make_task("pretrain", uris, {}, {})


def test_wrong_settings_are_refused_before_a_cluster_is_asked():
    with pytest.raises(SettingsError, match="cpus is unknown, did you mean cpu"):
        ClusterConfig.from_values({"cpus": 1})
    for name, value, told in (
        ("node_selector", "gpu", r"node_selector.0: needs name=value, got 'gpu'"),
        ("tolerations", "a:Never", r"tolerations.0: needs key\[=value\]\[:effect\].*got 'a:Never'"),
        ("queue", "Vision", r"queue: needs a name of lower-case letters.*got 'Vision'"),
        ("keep_hours", 0, "keep_hours: "),
    ):
        with pytest.raises(SettingsError, match=told):
            ClusterConfig.from_values({name: value})


@pytest.mark.parametrize("name", ["s3_endpoint_url", "pushgateway_url"])
def test_address_with_credentials_is_refused_without_repeating_them(name, capfd):
    secret = f"{name}=http://me:S3CRET@host:9000"
    flags = ["--dataset-uri", "s3://b/d", "--out-uri", "s3://b/runs/r/pretrain"]
    assert main(["render", "--set", secret, "pretrain", *flags]) == 2
    with pytest.raises(SystemExit, match="2"):
        reap_run("s3://b", "r", "", dict([secret.split("=")]))
    with pytest.raises(SettingsError, match=f"{name}: an address holds no credentials") as refused:
        make_plan("s3://b", "r", {}, "seed", {}, read_assignments([f"cluster.{secret}"])[0])
    told = capfd.readouterr()
    assert told.err.count(f"{name}: an address holds no credentials") == 2
    assert "S3CRET" not in f"{told.out}{told.err}{refused.value}"


@pytest.mark.parametrize(
    ("secret", "told"),
    [
        *(
            (uri, "an S3 address holds no credentials, no port and no query: give s3://")
            for uri in (
                *("s3://KEY:CANARY@b/d", "s3://CANARY@b/d", "s3://KEY:x/CANARY@b/d"),
                *("s3://b/d?token=CANARY", "s3://b/d?a=1&pw=CANARY", "s3://b?pass=x/CANARY"),
            )
        ),
        *(
            (uri, "cannot open https://…: give s3://bucket/prefix")
            for uri in ("https://me:CANARY@host/d", "https://host/d?auth=CANARY")
        ),
        ("s3:/KEY:CANARY@b/d", "needs two slashes after it: write s3://bucket/prefix"),
        ("file://KEY:CANARY@b/d", "a file:// address names no host"),
        ("//KEY:CANARY@b/d", "an address holds no credentials: give s3://bucket/prefix"),
    ],
)
def test_address_of_data_with_credentials_is_refused_without_repeating_them(secret, told, capfd):
    good = "s3://b/d"
    for dataset, out in ((secret, good), (good, secret)):
        uris = ["--dataset-uri", dataset, "--out-uri", out]
        assert main(["render", "pretrain", *uris]) == 2
        shown = capfd.readouterr()
        assert told in shown.err
        assert "CANARY" not in f"{shown.out}{shown.err}"


@pytest.mark.parametrize("uri", ["s3://b/what?", "s3://b/a?/b=c", "s3://b/?=c", "s3://b/c=d?"])
def test_question_mark_in_a_key_is_no_query(task, uri):
    container = container_of(render_pytorchjob(task(bucket=uri), ClusterConfig()))
    assert f"{uri}/runs/first/pretrain" in container["args"]


def test_address_that_names_no_bucket_is_refused(capfd):
    assert main(["render", "pretrain", "--dataset-uri", "s3://b/d", "--out-uri", "s3:///"]) == 2
    assert "out_uri: 's3:///' names no bucket: give s3://bucket" in capfd.readouterr().err


def test_lists_may_be_given_as_text():
    config = ClusterConfig.from_values({"node_selector": "a=b,c=d", "tolerations": "x:NoExecute y"})
    assert config.node_selector == ("a=b", "c=d")
    assert config.tolerations == ("x:NoExecute", "y")


@pytest.mark.parametrize(
    ("scratch", "limit"), [("20Gi", "21504Mi"), ("1G", "1978Mi"), ("1048576Ki", "2048Mi")]
)
def test_disk_that_a_worker_may_use_is_its_scratch_and_a_log(task, scratch, limit):
    # 1 G is 953.7 MiB. A namespace's default would else evict it at less than scratch allows.
    container = container_of(render_pytorchjob(task(), ClusterConfig(scratch=scratch)))
    assert container["resources"]["limits"]["ephemeral-storage"] == limit
    assert container["resources"]["requests"]["ephemeral-storage"] == "1Gi"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        # Kubernetes takes no finer share of a processor than 1m.
        *(
            ("cpu", cpu)
            for cpu in ("1k", "1Gi", "0", "0.0", "0m", "0.5.5", "1.5m", "0.0005", "2\n")
        ),
        *(("memory", memory) for memory in ("8ki", "0", "0.0Gi", "1..5Gi", "8 gigs", "9" * 5000)),
        # The unit is missing, or one too many; no container starts with a byte of memory.
        *(("memory", memory) for memory in ("0.0000001", "8", "65535Ki", "2Ei", "9" * 18 + "E")),
        *(("shared_memory", size) for size in ("1Gi1Gi", "1.023k")),
        ("scratch", "-1Gi"),
    ],
)
def test_quantities_that_kubernetes_does_not_take_are_refused_with_an_example(name, value):
    with pytest.raises(SettingsError, match=f"{name}: needs .*, such as ") as refused:
        ClusterConfig.from_values({name: value})
    assert str(refused.value).endswith(f", got {value!r}")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("cpu", cpu) for cpu in ("0.5", "500m", "1.250", "12")),
        *(("memory", memory) for memory in ("8388608Ki", "1.5Gi", "0.5Gi", "1E", "64Mi")),
    ],
)
def test_quantities_of_kubernetes_are_taken(task, name, value):
    config = ClusterConfig(**{"shared_memory": "1Mi", name: value})
    container = container_of(render_pytorchjob(task(), config))
    assert container["resources"]["requests"][name] == value


@pytest.mark.parametrize("value", ["16Ki", "1.024k"])
def test_small_volumes_are_taken(task, value):
    pod = pod_of(render_pytorchjob(task(), ClusterConfig(scratch=value, shared_memory=value)))
    assert [volume["emptyDir"]["sizeLimit"] for volume in pod["volumes"]] == [value] * 2


LONG = "a" * 63


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("namespace", text) for text in ("a..b", "a.b", "..", "-a", "A", f"{LONG}a", "a\n")),
        *(("s3_secret", text) for text in ("a..b", ".a", "a.-b", f"{LONG}a")),
        *(("queue", text) for text in (f"{LONG}.a", "a b")),
        *(
            ("train_image", text)
            for text in (" ", "a b", "Train", "a:", "a/", "a//b", "r:x/a", "-r.b/a")
        ),
        *(("detect_image", text) for text in ("r/a:1:2", "https://r/a", "a:1@sha256:12")),
    ],
)
def test_names_that_kubernetes_does_not_take_are_refused_in_words(name, value):
    with pytest.raises(SettingsError, match=f"rejects 1 setting: {name}: needs an? "):
        ClusterConfig.from_values({name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("namespace", LONG),
        *(("s3_secret", text) for text in ("", "a.b", f"{LONG}.{LONG}")),
        *(("queue", text) for text in ("team.a", LONG)),
        *(("train_image", text) for text in ("", "a", "a/b_c__d-e.f:V1", "r.example:5000/a/b")),
        *(("train_image", text) for text in ("[::1]:5000/a", f"R/a:1@sha256:{'0a' * 32}")),
    ],
)
def test_names_of_kubernetes_are_taken(name, value):
    assert getattr(ClusterConfig.from_values({name: value}), name) == value


def test_password_in_an_images_name_is_not_repeated():
    with pytest.raises(SettingsError, match=r"train_image: needs an image, .* got one with @$"):
        ClusterConfig.from_values({"train_image": "me:S3CRET@registry.example/train"})


def test_deadline_of_less_than_a_second_is_refused():
    with pytest.raises(SettingsError, match=r"deadline_hours: .* greater than or equal to 0\.01"):
        ClusterConfig.from_values({"deadline_hours": "0.0001"})
    # An hour has 3600 seconds.
    assert round(3600 * ClusterConfig(deadline_hours=0.01).deadline_hours) == 36


def test_shared_memory_that_memory_does_not_hold_is_refused():
    words = "got shared_memory 1Gi and memory 1G: raise memory, or lower shared_memory"
    with pytest.raises(SettingsError, match=words):
        ClusterConfig.from_values({"memory": "1G"})
    ClusterConfig(memory="1024Mi")


@pytest.mark.parametrize(
    "url",
    [
        *("http://[x", "http://", "http://:9000", "http://h:99999", "http://h:0", "http://h:port"),
        *("ftp://h", "minio:9000", "http://a b", "http://a\n", "http://a..b", "http://[::g]"),
    ],
)
@pytest.mark.parametrize("name", ["s3_endpoint_url", "pushgateway_url"])
def test_address_that_is_none_is_refused_with_an_example(name, url):
    with pytest.raises(SettingsError) as refused:
        ClusterConfig.from_values({name: url})
    assert f"{name}: needs an address such as http://minio:9000, got {url!r}" in str(refused.value)


def test_processes_of_a_pod_that_would_share_a_gpu_are_refused():
    words = r"a GPU of its own, got processes_per_pod 4 and gpus 1: raise gpus, or lower the"
    with pytest.raises(SettingsError, match=words):
        ClusterConfig.from_values({"gpus": 1, "processes_per_pod": 4})
    ClusterConfig(gpus=4, processes_per_pod=4)
    ClusterConfig(gpus=4)  # step detect spreads one process's work on them


def test_label_that_nodes_would_need_twice_is_refused():
    with pytest.raises(SettingsError, match=r"node_selector: .* one value .*, got a=1, a=2: keep"):
        ClusterConfig.from_values({"node_selector": "a=1,b=1,a=2"})


def test_images_that_may_outgrow_the_scratch_are_refused(task):
    small = ClusterConfig(scratch="32Gi")
    with pytest.raises(UserError, match=r"detect may keep 50 GiB .* cluster.scratch 32Gi.*: lower"):
        render_pytorchjob(task("detect"), small)
    with pytest.raises(UserError, match="may keep 32 GiB"):
        render_pytorchjob(task("detect", max_local_gib=32), small)
    render_pytorchjob(task("detect", max_local_gib=31.5), small)
    render_pytorchjob(task("finetune"), small)


def test_detection_without_images_needs_no_room_for_them():
    uris = {"dataset_uri": "", "encoder_uri": "", "out_uri": "s3://b/runs/r/detect"}
    render_pytorchjob(make_task("detect", uris, {}, {}), ClusterConfig(scratch="1Gi"))


@pytest.mark.parametrize(
    ("given", "namespace"), [(["--set", "namespace=vision"], "vision"), ([], None)]
)
def test_printed_manifest_is_in_the_namespace_that_is_given(capsys, given, namespace):
    flags = ["--dataset-uri", "s3://b/d", "--out-uri", "s3://b/runs/r/pretrain"]
    assert main(["render", *given, "pretrain", *flags]) == 0
    manifest = yaml.safe_load(capsys.readouterr().out)
    assert manifest["metadata"].get("namespace") == namespace  # none: that of kubectl's context
    assert problems(manifest) == []
