import csv
import math

from sightline.pretrain.curves import figure_of_curves, write_history
from sightline.pretrain.watch import EpochRecord

HISTORY = [
    EpochRecord(
        epoch=1,
        loss=3.3,
        learning_rate=1e-3,
        images_per_second=40.0,
        data_wait_ratio=0.1,
        embedding_std=0.5,
        effective_rank=9.0,
        seconds=2.0,
    ),
    EpochRecord(
        epoch=2,
        loss=2.9,
        learning_rate=5e-4,
        images_per_second=80.0,
        data_wait_ratio=0.2,
        embedding_std=0.6,
        effective_rank=12.0,
        seconds=1.0,
        knn_accuracy=0.7,
    ),
]
CHANCE = math.log(31)


def test_the_table_has_a_line_an_epoch(tmp_path):
    write_history(HISTORY, tmp_path / "history.csv")
    with (tmp_path / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    # Nobody looked at kNN accuracy after the first epoch.
    assert [row.pop("knn_accuracy") for row in rows] == ["", "0.7"]
    assert [{name: float(value) for name, value in row.items()} for row in rows] == [
        {
            "epoch": 1,
            "loss": 3.3,
            "learning_rate": 1e-3,
            "images_per_second": 40,
            "data_wait_ratio": 0.1,
            "embedding_std": 0.5,
            "effective_rank": 9,
            "seconds": 2,
        },
        {
            "epoch": 2,
            "loss": 2.9,
            "learning_rate": 5e-4,
            "images_per_second": 80,
            "data_wait_ratio": 0.2,
            "embedding_std": 0.6,
            "effective_rank": 12,
            "seconds": 1,
        },
    ]


def test_the_picture_has_loss_and_learning_rate_over_the_epochs():
    losses, rates = figure_of_curves(HISTORY, CHANCE).axes
    assert losses.get_title(loc="left") == "NT-Xent loss, nats"
    assert rates.get_title(loc="left") == "Learning rate"
    assert losses.get_lines()[0].get_xydata().tolist() == [[1, 3.3], [2, 2.9]]
    assert rates.get_lines()[0].get_xydata().tolist() == [[1, 1e-3], [2, 5e-4]]


def test_a_dashed_line_shows_the_loss_without_signal_inside_the_picture():
    losses = figure_of_curves(HISTORY, CHANCE).axes[0]
    dashed = losses.get_lines()[1]
    assert dashed.get_linestyle() == "--"
    assert list(dashed.get_ydata()) == [CHANCE, CHANCE]
    assert losses.get_ylim()[1] > CHANCE
    assert [text.get_text() for text in losses.texts] == ["no signal: 3.43"]
