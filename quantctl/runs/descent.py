"""Processes told apart: which one a record means, and which ones descend from a command.

A number names a process only on its machine, in its PID namespace, and until it is used again. A record therefore holds
the boot, the namespace and the start time as well, and a signal goes through a descriptor of the process that was
looked at. All of it is Linux's /proc; elsewhere nothing is found, and callers fall back on the process they started.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_PROC = Path("/proc")
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


@dataclass(frozen=True)
class Identity:
    """One process, as no other one is or will be."""

    pid: int
    """In its own PID namespace."""
    start: int
    """Clock ticks from the machine's boot to its start."""
    namespace: str
    boot: str
    host: str


@dataclass(frozen=True)
class _Stat:
    parent: int
    state: str
    start: int


def _stat(pid: int | str) -> _Stat | None:
    """Of a process in our namespace; None when there is none."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        # the name stands in parentheses and may hold anything
        fields = (_PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
        return _Stat(int(fields[1]), fields[0].decode(), int(fields[19]))
    return None


def _namespace(pid: int | str) -> str:
    with contextlib.suppress(OSError):
        return os.readlink(_PROC / str(pid) / "ns" / "pid")
    return ""


def _boot() -> str:
    with contextlib.suppress(OSError):
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    return ""


def _inner_pid(pid: int) -> int:
    """The number that a process of ours has in its own namespace."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = (_PROC / str(pid) / "status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("NSpid:")).split()[-1])
    return pid


def _identity(pid: int, number: int) -> Identity | None:
    stat = _stat(pid)
    if stat is None or stat.state in "ZX":
        return None
    return Identity(number, stat.start, _namespace(pid), _boot(), os.uname().nodename)


def own() -> Identity | None:
    return _identity(os.getpid(), os.getpid())


def as_record(identity: Identity | None) -> dict[str, Any]:
    return asdict(identity) if identity else {}


def lives(record: object) -> bool:
    """Whether the process that wrote `record` (`as_record` of `own`) runs, as far as this machine and namespace see."""
    if not isinstance(record, dict) or not isinstance(record.get("pid"), int):
        return False
    here = _identity(record["pid"], record["pid"])
    return here is not None and as_record(here) == {name: record.get(name) for name in as_record(here)}


def name_of(pid: int) -> str:
    """The command of a process, for people."""
    with contextlib.suppress(OSError):
        return (_PROC / str(pid) / "comm").read_text(errors="replace").strip()
    return "?"


def _processes() -> Iterator[int]:
    with contextlib.suppress(OSError):
        yield from (int(name) for name in os.listdir(_PROC) if name.isdecimal())


def descendants(ancestor: int) -> list[int]:
    """The processes below `ancestor` in our namespace's numbers, those in namespaces of their own included."""
    children: dict[int, list[int]] = {}
    for pid in _processes():
        if stat := _stat(pid):
            children.setdefault(stat.parent, []).append(pid)
    found: list[int] = []
    below = [ancestor]
    while below:
        below = [child for pid in below for child in children.get(pid, []) if child not in found]
        found += below
    return found


def matches(pid: int, record: object) -> bool:
    """Whether the process `pid` of our namespace wrote `record`: {"pid": as it saw itself, "start": ...}."""
    stat = _stat(pid)
    return (
        isinstance(record, dict)
        and stat is not None
        and (record.get("pid"), record.get("start")) == (_inner_pid(pid), stat.start)
    )


def signal_one(pid: int, record: object, number: int) -> bool:
    """Send a signal to `pid` if it is still the process of `record`; whether it was sent."""
    try:
        descriptor = os.pidfd_open(pid) if sys.platform == "linux" else -1
    except OSError:
        return False
    try:
        # the descriptor holds on to one process: what is true of the number now is true of it
        if descriptor < 0 or not matches(pid, record):
            return False
        signal.pidfd_send_signal(descriptor, number)
        return True
    except OSError:
        return False
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def holders(file: int) -> list[int]:
    """The processes, other than this one, that have the file of an open descriptor open, as far as we may look."""
    wanted = os.fstat(file)
    found = []
    for pid in _processes():
        with contextlib.suppress(OSError):
            if pid != os.getpid() and any(
                os.path.samestat(os.stat(entry.path), wanted) for entry in os.scandir(_PROC / str(pid) / "fd")
            ):
                found.append(pid)
    return sorted(found)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        import ctypes

        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(option, ctypes.c_ulong(value), 0, 0, 0)


def adopt(orphans: bool) -> None:
    """Whether processes whose parents end become this one's children, and so stay its descendants."""
    _prctl(_PR_SET_CHILD_SUBREAPER, int(orphans))


def reap(but: int) -> None:
    """Let adopted children that have ended go; `but` is waited for elsewhere."""
    with contextlib.suppress(ChildProcessError, AttributeError):
        while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if ended.si_pid == but:
                return
            os.waitpid(ended.si_pid, os.WNOHANG)


def end_with(parent: int) -> None:
    """In a new child: SIGTERM when `parent` ends, however it ends (its thread that started this one, precisely)."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(128 + signal.SIGTERM)
