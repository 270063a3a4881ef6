"""What the history says of one operation, and the format it says it in.

The record is the file operation.json at the top of the operation's commit: no path, command line or message can be
mistaken for it, whatever bytes they hold. The commit's message is for people and never read. Histories that quantctl
0.1 wrote have the same data in the last line of the message.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

from quantctl.errors import QuantctlError
from quantctl.output import printable

FILE = "operation.json"
_LAST_LINE = b"quantctl-operation: "


@dataclass(frozen=True)
class FileState:
    """The content of one file at one moment: a git blob and the permission bits."""

    blob: str
    mode: int


@dataclass(frozen=True)
class FileRecord:
    """What one operation did to one file."""

    path: str
    before: FileState
    after: FileState
    original: FileState | None
    """As its owner made it, before quantctl first touched it; carried from record to record. None where the file held
    quantctl's patches before this history began."""
    edited: tuple[str, str] | None = None
    """The blob quantctl had left and the one it found next, if somebody edited the patched file in between."""


@dataclass(frozen=True)
class Operation:
    """One change of a tree, as its commit tells it."""

    id: str
    time: int
    """Seconds since the epoch."""
    kind: str
    """patch, set, restore, rewind, undo or save."""
    command: str
    selectors: dict[str, str]
    """What the tree's selectors say after it; empty when it holds none."""
    files: tuple[FileRecord, ...]
    megatron: str
    quantctl: str
    target: str = ""
    """The operation that an undo took back."""

    @property
    def short(self) -> str:
        return self.id[:10]


def encode(operation: Operation) -> bytes:
    """operation.json; bytes of a command line that are no UTF-8 are escaped in it like any other."""
    data = asdict(operation)
    for derived in ("id", "time"):
        del data[derived]
    return json.dumps(data, indent=1).encode()


def message(operation: Operation) -> str:
    """The commit's message."""
    values = "".join(f"{role}: {value}\n" for role, value in operation.selectors.items())
    return f"{printable(operation.command)}\n\n{values or 'no selectors'}\n"


def data_of_commit(commit: bytes) -> bytes:
    """The data in a commit object of quantctl 0.1; empty where there is none."""
    last = commit.rstrip(b"\n").rpartition(b"\n")[2]
    return last[len(_LAST_LINE) :] if last.startswith(_LAST_LINE) else b""


def decode(commit: str, time: int, data: bytes) -> Operation:
    """The operation of a commit. Raises QuantctlError when the data is not what `encode` writes."""
    try:
        fields = json.loads(data)
        operation = Operation(
            id=commit,
            time=time,
            **{name: text(fields[name]) for name in ("kind", "command", "megatron", "quantctl", "target")},
            selectors={text(role): text(value) for role, value in fields["selectors"].items()},
            files=tuple(map(_record, fields["files"])),
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise QuantctlError(
            f"commit {commit} of the history holds no operation of quantctl ({type(error).__name__}: {error})"
        ) from error
    return operation


def text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.50} is no text")
    return value


def file_state(value: dict[str, Any]) -> FileState:
    """Raises TypeError, ValueError or KeyError for anything else."""
    blob, mode = text(value["blob"]), value["mode"]
    if not isinstance(mode, int) or not 0 <= mode <= 0o7777:
        raise ValueError(f"{mode!r:.50} are no permission bits")
    if len(blob) not in (40, 64) or not set(blob) <= set("0123456789abcdef"):
        raise ValueError(f"{blob!r:.80} names no blob")
    return FileState(blob, mode)


def path_inside(value: Any) -> str:
    """A path below a tree. Raises ValueError for one that leads out of it."""
    path = PurePosixPath(text(value))
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"{value!r:.80} is no path inside a tree")
    return str(path)


def _record(value: dict[str, Any]) -> FileRecord:
    edited: Sequence[Any] | None = value["edited"]
    return FileRecord(
        path_inside(value["path"]),
        file_state(value["before"]),
        file_state(value["after"]),
        None if value["original"] is None else file_state(value["original"]),
        (text(edited[0]), text(edited[1])) if edited else None,
    )


def latest_records(operations: Sequence[Operation]) -> dict[str, FileRecord]:
    """Per path the newest record of `operations` (newest first): what quantctl left, and what was there at first."""
    return {record.path: record for operation in reversed(operations) for record in operation.files}


def states_before(operations: Sequence[Operation]) -> dict[str, FileState]:
    """Per path the content before the oldest of `operations` (newest first)."""
    return {record.path: record.before for operation in operations for record in operation.files}
