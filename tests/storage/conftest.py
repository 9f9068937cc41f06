"""Storages that reach their bucket by a faulty way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fault_proxy import FaultProxy
from stepping_clock import SteppingClock

from sightline.storage.s3 import S3Storage
from sightline.storage.settings import StorageConfig


@pytest.fixture
def open_faulty(faults: FaultProxy, s3_bucket: str) -> Callable[..., S3Storage]:
    """Return `open(clock=…, **settings)`: the bucket by way of the proxy, without real waits."""

    def open_it(clock: Any = None, **settings: Any) -> S3Storage:
        values = {"s3_endpoint_url": faults.url, **settings}
        return S3Storage(s3_bucket, StorageConfig.from_values(values), clock or SteppingClock())

    return open_it
