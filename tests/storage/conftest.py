"""A faulty way to the S3 server of the tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fault_proxy import FaultProxy
from stepping_clock import SteppingClock

from sightline.storage.s3 import S3Storage
from sightline.storage.settings import StorageConfig


@pytest.fixture(scope="session")
def proxy(s3_server: Any) -> Iterator[FaultProxy]:
    """Return the one proxy of the tests: a client of boto3 costs more than most of them."""
    proxy = FaultProxy(s3_server.endpoint_url)
    yield proxy
    proxy.stop()


@pytest.fixture
def faults(
    proxy: FaultProxy, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FaultProxy]:
    """Return a healthy proxy in front of `s3_bucket`'s server; storages go through it."""
    del s3_bucket  # it sets the rest of the environment
    monkeypatch.setenv("SIGHTLINE_S3_ENDPOINT_URL", proxy.url)
    proxy.restart()
    yield proxy
    proxy.restart()


@pytest.fixture
def open_faulty(faults: FaultProxy, s3_bucket: str) -> Callable[..., S3Storage]:
    """Return `open(clock=…, **settings)`: the bucket by way of the proxy, without real waits."""

    def open_it(clock: Any = None, **settings: Any) -> S3Storage:
        values = {"s3_endpoint_url": faults.url, **settings}
        return S3Storage(s3_bucket, StorageConfig.from_values(values), clock or SteppingClock())

    return open_it
