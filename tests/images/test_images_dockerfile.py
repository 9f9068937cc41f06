import re
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
