"""The journal of the operation under way: what a later command needs to finish it, and signals that wait for it."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

from quantctl.backup import FileState, Operation
from quantctl.files import discard_temporary, write_new


@dataclass(frozen=True)
class Entry:
    """One file of the operation."""

    path: str
    before: FileState
    after: FileState


@dataclass(frozen=True)
class Journal:
    """An operation between its commit and the moment the history names it."""

    operation: str
    previous: str | None
    """What the history's ref pointed to before."""
    files: tuple[Entry, ...]

    @staticmethod
    def path(state: Path) -> Path:
        return state / "journal.json"

    @classmethod
    def begin(cls, state: Path, operation: Operation, previous: str | None) -> None:
        """Write the journal, durably."""
        entries = tuple(Entry(record.path, record.before, record.after) for record in operation.files)
        journal = cls(operation.id, previous, entries)
        write_new(cls.path(state), json.dumps(asdict(journal), indent=1).encode())

    @classmethod
    def read(cls, state: Path) -> Journal | None:
        """The journal that a killed process left, or None."""
        try:
            data = json.loads(cls.path(state).read_bytes())
        except FileNotFoundError:
            return None
        entries = (
            Entry(entry["path"], FileState(**entry["before"]), FileState(**entry["after"])) for entry in data["files"]
        )
        return cls(data["operation"], data["previous"], tuple(entries))

    @classmethod
    def end(cls, state: Path) -> None:
        """Remove it. One that cannot be removed does no harm: it says what is so already."""
        with suppress(OSError):
            cls.path(state).unlink()
            discard_temporary(cls.path(state))


@contextmanager
def signals_wait() -> Iterator[None]:
    """SIGINT and SIGTERM take effect behind the block, which takes a fraction of a second (in the main thread)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []

    def remember(number: int, _: FrameType | None) -> None:
        arrived.append(number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    handlers = {number: signal.signal(number, remember) for number in numbers}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if arrived:
        signal.raise_signal(arrived[0])
