"""The one error a user is meant to see: what is wrong, and what to do next."""

from __future__ import annotations


class QuantctlError(Exception):
    """Nothing was changed: `message` names the thing, `hint` says what to do next."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n{self.hint}"
