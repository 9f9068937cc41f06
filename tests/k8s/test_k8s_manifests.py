from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]


def test_base_lists_every_manifest_beside_it():
    base = ROOT / "k8s" / "base"
    listed = yaml.safe_load((base / "kustomization.yaml").read_text())["resources"]
    assert sorted(listed) == sorted(
        path.name for path in base.glob("*.yaml") if path.name != "kustomization.yaml"
    )


def test_namespace_enforces_restricted_pods():
    namespace = yaml.safe_load((ROOT / "k8s" / "base" / "namespace.yaml").read_text())
    labels = namespace["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_images_page_names_the_image_of_every_step():
    from components import images

    page = (ROOT / "images" / "README.md").read_text()
    rows = [line.split("|") for line in page.splitlines() if line.startswith("| `")]
    told = {step.strip(): row[1].strip(" `") for row in rows for step in row[2].split(",")}
    declared = {}
    for path in (ROOT / "components").glob("*.py"):
        for constant in ("TRAIN", "DETECT"):
            if f"base_image=images.{constant}" in path.read_text():
                declared[path.stem] = getattr(images, constant).partition(":")[0]
    assert told == declared
