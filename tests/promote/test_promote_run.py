import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from sightline.__main__ import main
from sightline.encoders import load_classifier
from sightline.errors import UserError
from sightline.promote import run as promote_module
from sightline.promote.champion import ChampionStore
from sightline.storage import NotFoundError


def test_first_champion_needs_only_the_floor(runs: Any):
    dataset = runs.dataset()
    decision = runs.promote("first", runs.finetune(dataset), dataset, gate_floor=1.0)
    assert decision["promoted"]
    assert decision["reason"] == (
        "Promoted: balanced_accuracy 1.0000 reaches the floor of 1, and there is no champion yet."
    )
    champion = runs.champion()
    assert champion["version"] == decision["challenger"]["version"] == decision["champion_after"]
    assert (champion["metric"], champion["value"], champion["interval"]) == (
        "balanced_accuracy",
        1.0,
        [1.0, 1.0],
    )
    assert champion["dataset_uri"] == dataset
    assert champion["report_uri"].endswith("first/report")
    assert champion["previous"] is None


def test_challenger_below_the_floor_leaves_no_champion(runs: Any):
    dataset = runs.dataset()
    always_dark = runs.finetune(dataset, wrong=10)
    decision = runs.promote("first", always_dark, dataset, gate_floor=0.6)
    assert not decision["promoted"]
    assert decision["reason"] == (
        "Not promoted: balanced_accuracy 0.5000 is below the floor of 0.6."
    )
    assert decision["champion_after"] is None
    assert not runs.models.exists()


def test_better_challenger_takes_the_place_and_keeps_its_predecessor(runs: Any):
    dataset = runs.dataset()
    first = runs.promote("first", runs.finetune(dataset, wrong=10), dataset)
    second = runs.promote("second", runs.finetune(dataset), dataset, gate_margin=0.5)
    assert second["promoted"]
    assert second["champion_before"]["on_this_test_split"]["value"] == pytest.approx(0.5)
    assert second["difference"]["value"] == pytest.approx(0.5)
    champion = runs.champion()
    assert champion["version"] == second["champion_after"]
    assert champion["previous"]["version"] == first["champion_after"]


def test_margin_not_reached_leaves_the_champion(runs: Any):
    dataset = runs.dataset()
    runs.promote("first", runs.finetune(dataset, wrong=10), dataset)
    before = runs.champion()
    decision = runs.promote("second", runs.finetune(dataset), dataset, gate_margin=0.51)
    assert not decision["promoted"]
    assert "better by 0.5000, less than the margin 0.51" in decision["reason"]
    assert runs.champion() == before


def test_worse_challenger_and_tie_leave_the_champion(runs: Any):
    dataset = runs.dataset()
    runs.promote("first", runs.finetune(dataset), dataset)
    before = runs.champion()
    worse = runs.promote("second", runs.finetune(dataset, wrong=10), dataset)
    assert "0.5000 against the champion's 1.0000 on the same test split is worse" in worse["reason"]
    tie = runs.promote("third", runs.finetune(dataset, scale=2.0), dataset)
    assert "equals it, and a tie promotes nobody" in tie["reason"]
    assert not worse["promoted"]
    assert not tie["promoted"]
    assert runs.champion() == before


def test_champion_is_scored_again_on_the_challengers_test_split(runs: Any):
    # The champion was perfect on its own split; on the new one, 5 of 20 labels contradict it.
    own = runs.dataset()
    runs.promote("first", runs.finetune(own), own)
    new = runs.dataset(swapped=5, seed=1)
    decision = runs.promote("second", runs.finetune(new, wrong=10), new, gate_metric="accuracy")
    before = decision["champion_before"]
    assert before["recorded_value"] == 1.0
    assert before["on_this_test_split"]["value"] == pytest.approx(15 / 20)
    # Swapping images 0..4 leaves 9 images labelled dark, which is all that "always dark" gets.
    assert decision["challenger"]["accuracy"]["value"] == pytest.approx(9 / 20)


def test_classes_in_another_order_are_the_same_classes(runs: Any):
    first = runs.dataset()
    runs.promote("first", runs.finetune(first), first)
    turned = runs.dataset(classes=("light", "dark"))
    decision = runs.promote("second", runs.finetune(turned, scale=2.0), turned)
    assert decision["champion_before"]["on_this_test_split"]["value"] == 1.0


def test_other_classes_cannot_be_compared(runs: Any):
    first = runs.dataset()
    runs.promote("first", runs.finetune(first), first)
    more = runs.dataset(classes=("dark", "gray", "light"))
    decision = runs.promote("second", runs.finetune(more), more)
    assert not decision["promoted"]
    assert "the champion knows the classes dark, light" in decision["reason"]
    assert "promote under another name" in decision["reason"]


def test_same_challenger_twice_changes_nothing_and_says_so(runs: Any):
    dataset = runs.dataset()
    finetune = runs.finetune(dataset)
    first = runs.promote("first", finetune, dataset)
    before = runs.champion()
    again = runs.promote("again", finetune, dataset)
    assert again["reason"] == (
        f"Not promoted: version {first['champion_after']} is the champion already."
    )
    assert runs.champion() == before


def test_champion_that_has_seen_the_test_images_is_told_of(runs: Any):
    dataset = runs.dataset()
    runs.promote("first", runs.finetune(dataset), dataset)
    same_split = runs.promote("second", runs.finetune(dataset, scale=2.0), dataset)
    assert same_split["champion_before"]["test_images_seen"] == 0
    turned = runs.dataset(turned=True)  # its first 4 of 20 test images were training images
    other_split = runs.promote("third", runs.finetune(turned, scale=3.0), turned)
    assert other_split["champion_before"]["test_images_seen"] == 4


def test_champion_outlives_the_run_it_came_from(runs: Any):
    dataset = runs.dataset()
    own_run = shutil.copytree(runs.finetune(dataset), runs.root / "first/finetune")
    runs.promote("first", str(own_run), dataset)
    shutil.rmtree(own_run)
    assert load_classifier(runs.champion()["model_uri"]).classes == ("dark", "light")


def test_skipped_finetuning_has_nothing_to_promote(runs: Any):
    finetune = runs.skipped("first", "finetune", "no labelled images were given")
    decision = runs.promote("first", finetune, "")
    assert not decision["promoted"]
    assert decision["reason"] == (
        "Not promoted: nothing to promote, finetune was skipped: no labelled images were given."
    )
    assert decision == json.loads((runs.root / "first/promote/decision.json").read_text())


def test_damaged_champion_is_named_and_the_pointer_stays(runs: Any):
    dataset = runs.dataset()
    runs.promote("first", runs.finetune(dataset, wrong=10), dataset)
    before = runs.champion()
    weights = Path(before["model_uri"]) / "classifier.pth"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    second = runs.finetune(dataset)
    with pytest.raises(UserError, match=r"cannot be used: .*altered.*champion.json stays as it is"):
        runs.promote("second", second, dataset)
    weights.unlink()
    with pytest.raises(UserError, match=r"cannot be used: .*is gone"):
        runs.promote("second", second, dataset)
    assert runs.champion() == before
    assert not (runs.root / "second/promote").exists()


def test_unreadable_champion_record_is_named(runs: Any):
    dataset = runs.dataset()
    runs.promote("first", runs.finetune(dataset), dataset)
    (runs.models / "classification/default/champion.json").write_text("{")
    with pytest.raises(UserError, match=r"champion.json is no champion's record"):
        runs.promote("second", runs.finetune(dataset, scale=2.0), dataset)


def test_lost_race_is_judged_again_against_the_new_champion(
    runs: Any, monkeypatch: pytest.MonkeyPatch
):
    dataset = runs.dataset()
    perfect, always_dark = runs.finetune(dataset), runs.finetune(dataset, wrong=10)
    store_model = promote_module.store_model

    def overtaken(*arguments: Any) -> None:
        store_model(*arguments)
        monkeypatch.setattr(promote_module, "store_model", store_model)
        runs.promote("fast", perfect, dataset)

    monkeypatch.setattr(promote_module, "store_model", overtaken)
    decision = runs.promote("slow", always_dark, dataset)
    assert not decision["promoted"]
    assert "is worse" in decision["reason"]
    assert runs.champion()["source_uri"] == perfect


def test_two_names_have_two_champions(runs: Any):
    dataset = runs.dataset()
    finetune = runs.finetune(dataset)
    runs.promote("a", finetune, dataset, name="a")
    assert runs.promote("b", finetune, dataset, name="b")["promoted"]


def test_challenger_scored_on_another_data_set_is_refused(runs: Any):
    finetune = runs.finetune(runs.dataset())
    with pytest.raises(UserError, match="give the data set that finetune used"):
        runs.promote("first", finetune, runs.dataset(seed=1))


def test_unfinished_finetuning_is_refused(runs: Any):
    with pytest.raises(NotFoundError, match="no finished result"):
        runs.promote("first", str(runs.root / "nothing"), runs.dataset())


def test_classifier_is_promoted_without_a_report_and_without_a_detector(runs: Any):
    dataset = runs.dataset()
    own = ["--finetune-uri", runs.finetune(dataset), "--labels-uri", dataset]
    own += ["--models-uri", str(runs.models), "--out-uri", str(runs.root / "promote")]
    assert main(["promote", *own]) == 0
    assert runs.champion()["report_uri"] == ""


@pytest.mark.parametrize(
    ("task", "needed"), [("classification", "finetune_uri"), ("detection", "detect_uri")]
)
def test_promotion_without_its_own_tasks_step_is_refused(
    runs: Any, task: str, needed: str, capsys: pytest.CaptureFixture[str]
):
    places = ["--models-uri", str(runs.models), "--out-uri", str(runs.root / "promote")]
    assert main(["promote", "--task", task, *places]) == 2
    assert f"sightline promote: {needed} is required" in capsys.readouterr().err
    assert not runs.models.exists()


def test_finished_decision_is_never_overwritten(runs: Any):
    dataset = runs.dataset()
    finetune = runs.finetune(dataset)
    runs.promote("first", finetune, dataset)
    with pytest.raises(UserError, match="never overwritten"):
        runs.promote("first", finetune, dataset)


def test_record_that_moved_between_reading_and_writing_is_not_lost(tmp_path: Path):
    store = ChampionStore(str(tmp_path), "classification", "default")
    assert store.move({"version": "a"}, None)
    seen = store.read()
    assert store.move({"version": "b"}, seen)
    assert not store.move({"version": "c"}, seen)
    assert store.read().version == "b"  # type: ignore[union-attr]
