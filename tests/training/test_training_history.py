from sightline.training.history import (
    ClassifierEpoch,
    ClassifierTraining,
    chosen_epochs,
    write_classifier_history,
)


def epoch(protocol, number, val_loss=0.5, val_accuracy=0.75):
    return ClassifierEpoch(protocol, number, 1.0, 0.5, val_loss, val_accuracy, 0.01)


def test_history_holds_the_epochs_of_each_training_in_lines_that_end_like_all_our_files(tmp_path):
    trainings = {
        "linear": ClassifierTraining(2, 0.75, [epoch("linear", 1), epoch("linear", 2)]),
        "linear_random": ClassifierTraining(1, 0.75, [epoch("linear_random", 1)]),
    }
    write_classifier_history(tmp_path, trainings)
    assert (tmp_path / "history.csv").read_bytes().decode() == (
        "protocol,epoch,train_loss,train_accuracy,val_loss,val_accuracy,learning_rate\n"
        "linear,1,1.0,0.5,0.5,0.75,0.01\n"
        "linear,2,1.0,0.5,0.5,0.75,0.01\n"
        "linear_random,1,1.0,0.5,0.5,0.75,0.01\n"
    )
    assert chosen_epochs(trainings) == {
        "linear": {"epoch": 2, "val_accuracy": 0.75},
        "linear_random": {"epoch": 1, "val_accuracy": 0.75},
    }


def test_accuracy_ranks_first_and_the_lower_loss_among_equals():
    epochs = [
        epoch("linear", 1, val_loss=0.1, val_accuracy=0.7),
        epoch("linear", 2, val_loss=0.9, val_accuracy=0.8),
        epoch("linear", 3, val_loss=0.4, val_accuracy=0.8),
    ]
    assert [one.epoch for one in sorted(epochs, key=lambda one: one.rank)] == [1, 2, 3]
