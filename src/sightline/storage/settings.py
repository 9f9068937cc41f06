"""How to reach an S3 server: declared once, for every command, and handed on by environment.

Credentials are no settings. They come from the environment, the instance or a Kubernetes
secret, by boto3's own rules, and never stand in a parameter, a file of ours or a message.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, field_validator

from sightline.config import StepConfig, check_http_address

_PREFIX = "SIGHTLINE_"


class StorageConfig(StepConfig):
    """How S3 addresses are reached; folders need none of it.

    Each may also be given as an environment variable, such as `SIGHTLINE_S3_ENDPOINT_URL`; a
    flag wins over it.
    """

    s3_endpoint_url: str = ""
    """Address of an S3 server that is not AWS, such as `http://minio:9000`; empty: what boto3
    finds (`AWS_ENDPOINT_URL_S3`, its configuration file), else AWS."""
    s3_region: str = ""
    """Region that requests are signed for; empty: what boto3 finds, else `us-east-1`."""
    s3_addressing: Literal["auto", "path", "virtual"] = "auto"
    """Where a request names the bucket: in the path, or in the host name; auto: in the path where
    `s3_endpoint_url` is given."""
    s3_checksums: Literal["when_supported", "when_required"] = "when_supported"
    """When requests carry the checksums of newer S3; servers that refuse them need when_required.
    Sightline's own sha256 is verified in both cases."""
    s3_retries: int = Field(default=30, ge=0, le=100)
    """How often a request that failed for a passing reason is tried again, within the deadline;
    30 tries span about two minutes, so a store may be away for one."""
    s3_deadline_seconds: float = Field(default=180.0, gt=0)
    """How long, in seconds, one read or write may take with all its retries."""
    s3_connect_timeout_seconds: float = Field(default=5.0, gt=0)
    """How long, in seconds, to wait for a connection."""
    s3_read_timeout_seconds: float = Field(default=10.0, gt=0)
    """How long, in seconds, to wait for the next bytes of an answer."""
    s3_connections: int = Field(default=32, ge=1, le=1024)
    """How many requests of one process may be under way at once."""

    @field_validator("s3_endpoint_url")
    @classmethod
    def _check_address(cls, value: str) -> str:
        return check_http_address(value, "give them by AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Return the settings that hold in this process.

        Raises:
            SettingsError: If a variable's value is refused.
        """
        source = os.environ if environment is None else environment
        names = {name: _PREFIX + name.upper() for name in cls.model_fields}
        return cls.from_values({n: source[v] for n, v in names.items() if source.get(v)})


def use_storage_settings(values: Mapping[str, Any]) -> None:
    """Make settings hold in this process and in those it starts; what is not named stays.

    Raises:
        SettingsError: If a value is refused; then nothing changes.
    """
    present = StorageConfig.from_environment().model_dump()
    chosen = StorageConfig.from_values({**present, **values})
    for name in values:
        os.environ[_PREFIX + name.upper()] = str(getattr(chosen, name))
