"""Settings and addresses of the removal of what nobody needs any more."""

from __future__ import annotations

from pydantic import Field

from sightline.config import Place, StepConfig, StepUris


class GcUris(StepUris):
    """Where pipeline runs put everything."""

    root_uri: Place
    """What runs were given as `out`: the folder that holds `datasets`, `runs` and `models`."""


class GcConfig(StepConfig):
    """What counts as recent, and whether anything is removed."""

    delete: bool = False
    """Remove what is listed; off is a dry run that changes nothing."""
    keep_days: float = Field(default=30.0, ge=0)
    """Runs, data set versions and models whose newest file is younger than this stay; must be
    longer than the longest step, which may store nothing before its end."""
    keep_runs: int = Field(default=5, ge=0)
    """This many of the newest finished runs stay, however old they are. A run of which a step was
    begun and did not end is not counted; `keep_days` protects it while it is recent."""
    grace_hours: float = Field(default=24.0, ge=0)
    """Nothing younger than this is touched, shards and unfinished writes included; must be 12
    hours longer than the longest run of prepare, which stores shards, or takes ones that are up to
    12 hours old, before the version that names them."""
