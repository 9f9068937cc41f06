"""What a running step tells the person who watches it."""

from sightline.telemetry.progress import (
    announce,
    count,
    format_duration,
    print_answer,
    print_line,
    show_step,
    track,
)

__all__ = [
    "announce",
    "count",
    "format_duration",
    "print_answer",
    "print_line",
    "show_step",
    "track",
]
