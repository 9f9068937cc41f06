import threading

import pytest

from sightline.storage.local import LocalStorage
from sightline.training.recovery import recovery_of


@pytest.fixture
def slow_store(monkeypatch):
    """Return what lets a store take the state that it is given."""
    takes, upload = threading.Event(), LocalStorage.upload

    def slow(*arguments, **options):
        assert takes.wait(timeout=10)
        return upload(*arguments, **options)

    monkeypatch.setattr(LocalStorage, "upload", slow)
    return takes


@pytest.mark.parametrize("epoch_ends", [False, True])
def test_training_goes_on_while_a_slow_store_takes_a_save(epoch_ends, tmp_path, slow_store):
    def end_of(step):
        recovery.after_step(lambda: asked.append(step) or {"step": step}, step, epoch_ends)

    asked = []
    with recovery_of(str(tmp_path), "pretrain", {}, every_seconds=0) as recovery:
        for step in (1, 2, 3):
            end_of(step)
        slow_store.set()
        recovery.finish()
        end_of(4)
        recovery.finish()
        assert asked == [1, 4]
        assert recovery.checkpoints.latest().state == {"step": 4}
