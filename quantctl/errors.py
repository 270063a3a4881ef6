"""The one error a user is meant to see, what is wrong and what to do next; and the exit statuses that errors become."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Callable, Iterable
from typing import NoReturn

FINE, DIFFERS, REFUSED, BUG, INTERRUPTED = 0, 1, 2, 3, 130
"""Exit statuses of the command line and of the programs beside it."""


class QuantctlError(Exception):
    """Nothing was changed: `message` names the thing, `hint` says what to do next."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n{self.hint}"


_SHOWN = 60
"""Characters of a wrong value that are repeated."""
_LISTED = 8
"""So many choices stand in a sentence; of more, where all of them are."""


_ALIKE, _NEARLY = 0.7, 0.05
"""The least likeness of a word that may have been meant, and how far behind the likeliest one it may be."""


def quoted(value: str) -> str:
    """A wrong value for a message: on one line, without control characters, not endless."""
    return repr(value if len(value) <= _SHOWN else f"{value[:_SHOWN]}...")


def near(value: str, choices: Iterable[str]) -> list[str]:
    """Up to three of the choices that may have been meant, the likeliest first; case and - or _ do not matter."""
    from difflib import SequenceMatcher  # only a misspelling pays for it

    def plain(text: str) -> str:
        return text[:_SHOWN].lower().replace("-", "_")

    wanted = plain(value)
    match = SequenceMatcher(b=wanted)
    likeness = {}
    for choice in choices:
        match.set_seq1(plain(choice))
        begins = len(wanted) > 2 and plain(choice).startswith(wanted)
        likeness[choice] = max(match.ratio(), 0.8 * begins)
    best = max(likeness.values(), default=0.0)
    found = [choice for choice in likeness if likeness[choice] >= max(_ALIKE, best - _NEARLY)]
    return sorted(found, key=lambda choice: -likeness[choice])[:3]


def suggestion(value: str, choices: Iterable[str], listing: str = "") -> str:
    """What to do about a name that is none of `choices`: what may have been meant, then the choices.

    `listing` is a sentence about where all of them are; without it they are listed, if they are not too many.
    """
    choices = list(choices)
    meant = near(value, choices)
    listed = f"choose from: {', '.join(choices)}" if len(choices) <= _LISTED or not listing else ""
    guess = " or ".join(filter(None, [", ".join(meant[:-1]), *meant[-1:]]))
    where = "; ".join(filter(None, [listed, listing]))
    return f"did you mean {guess}? {where}" if guess else where


def unknown(kind: str, value: str, choices: Iterable[str], listing: str = "") -> QuantctlError:
    """The error for a name that is none of `choices`; see `suggestion`."""
    return QuantctlError(f"unknown {kind} {quoted(value)}", suggestion(value, choices, listing))


def _say(text: str) -> None:
    alone = os.environ.get("WORLD_SIZE", "1") in ("", "1")
    where = "" if alone or "RANK" not in os.environ else f"[rank {os.environ['RANK']}] "
    sys.stderr.write(f"quantctl: {where}{text}\n")


_WAYS_OUT = {
    errno.ENOENT: "check the path; the folder that it names must be there",
    errno.ENOTDIR: "a file stands where a folder is needed: name another place",
    errno.EEXIST: "a file stands where a folder is needed: name another place",
    errno.EISDIR: "a folder stands there: name a file",
    errno.EACCES: "ls -ld shows whose it is and what its mode allows; or name another place",
    errno.EPERM: "ls -ld shows whose it is and what its mode allows; or name another place",
    errno.EROFS: "that file system is read only: name another place",
    errno.ENOSPC: "make room there, or name another place, then run it again",
    errno.EDQUOT: "make room there, or name another place, then run it again",
    errno.ENAMETOOLONG: "give a shorter name",
}
"""What to do about a system call that failed where no command has words of its own for it."""


def exit_with(program: Callable[[], int | None]) -> NoReturn:
    """Run `program` and exit with what it returns (None is 0); errors become the statuses that quantctl documents.

    QuantctlError is 2 unless it has its own `status`, a failing system call is 2; any other exception is a bug here and
    shows its traceback.
    """
    try:
        status = program() or FINE
    except QuantctlError as error:
        _say(error.message)
        if error.hint:
            sys.stderr.write(f"  {error.hint}\n")
        status = getattr(error, "status", REFUSED)
    except KeyboardInterrupt as error:
        _say(f"interrupted: {error}" if str(error) else "interrupted")
        status = INTERRUPTED
    except BrokenPipeError:
        # the reader of our output left; nobody is there to be told
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = FINE
    except OSError as error:
        _say(f"{error.filename or 'the operating system'}: {error.strerror or error}")
        if hint := _WAYS_OUT.get(error.errno or 0):
            sys.stderr.write(f"  {hint}\n")
        status = REFUSED
    except Exception:
        traceback.print_exc()
        from quantctl.outside.masking import masked

        said = " ".join(masked(sys.argv))
        _say(f"this is a bug in quantctl. Please report the lines above with the command: {said}")
        status = BUG
    sys.exit(status)
