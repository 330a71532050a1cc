"""Errors are either transient (worth another try) or terminal (a person must act)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import timedelta

# How the part of an error that helps begins.
TRY = "Try: "
# Metadata of a failed step: whether its error quotes a library, or the user's own code.
QUOTES = "quotes_foreign"


class MlopsError(Exception):
    """What happened, what was expected, and the command that helps.

    message: one sentence, what happened and where.
    expected: what would have been right, or None where the message says it.
    remedy: what to do next, usually a command, or None.
    """

    def __init__(self, message: str, *, expected: str | None = None, remedy: str | None = None):
        self.message = message
        self.expected = expected
        self.remedy = remedy
        parts = [message]
        if expected:
            parts.append(f"Expected: {expected}")
        if remedy:
            parts.append(f"{TRY}{remedy}")
        super().__init__("\n".join(parts))


class TransientError(MlopsError):
    """A lock, a conflict, a timeout: the same call may succeed later.

    after: how long the other side asks to be left alone, or None where it does not say.
    """

    def __init__(
        self,
        message: str,
        *,
        expected: str | None = None,
        remedy: str | None = None,
        after: timedelta | None = None,
    ):
        super().__init__(message, expected=expected, remedy=remedy)
        self.after = after


class TerminalError(MlopsError):
    """The same call will fail again until something changes."""


class UserError(TerminalError):
    """What the user gave or pointed at is wrong. The command line exits with 2."""


def quotes_foreign(error: BaseException) -> bool:
    """Whether an error quotes what a library, or the user's own code, has said: that may show values of rows.

    What the system says of files and connections shows none.
    """
    cause = error.__cause__
    while cause is not None:
        if not isinstance(cause, MlopsError | OSError) and str(cause) and str(cause) in str(error):
            return True
        cause = cause.__cause__
    return False
