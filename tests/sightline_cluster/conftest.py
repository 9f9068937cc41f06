import pytest
from fake_api import FakeApi

from sightline_cluster.task import make_task


@pytest.fixture
def task():
    """Return `task(step, run, **settings)`: a task that reads and writes a bucket."""

    def make(step="pretrain", run="first", storage=None, bucket="s3://clinic", **settings):
        uris = {
            "dataset_uri": f"{bucket}/datasets/1",
            "out_uri": f"{bucket}/runs/{run}/{step}",
        }
        if step != "pretrain":
            uris["encoder_uri"] = f"{bucket}/runs/{run}/pretrain"
        return make_task(step, uris, settings, storage or {})

    return make


@pytest.fixture
def api(tmp_path, monkeypatch):
    """Return a stand-in for the API of the cluster that KUBECONFIG names."""
    fake = FakeApi()
    monkeypatch.setenv("KUBECONFIG", str(fake.kubeconfig(tmp_path / "kubeconfig")))
    yield fake
    fake.stop()
