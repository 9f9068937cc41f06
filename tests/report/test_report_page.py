import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from sightline.errors import UserError
from sightline.report import figures
from sightline.report.config import ReportConfig, ReportUris
from sightline.report.facts import DatasetFacts, read_datasets
from sightline.report.results import Results
from sightline.report.run import run
from sightline.storage import NotFoundError

QUICK = ReportConfig(bootstrap_samples=200)
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Outline(HTMLParser):
    """What a browser would load or run, and whether every element is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text: list[str] = []
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [
            v or "" for k, v in attrs if k in ("src", "href", "xlink:href", "srcset")
        ]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    @property
    def left_open(self) -> list[str]:
        return self._open


def read(folder: Path | str) -> Outline:
    outline = Outline()
    outline.feed((Path(folder) / "report.html").read_text())
    return outline


def test_page_asks_no_network_and_runs_no_script(finished_report: Path):
    page = read(finished_report)
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert page.addresses
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    html = (finished_report / "report.html").read_text()
    assert not re.search(r"@import|url\((?!#)", html)
    assert "default-src 'none'" in html


def test_page_is_well_formed_with_every_section_that_its_menu_names(finished_report: Path):
    page = read(finished_report)
    assert page.left_open == []
    html = (finished_report / "report.html").read_text()
    for anchor in re.findall(r'<a href="#([a-z]+)">', html):
        assert html.count(f'<section id="{anchor}">') == 1


def test_every_chart_is_valid_and_told_to_those_who_cannot_see_it(finished_report: Path):
    html = (finished_report / "report.html").read_text()
    charts = re.findall(r'<svg class="chart".*?</svg>', html, re.DOTALL)
    # 2 accuracy, 1 gaps, 3 ROC, 1 learning, 2 pretraining, 1 temperature, 3 maps, 2 classes' PR.
    assert len(charts) == 15
    for chart in charts:
        root = ElementTree.fromstring(chart)
        assert root.attrib["role"] == "img"
        assert len(root.attrib["aria-label"]) > 10
        assert "<metadata" not in chart


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_few_epochs_are_numbered_by_whole_numbers(epochs: int):
    numbers = list(range(1, epochs + 1))
    chart = figures.pretraining_loss(numbers, [2.0] * epochs, 4.0)
    before_label = chart[: chart.index(">epoch<")]
    assert re.findall(r">([0-9.]+)</text>", before_label) == [str(number) for number in numbers]


def test_page_is_the_same_when_made_again(
    finished_report: Path, write_run: Callable[..., ReportUris]
):
    uris = write_run()
    run(uris, QUICK)
    again = (Path(uris.out_uri) / "report.html").read_text()
    first = (finished_report / "report.html").read_text()
    own, other = str(Path(uris.out_uri).parent), str(finished_report.parent)
    assert again.replace(own, other) == first


def test_numbers_on_the_page_are_those_of_the_steps(finished_report: Path):
    # 24 test images, 1 and 4 of them wrong: 23/24 = 95.8 %, 20/24 = 83.3 %, the gap 12.5 points.
    text = " ".join(" ".join(read(finished_report).text).split())
    assert "95.8 %" in text
    assert "83.3 %" in text
    assert "+12.5 points" in text
    # As pretraining counted it, and not the ln(2 * 32 - 1) = 4.14 of batches that keep groups.
    assert "chance 4.05" in text


def test_what_was_asked_is_said_in_sentences_before_the_numbers(finished_report: Path):
    html = (finished_report / "report.html").read_text()
    section = html[html.index('<section id="asked">') : html.index('<section id="protocols">')]
    # Three splits of 2 classes x 3 groups x 4 images.
    assert "How good is a classifier, given 72 images with labels (version " in section
    assert (
        "Trained: resnet18 pretrained for 5 epochs, a classifier fine-tuned for 3 epochs and a "
        "detector trained for 3 epochs, with seed 0."
    ) in section
    assert section.index("How good") < section.index("Settings of pretrain")
    assert '<a href="#asked">What was asked</a>' in html


def test_counts_of_one_are_said_in_the_singular(
    write_run: Callable[..., ReportUris], monkeypatch: pytest.MonkeyPatch
):
    def read_one(results: Results) -> list[DatasetFacts]:
        return [replace(facts, images=1, groups=1) for facts in read_datasets(results)]

    monkeypatch.setattr("sightline.report.run.read_datasets", read_one)
    uris = write_run()
    run(uris, QUICK)
    text = " ".join(" ".join(read(uris.out_uri).text).split())
    assert "1 image, 1 group." in text
    assert not re.search(r"\b1 (images|groups|files|epochs)\b", text)


def test_label_of_chance_stands_clear_above_its_line():
    chart = figures.pretraining_loss([1, 2, 3], [4.5, 4.0, 3.5], 4.84)
    line = re.search(r'd="M [\d.]+ ([\d.]+) \s*L [\d.]+ \1[^"]*"[^>]*stroke-dasharray', chart)
    label = re.search(r"translate\([\d.]+ ([\d.]+)\)[^>]*>chance 4.84<", chart) or re.search(
        r' y="([\d.]+)"[^>]*>chance 4.84<', chart
    )
    assert line
    assert label
    # The descent of 9 pt letters is about 2 pt; the label's baseline is further up than that.
    assert float(line[1]) - float(label[1]) > 4


def test_shadow_shows_that_a_table_goes_on_to_the_right(finished_report: Path):
    html = (finished_report / "report.html").read_text()
    rule = re.search(r"\n\.scroll \{(.*?)\}", html, re.DOTALL)
    assert rule
    # The cover moves with the table and the shadow stays; at the end the one hides the other.
    assert re.search(
        r"linear-gradient.*no-repeat local.*linear-gradient.*no-repeat scroll", rule[1], re.DOTALL
    )
    # An opaque row would hide the shadow.
    assert "tr.baseline td { background: rgb(29 39 51 / 0.025); }" in html


def test_macro_averages_stand_beside_the_weighted_ones(finished_report: Path):
    text = " ".join(" ".join(read(finished_report).text).split())
    table = text[text.index("Macro averages") :]
    header = "Protocol Balanced accuracy Macro precision Macro F1 Majority class"
    assert header in table
    assert "Balanced accuracy is the macro recall" in table
    # Fine-tuned answers one of 2 x 12 images wrong: recall (11/12 + 1) / 2, precision
    # (1 + 12/13) / 2, F1 (22/23 + 24/25) / 2.
    row = re.search(r"Fine-tuned (\d.*?) A dot is the accuracy", table)
    assert row
    shares = re.findall(r"(\d+\.\d) %", re.sub(r"\d+\.\d (to|–) \d+\.\d %", "", row[1]))
    assert shares == ["95.8", "96.2", "95.8"]


def test_hostile_class_names_are_shown_and_do_nothing(write_run: Callable[..., ReportUris]):
    names = ("<script>alert(1)</script>", 'a"b $\\frac{1}{2}$ | `c` </svg>', "x" * 300)
    uris = write_run(classes=names)
    run(uris, QUICK)
    page = read(uris.out_uri)
    assert page.left_open == []
    assert "script" not in page.tags
    assert any(names[0] in text for text in page.text)
    assert any(names[1] in text for text in page.text)
    card = (Path(uris.out_uri) / "model_card.md").read_text()
    assert "<script" not in card


def test_demo_scale_is_said_first_and_names_the_counts(write_run: Callable[..., ReportUris]):
    uris = write_run(pretrain_images=80)
    summary = run(uris, QUICK)
    reasons = [
        "classification is tested on 24 images, fewer than 200",
        "classification is tested on 6 groups, fewer than 30",
        "pretraining saw 80 images, fewer than 1,000",
    ]
    assert summary["demo_scale"] == {"is_demo_scale": True, "reasons": reasons}
    html = (Path(uris.out_uri) / "report.html").read_text()
    banner = html.index("Demo scale: do not trust these numbers.")
    assert banner < html.index('<section id="answer">')


def test_enough_images_and_groups_are_no_demo_scale(write_run: Callable[..., ReportUris]):
    uris = write_run(groups_per_class=15, images_per_group=7)  # 210 images of 30 groups
    assert run(uris, QUICK)["demo_scale"] == {"is_demo_scale": False, "reasons": []}
    assert "do not trust" not in (Path(uris.out_uri) / "report.html").read_text()


def test_detection_counts_for_demo_scale_too(write_run: Callable[..., ReportUris]):
    config = ReportConfig(
        bootstrap_samples=200, demo_below_test_images=241, demo_below_test_groups=0
    )
    reasons = run(write_run(groups_per_class=15, images_per_group=9), config)["demo_scale"][
        "reasons"
    ]
    assert reasons == ["detection is tested on 240 images, fewer than 241"]


def test_unknown_groups_are_said_beside_the_intervals(write_run: Callable[..., ReportUris]):
    uris = write_run(groups_known=0)
    run(uris, QUICK)
    html = (Path(uris.out_uri) / "report.html").read_text()
    section = html[html.index('<section id="protocols">') : html.index('<section id="gaps">')]
    assert "Groups (patients) are known for no image" in section


def test_stand_in_groups_are_named_in_the_users_words(write_run: Callable[..., ReportUris]):
    uris = write_run()
    run(uris, ReportConfig(bootstrap_samples=200, groups_are="runs of slices, a stand-in"))
    assert (
        "Groups are runs of slices, a stand-in." in (Path(uris.out_uri) / "report.html").read_text()
    )


def test_report_without_labels_says_so_and_still_shows_detection(
    write_run: Callable[..., ReportUris],
):
    uris = write_run(skip_labels=True)
    summary = run(uris, QUICK)
    assert summary["protocols"] == {}
    assert summary["skipped_steps"] == {
        "evaluate": "no labelled images were given",
        "finetune": "no labelled images were given",
    }
    text = " ".join(read(uris.out_uri).text)
    assert "Nothing was classified: no labelled images were given." in text
    assert "0.450" in text


def test_report_without_boxes_says_so(write_run: Callable[..., ReportUris]):
    uris = write_run(skip_boxes=True)
    assert run(uris, QUICK)["detection"] == {}
    assert "No boxes were given." in " ".join(read(uris.out_uri).text)


def test_report_on_pretraining_alone_is_still_a_page(write_run: Callable[..., ReportUris]):
    uris = write_run(skip_labels=True, skip_boxes=True)
    run(uris, QUICK)
    assert read(uris.out_uri).left_open == []


def test_summary_is_json_and_equals_the_metrics(finished_report: Path):
    summary = json.loads((finished_report / "summary.json").read_text())
    assert summary == json.loads((finished_report / "metrics.json").read_text())
    assert summary["protocols"]["finetuned"]["accuracy"]["value"] == pytest.approx(23 / 24)
    assert "roc" not in summary["protocols"]["finetuned"]
    assert summary["detection"]["pretrained"]["map50_95"]["value"] == 0.45
    assert len(summary["datasets"]["labels"]["digest"]) == 64
    assert summary["versions"]["sightline"]


def test_model_card_has_what_a_reader_of_one_looks_for(finished_report: Path):
    card = (finished_report / "model_card.md").read_text()
    for heading in (
        "Models", "Intended use", "Data", "Training", "Evaluation", "Limits", "Loading", "Licence"
    ):  # fmt: skip
        assert f"## {heading}\n" in card
    assert "| Fine-tuned | 48 | 95.8 % (" in card
    assert "(baseline)" in card
    assert "AGPL-3.0" in card
    assert "Demo scale: do not trust these numbers." in card
    for row in (line for line in card.splitlines() if line.startswith("|")):
        assert row.endswith("|")


def test_step_that_has_not_finished_is_named(write_run: Callable[..., ReportUris]):
    uris = write_run()
    (Path(uris.finetune_uri) / "artifacts.json").unlink()
    with pytest.raises(NotFoundError, match=r"no finished result under .*/finetune"):
        run(uris, QUICK)
    assert not Path(uris.out_uri).exists()


def test_altered_predictions_are_refused(write_run: Callable[..., ReportUris]):
    uris = write_run()
    path = Path(uris.finetune_uri) / "predictions_finetuned.csv"
    path.write_text(path.read_text().replace("0.9", "0.8"))
    with pytest.raises(UserError, match=r"predictions_finetuned.csv was altered"):
        run(uris, QUICK)


def test_finished_report_is_never_overwritten(write_run: Callable[..., ReportUris]):
    uris = write_run(skip_labels=True, skip_boxes=True)
    run(uris, QUICK)
    with pytest.raises(UserError, match="never overwritten"):
        run(uris, QUICK)
