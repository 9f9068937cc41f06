"""What the tests of `sightline pretrain` as a process start from."""

import functools
import os

import pytest
from pretrain_command import Run, result_of


@pytest.fixture(autouse=True)
def _logs(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTEST_LOGS", str(tmp_path))


@pytest.fixture(scope="module")
def uninterrupted(labelled_dataset, tmp_path_factory):
    """Return `result(workers, **settings)`: what a run that nothing disturbs leaves, made once."""

    @functools.cache
    def result(workers, **settings):
        folder = tmp_path_factory.mktemp("uninterrupted")
        os.environ["PYTEST_LOGS"] = str(folder)
        Run(labelled_dataset, folder / "out", workers, **settings).wait()
        return result_of(folder / "out")

    return result
