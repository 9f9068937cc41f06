"""Writing tensors to a file, as plain values that load safely."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sightline.errors import UserError


def save_tensors(content: Mapping[str, Any], path: Path) -> None:
    """Write tensors and plain values; equal ones are equal bytes, whatever the file is called.

    Raises:
        UserError: If the file cannot be written, as on a full disk.
    """
    try:
        # To an open file: torch's own writer keeps no reason, and writes the name into the file.
        with path.open("wb") as file:
            torch.save(dict(content), file)
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__
        reason = cause.strerror if isinstance(cause, OSError) else str(error).splitlines()[0]
        raise UserError(f"cannot write {path}: {reason}") from None
