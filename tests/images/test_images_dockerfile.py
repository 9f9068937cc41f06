import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IMAGES = ("train", "detect", "launch")


@pytest.fixture(scope="module")
def stages():
    """Return each stage's base and instructions, by name."""
    text = (ROOT / "images" / "Dockerfile").read_text(encoding="utf-8")
    parts = re.split(r"^FROM (\S+) AS (\S+)$", text, flags=re.MULTILINE)[1:]
    return {
        name: (base, body)
        for base, name, body in zip(parts[::3], parts[1::3], parts[2::3], strict=True)
    }


@pytest.mark.parametrize("image", IMAGES)
def test_image_adds_files_and_facts_to_a_base_that_is_an_argument(stages, image):
    base, body = stages[image]
    assert base == "user"
    assert stages["user"][0] == "${BASE}"
    words = {line.split()[0] for line in body.splitlines() if re.match("[A-Z]", line)}
    assert words <= {"COPY", "ENV", "ARG", "LABEL", "CMD"}
    for label in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{label}=" in body


def test_images_run_as_a_user_that_is_nobody(stages):
    user, group = re.search(r"^USER (\d+):(\d+)$", stages["user"][1], re.MULTILINE).groups()
    assert int(user) >= 10000
    assert int(group) >= 10000


def test_every_package_is_pinned(stages):
    assert "ENV PIP_CONSTRAINT=/constraints.txt" in stages["installer"][1]
    for name in (f"{image}-packages" for image in IMAGES):
        base, body = stages[name]
        assert base in ("installer", "train-packages")
        assert body.index("pip") < body.index("sh require_pinned.sh")
    assert "--no-index" in stages["code"][1]


@pytest.mark.parametrize("image", IMAGES)
def test_code_comes_after_packages(stages, image):
    body = stages[image][1]
    assert body.index("-packages /opt") < body.index("--from=code")


def test_ultralytics_is_in_one_image_alone():
    import sys
    import tomllib

    sys.path.insert(0, str(ROOT / "images"))
    try:
        from requirements import requirements
    finally:
        sys.path.pop(0)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lists = {image: " ".join(requirements(image, project)) for image in IMAGES}
    assert [image for image, names in lists.items() if "ultralytics" in names] == ["detect"]
    assert "torch" not in lists["launch"]
    assert "kubeflow-training" in lists["launch"]


def make_images(tmp_path, builder, *arguments):
    """Run `make images` with an engine whose `build` is a shell script."""
    engine = tmp_path / "engine"
    engine.write_text(f"#!/bin/sh\n{builder}\n")
    engine.chmod(0o755)
    return subprocess.run(
        ["make", "images", f"DOCKER={engine}", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def test_engine_without_buildkit_is_told_before_anything_is_built(tmp_path):
    # As a docker without buildx does: an error to stderr, no help.
    done = make_images(tmp_path, 'echo "buildx is missing" >&2; exit 1')
    assert done.returncode != 0
    assert done.stderr.startswith("images: BuildKit is needed, and '")
    assert "docker-buildx" in done.stderr.splitlines()[0]
    done = make_images(tmp_path, "exit 1", "DOCKER=none-such")
    assert done.stderr.startswith("images: BuildKit is needed, and 'none-such build' has none")


@pytest.mark.parametrize(
    ("base", "told"),
    [
        ("python:3.11-slim-bookworm", ["base.name=python:3.11-slim-bookworm"]),
        ("mirror:5000/python:3.11", ["base.name=mirror:5000/python:3.11"]),
        ("python@sha256:4f5e", ["base.name=python", "base.digest=sha256:4f5e"]),
    ],
)
def test_images_say_what_they_are_built_on(tmp_path, base, told):
    calls = tmp_path / "calls"
    builder = f'if [ "$2" = --help ]; then echo --secret; else echo "$@" >> {calls}; fi'
    assert make_images(tmp_path, builder, f"BASE={base}").returncode == 0
    builds = [line for line in calls.read_text().splitlines() if line.startswith("build ")]
    assert len(builds) == len(IMAGES)
    for line in builds:
        words = line.split()
        labels = [words[i + 1] for i, word in enumerate(words) if word == "--label"]
        assert labels == [f"org.opencontainers.image.{label}" for label in told]
        assert f"BASE={base}" in words
