"""The command `sightline-cluster`: what it refuses before it asks a cluster, and what it reaps."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import urllib3
from fake_api import JOBS

from sightline.errors import UserError
from sightline_cluster.__main__ import main
from sightline_cluster.api import connect
from sightline_cluster.config import ClusterConfig
from sightline_cluster.render import OUT_ANNOTATION, render_pytorchjob

ROOT = Path(__file__).parents[2]


FLAGS = ["--dataset-uri", "s3://b/d", "--out-uri", "s3://b/runs/r/pretrain"]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([], "a step is needed: pretrain, finetune, detect"),
        (["--set", "cpu=1"], "a step is needed: pretrain, finetune, detect"),
        (["prepare", *FLAGS], "got 'prepare': sightline prepare runs it here"),
        (["--set", "cpu=1", "pretrian", *FLAGS], "unknown step 'pretrian', did you mean pretrain?"),
        (["nothing", *FLAGS], "unknown step 'nothing', use one of pretrain, finetune, detect"),
        ([*FLAGS, "pretrain"], "--dataset-uri is none of --cluster and --set: the step's own flag"),
    ],
)
@pytest.mark.parametrize("command", ["run", "render"])
def test_what_is_no_step_is_told_in_words(command, given, told, capsys):
    assert main([command, *given]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("given", [[], ["-h"], ["render", "-h"], ["reap", "--help"]])
def test_help_says_what_each_command_takes(given, capsys):
    assert main(given) == 0
    told = capsys.readouterr().out
    assert told.startswith("usage: sightline-cluster COMMAND")
    assert "sightline STEP --help" in told


def test_help_of_a_step_is_its_own(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["render", "pretrain", "--help"])
    assert capsys.readouterr().out.startswith("usage: sightline pretrain")


CLUSTER = ["-m", "sightline_cluster"]


@pytest.mark.parametrize(
    "command",
    [
        *(["-m", "sightline", "--help"], ["-m", "sightline", "pretrain", "--help"]),
        *([*CLUSTER, "render", "--help"], [*CLUSTER, "render", "pretrain", *FLAGS]),
        *([*CLUSTER, "reap", "--all"], ["-m", "pipelines", "run", "--help"]),
        *(["-m", "pipelines.settings_page"], [str(ROOT / "k8s" / "pods_of_jobs.py")]),
    ],
)
def test_answer_that_nobody_gets_is_told_in_one_line_or_not_at_all(api, command):
    run = [sys.executable, *command]
    read, write = os.pipe()
    os.close(read)
    with Path("/dev/full").open("w") as full, os.fdopen(write, "w") as closed_pipe:
        ends = [
            subprocess.run(given, stdout=stdout, stderr=subprocess.PIPE, text=True)
            for given, stdout in (
                (run, closed_pipe),
                (run, full),
                (["sh", "-c", 'exec "$@" >&-', "sh", *run], None),
            )
        ]
    # 128 and the number of SIGPIPE, as a shell tells it of a program that does not catch it.
    assert [(end.returncode, end.stderr) for end in ends] == [
        (141, ""),
        (1, "sightline: the answer cannot be written (No space left on device)\n"),
        (1, "sightline: the answer cannot be written (Bad file descriptor)\n"),
    ]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--run-id", ""], "--all takes all runs"),
        (["--run-id", " "], "--all takes all runs"),
        (["--all", "--out", ""], "--out: jobs' results go to s3://… only, got ''"),
        (["--run-id", "r", "--out", "/home/me"], "s3://… only, got '/home/me'"),
        (["--run-id", "\udcff"], "--run-id: needs a run's id, got '\\udcff'"),
        (["--all", "--out", "s3://"], "--out: 's3://' names no bucket: give s3://bucket/prefix"),
        (["--all", "--out", "s3://b\n"], "'s3://b\\n' names no bucket"),
        (["--all", "--out", "https://me:pw@h"], "--out: cannot open https://…"),
        (["--all", "--namespace", ""], "--namespace: needs a name, got an empty one"),
        (["--all", "--namespace", "../a"], "--namespace: needs a name of at most 63 lower-case"),
    ],
)
def test_what_might_mean_too_many_runs_is_refused(given, told, capsys, monkeypatch):
    monkeypatch.setattr("sightline_cluster.api.connect", lambda _: pytest.fail("asked a cluster"))
    assert main(["reap", *given]) == 2
    assert told in capsys.readouterr().err


@pytest.fixture
def jobs(api, task):
    """Return a function that gives the addresses of results that jobs go to; at first of 5."""
    for bucket in ("s3://a", "s3://b"):
        for step in ("pretrain", "finetune"):
            job = render_pytorchjob(task(step, bucket=bucket), ClusterConfig())
            api.jobs[job["metadata"]["name"]] = job
    job = render_pytorchjob(task(bucket="s3://b", run="first-of-more/runs/first"), ClusterConfig())
    api.jobs[job["metadata"]["name"]] = job
    return lambda: [job["metadata"]["annotations"][OUT_ANNOTATION] for job in api.jobs.values()]


def test_name_of_several_runs_is_refused_until_it_is_said_which(jobs, capsys):
    assert main(["reap", "--run-id", "first"]) == 2
    assert (
        "several runs are called first, in s3://a/runs/first and in s3://b/runs/first and in "
        "s3://b/runs/first-of-more/runs/first: give --out" in capsys.readouterr().err
    )
    assert len(jobs()) == 5
    assert main(["reap", "--run-id", "first", "--out", "s3://a/"]) == 0
    assert all(uri.startswith("s3://b/") for uri in jobs())
    assert main(["reap", "--run-id", "first", "--out", "s3://b/runs/first"]) == 0
    assert jobs() == ["s3://b/runs/first-of-more/runs/first/pretrain"]
    assert main(["reap", "--run-id", "first"]) == 0
    assert jobs() == []


def test_all_runs_may_be_those_below_an_address(jobs):
    assert main(["reap", "--all", "--out", "s3://b/runs/first/pretrain"]) == 0
    assert len(jobs()) == 4
    assert main(["reap", "--all"]) == 0
    assert jobs() == []


def test_namespace_that_is_not_there_is_told(api, capsys):
    missing = 'namespaces "typo" not found'
    api.refuse = lambda _, path: (404, missing) if path.endswith("/typo") else None
    assert main(["reap", "--all", "--namespace", "typo"]) == 2
    assert "there is no namespace typo: kubectl" in capsys.readouterr().err


def test_namespace_that_must_not_be_asked_for_is_taken_to_be_there(api, capsys):
    refused = 'namespaces "own" is forbidden: User "me" cannot get resource "namespaces"'
    api.refuse = lambda _, path: (403, refused) if path.endswith("/own") else None
    assert main(["reap", "--all", "--namespace", "own"]) == 0
    assert capsys.readouterr().out == "nothing was left in namespace own\n"


@pytest.mark.parametrize(
    "content",
    [
        *(b"{ [", b"token: S3CRET\n\tx", bytes(range(256)), b"\xff\xfe\x00"),
        *(b"- a\n- b", b"text", b""),
    ],
)
def test_kubeconfig_that_is_none_is_told_in_one_line(api, tmp_path, capsys, content):
    (tmp_path / "kubeconfig").write_bytes(content)
    require_kubeconfig_told(capsys)


def change_kubeconfig(api, tmp_path, part, changes):
    """Write a kubeconfig with a part of its one context or cluster changed."""
    path = api.kubeconfig(tmp_path / "kubeconfig")
    held = json.loads(path.read_text())
    held[f"{part}s"][0][part] = changes and held[f"{part}s"][0][part] | changes
    path.write_text(json.dumps(held))


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("cluster", {"server": "https://127.0.0.1", "certificate-authority-data": "x"}),
        ("cluster", {"server": 5}),
        ("cluster", {"server": ""}),
        ("cluster", {"server": None}),
        ("cluster", {"server": "http://me:S3CRET@127.0.0.1:1"}),
        ("cluster", {"server": "http://127.0.0.1:1?token=S3CRET"}),
        ("cluster", {"proxy-url": "socks5://127.0.0.1:1"}),
        ("cluster", {"proxy-url": "http://me:S3CRET@127.0.0.1:1"}),
        ("cluster", None),
        ("user", {"token": "S3CRET\nS3CRET"}),
        ("user", {"token": "S3CRET\N{EN DASH}"}),
        ("user", {"username": "me", "password": "S3CRET\N{EN DASH}"}),
        ("user", {"auth-provider": {"name": "gcp", "config": {"access-token": "S3CRET"}}}),
        ("user", {"auth-provider": {"name": "azure"}}),
        ("context", {"namespace": "a/b"}),
        ("context", {"namespace": 5}),
        ("context", None),
    ],
)
def test_kubeconfig_with_something_wrong_in_it_is_told_in_one_line(
    api, tmp_path, capsys, part, changes
):
    change_kubeconfig(api, tmp_path, part, changes)
    require_kubeconfig_told(capsys)


def require_kubeconfig_told(capsys):
    assert main(["reap", "--all"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("sightline cluster: ")
    assert told.count("\n") == 1
    assert "KUBECONFIG" in told
    assert "S3CRET" not in told


@pytest.mark.parametrize(
    "server",
    [
        *(
            "htps://h",
            "ftp://h",
            "https:/h",
            "h:6443",
            "https://",
            "https://h:0",
            "https://h:99999",
        ),
        # A name's labels have 1 to 63 characters (RFC 1035).
        *(
            "https://a..b",
            f"https://{'a' * 64}.b",
            "https://a!b",
            "https://[::g]",
        ),
    ],
)
def test_server_that_could_never_answer_is_told_as_the_users_to_mend(api, tmp_path, capsys, server):
    change_kubeconfig(api, tmp_path, "cluster", {"server": server})
    assert main(["reap", "--all"]) == 2
    words = f"(server: needs an address such as https://10.0.0.1:6443, got {server!r}): mend it"
    assert words in capsys.readouterr().err


def test_server_that_only_its_client_finds_to_be_none_is_told_as_the_users_to_mend(
    api, tmp_path, capsys
):
    change_kubeconfig(api, tmp_path, "cluster", {"server": "https://[::1]x"})
    assert main(["reap", "--all"]) == 2
    assert "https://[::1]x is no address that could be asked" in capsys.readouterr().err


def test_server_that_speaks_no_tls_is_told_as_the_users_to_mend(api, tmp_path, capsys):
    server = api.url.replace("http:", "https:")
    change_kubeconfig(api, tmp_path, "cluster", {"server": server})
    assert main(["reap", "--all"]) == 2
    assert f"{server} does not speak TLS" in capsys.readouterr().err


def test_server_that_may_answer_later_is_tried_again_later(api, tmp_path, capsys):
    change_kubeconfig(api, tmp_path, "cluster", {"server": "http://127.0.0.1:1"})
    assert main(["reap", "--all"]) == 75
    assert "the cluster's API gives no answer" in capsys.readouterr().err


def test_proxy_of_a_kubeconfig_is_asked_in_the_servers_place(api, tmp_path):
    server = "http://cluster.example:8080"
    change_kubeconfig(api, tmp_path, "cluster", {"server": server, "proxy-url": api.url})
    connect().jobs("x=y")
    assert api.requests == [("GET", f"{server}{JOBS}")]


@pytest.mark.parametrize("namespace", ["", None])
def test_empty_namespace_of_a_kubeconfig_is_as_good_as_none(api, tmp_path, namespace):
    change_kubeconfig(api, tmp_path, "context", {"namespace": namespace})
    assert connect().namespace == "sightline"


def test_certificate_that_is_not_accepted_is_told_at_once(api):
    # As urllib3 and the client hand it on; OpenSSL names the reason in capitals.
    reason = "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate"
    error = urllib3.exceptions.MaxRetryError(None, "/", urllib3.exceptions.SSLError(reason))
    told = connect().explain(error)
    assert isinstance(told, UserError)
    assert str(told).startswith(f"{api.url} has a certificate that is not accepted (")
