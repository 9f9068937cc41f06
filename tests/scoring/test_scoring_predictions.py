import numpy as np
import pytest

from sightline.data import Sample
from sightline.errors import UserError
from sightline.scoring import read_predictions, score_classification, write_predictions

CLASSES = ("a class, with a comma", "b")


def sample(number, label):
    return Sample(f"dir/{number}.png", f"g{number}", "test", "0", "s.tar", 0, 1, 8, 8, label)


def test_every_number_can_be_computed_again_from_the_file(tmp_path):
    labels = np.array([0, 1, 1, 0])
    samples = [sample(number, CLASSES[label]) for number, label in enumerate(labels)]
    first = np.array([0.1, 1 / 3, np.nextafter(1 / 3, 1), 0.7])
    probabilities = np.stack([first, 1 - first], axis=1)
    path = tmp_path / "predictions_linear.csv"
    write_predictions(path, samples, CLASSES, probabilities)

    header = path.read_text().splitlines()[0]
    assert header == 'name,group,label,predicted,"p_a class, with a comma",p_b'
    found = read_predictions(path)
    assert found.names == ("dir/0.png", "dir/1.png", "dir/2.png", "dir/3.png")
    assert found.groups == ("g0", "g1", "g2", "g3")
    assert found.predicted.tolist() == [1, 1, 1, 0]
    assert (found.probabilities == probabilities).all()
    scored = [
        score_classification(truth, shares, CLASSES, groups, labels_used=1)
        for truth, shares, groups in (
            (labels, probabilities, [s.group for s in samples]),
            (found.labels, found.probabilities, found.groups),
        )
    ]
    assert scored[0] == scored[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "got an empty file"),
        ("name,label\nx,a\n", "needs the columns name, group, label, predicted and p_<class>"),
        ("name,group,label,predicted,p_a\nx,g,b,a,1\n", "does not fit its own header: 'b'"),
        ("name,group,label,predicted,p_a\nx,g,a,a,many\n", "does not fit its own header"),
        ("name,group,label,predicted,p_a,p_b\nx,g,a,a,1\n", "does not fit its own header"),
    ],
)
def test_file_of_another_kind_is_refused(tmp_path, text, message):
    path = tmp_path / "predictions_linear.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_predictions(path)
