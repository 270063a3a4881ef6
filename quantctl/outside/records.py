"""Records that a run left, read as what they must be: a regular file of a sane size, JSON, every field of its type.

A record's shape is data (`Fields`, `Each`, `Named` over the kinds of values below); what does not fit is said with its
place: `attempts[0].exit_status is text, not a whole number`. Fields that a shape does not name are left alone.
"""

from __future__ import annotations

import errno
import json
import math
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from quantctl.errors import QuantctlError

LARGEST = 16 * 2**20
"""Bytes of a JSON record; those that quantctl writes have a thousandth."""
_LONGEST_WORD = 500
_HINT = "leave it out, or run it again in another run directory"


class BadRecord(QuantctlError):
    """A file that is not the record that it should be; `reason` says it without the folder."""

    def __init__(self, path: Path, reason: str) -> None:
        self.reason = f"{path.name}: {reason}"
        super().__init__(f"{path}: {reason}", _HINT)


class _Misfit(Exception):
    """Where in a value, and what it should be."""


@dataclass(frozen=True)
class Kind:
    """A single value."""

    name: str
    fits: Callable[[Any], bool]


@dataclass(frozen=True)
class Each:
    """A list."""

    of: Shape


@dataclass(frozen=True)
class Named:
    """An object with names of its own choosing."""

    of: Shape


@dataclass(frozen=True)
class Fields:
    """An object with these names; the optional ones may be absent or null."""

    required: Mapping[str, Shape]
    optional: Mapping[str, Shape] = field(default_factory=dict)


Shape = Kind | Each | Named | Fields


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _is_number(value: Any) -> bool:
    return _is_whole(value) or (isinstance(value, float) and math.isfinite(value) and abs(value) < 1e100)


TEXT = Kind("text", lambda value: isinstance(value, str))
WORD = Kind(
    f"printable text of at most {_LONGEST_WORD} characters",
    lambda value: isinstance(value, str) and value.isprintable() and len(value) <= _LONGEST_WORD,
)
TRUTH = Kind("true or false", lambda value: isinstance(value, bool))
WHOLE = Kind("a whole number of 64 bits", _is_whole)
COUNT = Kind("a count of 64 bits, from 0 up", lambda value: _is_whole(value) and value >= 0)
NUMBER = Kind("a finite number", _is_number)

_SEEN = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}


def _seen(value: Any) -> str:
    return "null" if value is None else _SEEN.get(type(value), type(value).__name__)


def _misfit(where: str, value: Any, wanted: str) -> _Misfit:
    return _Misfit(f"{where or 'it'} is {_seen(value)}, not {wanted}")


def _check(value: Any, shape: Shape, where: str) -> None:
    if isinstance(shape, Kind):
        if not shape.fits(value):
            raise _misfit(where, value, shape.name)
    elif isinstance(shape, Each):
        if not isinstance(value, list):
            raise _misfit(where, value, "a list")
        for index, item in enumerate(value):
            _check(item, shape.of, f"{where}[{index}]")
    elif not isinstance(value, dict):
        raise _misfit(where, value, "an object")
    elif isinstance(shape, Named):
        for name, item in value.items():
            _check(name, WORD, f"a name in {where or 'it'}")
            _check(item, shape.of, f"{where}.{name}".lstrip("."))
    else:
        _check_fields(value, shape, where)


def _check_fields(value: Mapping[str, Any], shape: Fields, where: str) -> None:
    for name, inner in shape.required.items():
        place = f"{where}.{name}".lstrip(".")
        if name not in value:
            raise _Misfit(f"{place} is missing")
        _check(value[name], inner, place)
    for name, inner in shape.optional.items():
        if value.get(name) is not None:
            _check(value[name], inner, f"{where}.{name}".lstrip("."))


def _parse(raw: bytes | str) -> Any:
    try:
        return json.loads(raw if isinstance(raw, str) else raw.decode("utf-8"))
    except RecursionError:
        raise _Misfit("it is nested too deeply") from None
    except UnicodeDecodeError:
        raise _Misfit("it is no UTF-8") from None
    except json.JSONDecodeError as error:
        raise _Misfit(f"it is no JSON (line {error.lineno}, column {error.colno})") from None
    except ValueError:
        raise _Misfit("it holds a number of thousands of digits") from None


def is_json(raw: bytes | str) -> bool:
    """Whether this is the text of a JSON value, be it one that cannot be taken."""
    try:
        json.loads(raw)
    except json.JSONDecodeError:
        return False
    except (RecursionError, ValueError):
        return True
    return True


def parse(raw: bytes | str, shape: Shape, path: Path, where: str = "") -> Any:
    """The JSON value in `raw`, of the shape asked for. Raises BadRecord of `path`, at `where` in it."""
    try:
        value = _parse(raw)
        _check(value, shape, "")
    except _Misfit as error:
        raise BadRecord(path, f"{where}{error}") from None
    return value


def read(path: Path, shape: Shape) -> Any:
    """The JSON record at `path`. Raises BadRecord that says what is wrong, and where."""
    with open_regular(path, LARGEST) as file:
        raw = file.read(LARGEST + 1)
    return parse(raw, shape, path)


_NOT_REGULAR = (
    (stat.S_ISDIR, "it is a folder"),
    (stat.S_ISFIFO, "it is a pipe"),
    (stat.S_ISSOCK, "it is a socket"),
    (stat.S_ISCHR, "it is a device"),
    (stat.S_ISBLK, "it is a device"),
)


def open_regular(path: Path, largest: int, pipes: bool = False) -> IO[bytes]:
    """A regular file of at most `largest` bytes, open for reading. Never waits, as for the writer of a pipe.

    With `pipes` also a pipe that has a writer, as `<(...)` of a shell is one; one without a writer is empty.

    Raises BadRecord for whatever else stands at `path`, or cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        # a socket cannot be opened at all
        reason = "it is a socket" if error.errno == errno.ENXIO else (error.strerror or str(error)).lower()
        raise BadRecord(path, reason) from None
    found = os.fstat(descriptor)
    is_pipe = pipes and stat.S_ISFIFO(found.st_mode)
    reasons = [reason for is_one, reason in _NOT_REGULAR if is_one(found.st_mode) and not is_pipe]
    if found.st_size > largest:
        reasons.append(f"it has {found.st_size:,} bytes, more than the {largest:,} that are read")
    if reasons:
        os.close(descriptor)
        raise BadRecord(path, reasons[0])
    os.set_blocking(descriptor, True)
    return os.fdopen(descriptor, "rb")
