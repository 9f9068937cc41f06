"""The images of `make images`, as a container engine that has them runs them.

DOCKER may name the engine's command. Where there is no engine, or an image was not built, the tests
are skipped and say so.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from sightline_cluster import images

ROOT = Path(__file__).parents[2]
DOCKER = os.environ.get("DOCKER") or "docker"
IMAGES = {"train": images.TRAIN, "detect": images.DETECT, "launch": images.LAUNCH}
COMPILERS = ("cc", "gcc", "g++", "c++", "clang", "ld", "as", "make", "go", "rustc", "nvcc")
# Runs inside an image, with nothing but its own Python.
PROBE = """
import importlib.metadata, importlib.util, json, os, shutil, sys
places = ("/root/.cache", "/var/cache/apt/archives", "/opt/venv/bin/pip")
caches = [p for p in places if os.path.exists(p)]
def holds(place):
    return not os.path.isdir(place) or any(files for _, _, files in os.walk(place))
roots = ("/", "/opt", "/opt/venv", "/opt/sightline")
modules = ("torch", "ultralytics", "kubernetes", "kfp", "sightline")
packages = importlib.metadata.distributions()
print(json.dumps({
    "uid": os.getuid(),
    "gid": os.getgid(),
    "compilers": [name for name in sys.argv[1].split(",") if shutil.which(name)],
    "caches": [p for p in caches if holds(p)],
    "writable": [p for p in roots if os.access(p, os.W_OK)],
    "modules": [m for m in modules if importlib.util.find_spec(m)],
    "packages": {d.name: d.version for d in packages if "/opt/" in str(d.locate_file(""))},
}))
"""


def docker(*arguments):
    return subprocess.run(
        [DOCKER, *arguments], check=True, capture_output=True, text=True, timeout=300
    ).stdout


def run(name, *command):
    """Run a command as a cluster would: nothing writable but /tmp; and without a network."""
    alone = ["--rm", "--read-only", "--network=none", "--tmpfs=/tmp", "--entrypoint="]
    return docker("run", *alone, IMAGES[name], *command)


@pytest.fixture(scope="module", params=IMAGES)
def name(request):
    if shutil.which(DOCKER) is None:
        pytest.skip("needs docker, or an engine that DOCKER names")
    found = subprocess.run(
        [DOCKER, "image", "inspect", IMAGES[request.param]], capture_output=True, text=True
    )
    if found.returncode:
        pytest.skip(f"needs {IMAGES[request.param]} (make images): {found.stderr.strip()}")
    return request.param


@pytest.fixture(scope="module")
def facts(name):
    return json.loads(run(name, "python", "-c", PROBE, ",".join(COMPILERS)))


def test_image_runs_as_nobody_and_can_write_nowhere_of_its_own(facts):
    assert facts["uid"] >= 10000
    assert facts["gid"] >= 10000
    assert facts["writable"] == []


def test_image_holds_neither_compilers_nor_caches(facts):
    assert facts["compilers"] == []
    assert facts["caches"] == []


def test_image_holds_what_its_steps_need_and_ultralytics_is_in_one_alone(name, facts):
    beside = {"train": {"torch"}, "detect": {"torch", "ultralytics"}, "launch": {"kubernetes"}}
    assert set(facts["modules"]) == {"sightline", "kfp", *beside[name]}


def test_every_package_is_the_one_that_constraints_pin(facts):
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    pinned = {_plain(package): version for package, version in pins.items()}
    found = {_plain(package): version for package, version in facts["packages"].items()}
    assert found.pop("sightline")
    assert len(found) > 20
    assert found.items() <= pinned.items()


def test_image_says_what_it_is(name):
    config = json.loads(docker("image", "inspect", IMAGES[name]))[0]["Config"]
    labels = {
        k.removeprefix("org.opencontainers.image."): v
        for k, v in config["Labels"].items()
        if ".opencontainers." in k
    }
    digest = labels.pop("base.digest", "sha256:")  # where the base was named by one
    assert digest.startswith("sha256:")
    assert labels.pop("base.name")
    assert set(labels) == {"title", "description", "licenses", "version", "revision"}
    assert labels["version"] == IMAGES[name].partition(":")[2]
    assert ("AGPL" in labels["licenses"]) == (name == "detect")
    assert config["User"] == "10001:10001"


def test_image_works_where_nothing_but_tmp_can_be_written_to(name):
    few = ["--patients", "12", "--unlabelled-patients", "4"]
    works = {
        "train": ("sightline", "demo-data", "--out-uri", "/tmp/demo", *few),
        "detect": ("python", "-c", "import ultralytics; print('a detector')"),
        "launch": ("sightline-cluster", "--help"),
    }
    assert run(name, *works[name])


def _plain(package):
    return package.lower().replace("_", "-").replace(".", "-")
