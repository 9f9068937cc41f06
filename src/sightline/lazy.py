"""A package's names without its modules: each module loads when one of its names is first used.

A step's settings live in the package of its training code, and must not bring torch along.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy_exports(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Return what a package assigns to `__getattr__` (PEP 562).

    Args:
        package: The package's `__name__`.
        homes: For each name that the package offers, the module of the package that holds it.
    """

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{homes[name]}"), name)

    return load
