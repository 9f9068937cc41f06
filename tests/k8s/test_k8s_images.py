import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IMAGES = ("train", "detect", "launch")


def stages(image):
    """Return an image's stages by name; the last is called `final`."""
    text = (ROOT / "images" / image / "Dockerfile").read_text(encoding="utf-8")
    parts = re.split(r"^FROM (\S+)(?: AS (\S+))?$", text, flags=re.MULTILINE)[1:]
    return {
        name or "final": (base, body)
        for base, name, body in zip(parts[::3], parts[1::3], parts[2::3], strict=True)
    }


@pytest.mark.parametrize("image", IMAGES)
def test_image_runs_as_a_user_that_is_nobody_and_says_what_it_is(image):
    base, body = stages(image)["final"]
    assert base == "${BASE}"
    user, group = re.search(r"^USER (\d+):(\d+)$", body, re.MULTILINE).groups()
    assert int(user) >= 10000
    assert int(group) >= 10000
    for label in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{label}=" in body
    assert "pip" not in body


@pytest.mark.parametrize("image", IMAGES)
def test_every_package_is_pinned_and_code_comes_after_packages(image):
    found = stages(image)
    for body in (body for _, body in found.values()):
        for command in re.findall(r"install (?:[^&]|\\\n)*", body):
            assert "constraints.txt" in command or "--no-index" in command
    body = found["final"][1]
    assert body.index("--from=packages") < body.index("--from=code")


def test_detect_shares_the_layers_of_train():
    train, detect = stages("train"), stages("detect")
    for name in ("requirements", "packages"):
        assert detect[name] == train[name]


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
