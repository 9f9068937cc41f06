import shutil
from pathlib import Path
from typing import Any

import pytest

from sightline.__main__ import main
from sightline.errors import UserError
from sightline.promote.config import RollbackConfig, RollbackUris
from sightline.promote.rollback import run


def roll_back(runs: Any) -> dict[str, Any]:
    return run(RollbackUris(models_uri=str(runs.models)), RollbackConfig())


def test_champion_moves_back_to_its_predecessor_byte_for_byte(runs: Any):
    dataset = runs.dataset()
    first = runs.promote("first", runs.finetune(dataset, wrong=10), dataset)
    path = runs.models / "classification/default/champion.json"
    before = path.read_bytes()
    second = runs.promote("second", runs.finetune(dataset), dataset)
    assert second["promoted"]
    moved = roll_back(runs)
    assert (moved["from"], moved["to"]) == (second["champion_after"], first["champion_after"])
    assert path.read_bytes() == before


def test_first_champion_has_no_predecessor_and_the_command_ends_with_2(
    runs: Any, capsys: pytest.CaptureFixture[str]
):
    dataset = runs.dataset()
    runs.promote("first", runs.finetune(dataset), dataset)
    assert main(["rollback", "--models-uri", str(runs.models)]) == 2
    assert "is the first champion" in capsys.readouterr().err
    assert main(["rollback", "--models-uri", str(runs.models), "--name", "other"]) == 2
    assert "no champion under" in capsys.readouterr().err


def test_one_can_roll_back_again_and_promote_again(runs: Any):
    dataset = runs.dataset()
    bad = runs.finetune(dataset, wrong=10)
    good = runs.finetune(dataset)
    first = runs.promote("1", bad, dataset)["champion_after"]
    second = runs.promote("2", good, dataset)["champion_after"]
    assert roll_back(runs)["to"] == first
    assert runs.promote("3", good, dataset)["champion_after"] == second
    assert roll_back(runs)["to"] == first
    with pytest.raises(UserError, match="no predecessor"):
        roll_back(runs)


def test_predecessor_without_its_weights_is_not_restored(runs: Any):
    dataset = runs.dataset()
    first = runs.promote("first", runs.finetune(dataset, wrong=10), dataset)
    runs.promote("second", runs.finetune(dataset), dataset)
    before = runs.champion()
    shutil.rmtree(runs.models / "classification/default/versions" / first["champion_after"])
    with pytest.raises(UserError, match=r"weights of version .* cannot be used"):
        roll_back(runs)
    assert runs.champion() == before


def test_altered_history_is_refused(runs: Any):
    dataset = runs.dataset()
    runs.promote("first", runs.finetune(dataset, wrong=10), dataset)
    runs.promote("second", runs.finetune(dataset), dataset)
    record = runs.models / "classification/default" / runs.champion()["previous"]["record"]
    record.write_text(record.read_text().replace("0.5", "0.9"))
    with pytest.raises(UserError, match="was altered after it was written"):
        roll_back(runs)
    Path(record).unlink()
    with pytest.raises(UserError, match="is gone"):
        roll_back(runs)
