"""Tensors in a file, as plain values that load safely."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sightline.errors import UserError


class ForeignFileError(Exception):
    """A file of something else; the text is what it holds, in brackets, or empty."""


def load_tensors(path: Path) -> Any:
    """Read tensors and plain values; nothing in the file is run.

    Raises:
        ForeignFileError: If it holds anything else. PyTorch's own words advise to load it all the
            same, and are not repeated.
        OSError: If it cannot be read.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # on foreign bytes the unpickler fails in any way, IndexError too
        if "allocate memory" in str(error):
            raise
        found = re.search(r"\bGLOBAL ([\w.]+)", str(error))
        raise ForeignFileError(f" (it holds {found[1]})" if found else "") from None


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
