import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sightline.errors import UserError
from sightline.gc.config import GcConfig, GcUris
from sightline.gc.run import Collection
from sightline.promote.config import RollbackConfig, RollbackUris
from sightline.promote.rollback import run as roll_back


@pytest.fixture
def runs_of_root(runs: Any, tmp_path: Path, finetuned: Callable[..., str]) -> Any:
    """Return runs whose data sets lie below the root, as a pipeline's do."""
    return type(runs)(tmp_path, tmp_path / "datasets", finetuned)


def remove_all_that_is_not_needed(root: Path) -> set[str]:
    now = time.time() + 100 * 86400
    found = Collection(GcUris(root_uri=str(root)), GcConfig(delete=True, keep_runs=0), now)
    return {entry["name"] for entry in found.collect()["removed"]}


def test_champion_is_scored_and_rolled_back_after_a_gc(runs_of_root: Any, tmp_path: Path):
    runs = runs_of_root
    # Steps are shared by the digests of their data sets, so these are of this test alone.
    first_set, second_set = runs.dataset(seed=3), runs.dataset(seed=4)
    unneeded = runs.dataset(seed=2)
    first = runs.promote("1", runs.finetune(first_set, wrong=10), first_set)["champion_after"]
    second = runs.promote("2", runs.finetune(second_set), second_set)["champion_after"]
    assert remove_all_that_is_not_needed(tmp_path) == {
        f"datasets/{unneeded.rsplit('/', 1)[1]}",
        "datasets/shards",
    }
    again = runs.promote("3", runs.finetune(second_set, scale=2.0), second_set)
    assert again["champion_before"]["version"] == second
    assert again["champion_before"]["on_this_test_split"]["value"] == 1.0
    # Its data set is there, so promote can tell which test images it has seen: none.
    assert again["champion_before"]["test_images_seen"] == 0
    rolled = roll_back(RollbackUris(models_uri=str(runs.models)), RollbackConfig())
    assert (rolled["from"], rolled["to"]) == (second, first)
    remove_all_that_is_not_needed(tmp_path)
    with pytest.raises(UserError, match="no data set version under"):
        runs.promote("4", runs.finetune(first_set), second_set)
    judged = runs.promote("5", runs.finetune(first_set), first_set)
    assert judged["champion_before"]["on_this_test_split"]["value"] == pytest.approx(0.5)
    assert judged["promoted"]


def test_model_that_is_stored_already_counts_as_new_when_it_is_promoted_again(
    runs_of_root: Any,
):
    runs = runs_of_root
    dataset = runs.dataset(seed=3, turned=True)
    runs.promote("1", runs.finetune(dataset, wrong=10), dataset)
    second = runs.promote("2", runs.finetune(dataset), dataset)["champion_after"]
    roll_back(RollbackUris(models_uri=str(runs.models)), RollbackConfig())
    model = runs.models / "classification/default/versions" / second
    for path in model.iterdir():
        os.utime(path, (0, 0))
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    assert runs.promote("3", runs.finetune(dataset), dataset)["promoted"]
    assert time.time() - (model / "artifacts.json").stat().st_mtime < 600
    assert {path.name: path.read_bytes() for path in model.iterdir()} == before
