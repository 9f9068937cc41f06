"""What a running step tells the person who watches it."""

from sightline.telemetry.progress import announce, format_duration, track

__all__ = ["announce", "format_duration", "track"]
