"""Errors that the user can mend."""

from __future__ import annotations

from collections.abc import Sequence


class UserError(Exception):
    """Something the user can mend: one clear line, exit code 2, no traceback."""


class SettingsError(UserError):
    """Settings that were refused; the message lists every problem at once."""

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems) or (message,)
        """The problems one by one."""
