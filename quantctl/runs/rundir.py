"""The run directory: a name of its own, files that are its own, and one attempt at a time in it.

The lock (.lock, of node k .lock-node<k>) is a shared flock that whoever is part of the run holds: `quantctl exec`, the
command, which inherits the descriptor, and every process that imports megatron.core (runs.child). A next attempt
must get it exclusively first. So the lock lives as long as the trainer does, also when exec was killed. Exec's orderly
end gives up what it and the command hold: a daemon that the command left behind keeps nobody out.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from quantctl import output
from quantctl.errors import QuantctlError
from quantctl.runs import descent

NO_LOCKS = frozenset((errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP))
"""What a file system without locks says (Lustre mounted without flock)."""

_ELSEWHERE = "give another --run-dir, or remove the file"


def fresh(folder: Path, name: str = "") -> Path:
    """Make a run directory named after the time below `folder`, which no other run has, whoever starts meanwhile."""
    stem = f"{name}{datetime.now():%Y%m%d-%H%M%S}"
    folder.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        path = folder / (stem if number == 1 else f"{stem}-{number}")
        with contextlib.suppress(FileExistsError):
            path.mkdir()
            return path
    raise AssertionError


_OWN = (".lock", "manifest.json", "log.txt", "proof.json")
"""What an attempt writes."""


def check(run_dir: Path) -> Path:
    """The run directory's absolute path. Raises QuantctlError if it cannot be one."""
    for path in (run_dir, *run_dir.parents):
        if path.is_symlink() and not path.exists():
            raise QuantctlError(
                f"{path} is a link to {os.readlink(path)}, which does not exist",
                "make that folder, or give another --run-dir",
            )
        if os.path.lexists(path) and not path.is_dir():
            raise QuantctlError(f"{path} is no folder", "give another --run-dir")
    for name in _OWN:
        require_own(run_dir / name)
    proof = run_dir / "proof"
    if proof.is_symlink() or (proof.exists() and not proof.is_dir()):
        raise QuantctlError(f"{proof} is no folder", _ELSEWHERE)
    return run_dir.resolve()


def require_own(path: Path) -> None:
    """Raises QuantctlError for what is there and no plain file: a link or another name could be somebody else's, a FIFO
    could wait for ever.
    """
    if not os.path.lexists(path):
        return
    found = path.lstat()
    kinds = ((stat.S_ISLNK, "a link"), (stat.S_ISDIR, "a folder"), (lambda mode: not stat.S_ISREG(mode), "no file"))
    what = next((word for test, word in kinds if test(found.st_mode)), "a file with a second name")
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        raise QuantctlError(f"{path} is {what}, where a run keeps a file of its own", _ELSEWHERE)


def open_own(path: Path, flags: int) -> int:
    """Open or make a file of the run's own, as it is; the descriptor. Raises QuantctlError if that cannot be."""
    require_own(path)
    try:
        return os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise QuantctlError(f"cannot write {path}: {error.strerror}", "give another --run-dir") from error


def lock_name(node: int) -> str:
    return f".lock-node{node}" if node else ".lock"


def _holder(descriptor: int) -> object:
    """Who says in the lock file that it holds it; {} for an empty one. Raises ValueError for a file of others."""
    raw = os.pread(descriptor, 4096, 0)
    record = json.loads(raw) if raw.strip() else {}
    if not isinstance(record, dict) or (record and not record.keys() >= {"pid", "host"}):
        raise ValueError
    return record


def _in_use(run_dir: Path, descriptor: int) -> QuantctlError:
    record = _holder(descriptor)
    pids = descent.holders(descriptor)
    if pids:
        named = ", ".join(f"{pid} ({descent.name_of(pid)})" for pid in pids)
        hint = f"wait for it, end it (kill {' '.join(map(str, pids))}), or give another --run-dir"
        return QuantctlError(f"another run is writing to {run_dir}: process {named}", hint)
    host = record.get("host") if isinstance(record, dict) else None
    where = f", started on {host}" if host else ""
    return QuantctlError(f"another run is writing to {run_dir}{where}", "wait for it, or give another --run-dir")


def _lock(run_dir: Path, path: Path, descriptor: int) -> None:
    """Get it alone, which nobody can while a part of an earlier attempt lives; then share it with what is started."""
    try:
        _holder(descriptor)
    except ValueError as error:
        raise QuantctlError(f"{path} is not a run's lock", _ELSEWHERE) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # not atomic: another attempt that gets in between is the one that runs
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _in_use(run_dir, descriptor) from error
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        if descent.lives(_holder(descriptor)):
            raise _in_use(run_dir, descriptor) from error
        output.say(f"{run_dir}: no locks on this file system; see to it that no other run writes there")
    if not (path.exists() and os.path.samestat(path.stat(), os.fstat(descriptor))):
        raise QuantctlError(f"{run_dir} was removed while this run began", "run it again")


@contextmanager
def owned(run_dir: Path, node: int, made: bool = False) -> Iterator[int]:
    """One attempt at a time in a run directory, which the nodes of one run share: each holds a lock of its own.

    Yields the lock's descriptor, which keeps the directory as long as any process has it. A directory that was `made`
    for this attempt, here or by the caller, is gone again if nothing came into it.
    """
    made = made or not run_dir.exists()
    run_dir.mkdir(parents=True, exist_ok=True)
    path = run_dir / lock_name(node)
    descriptor = open_own(path, os.O_RDWR)
    try:
        _lock(run_dir, path, descriptor)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(descent.as_record(descent.own())).encode(), 0)
        try:
            yield descriptor
        finally:
            if made and os.listdir(run_dir) == [path.name]:
                path.unlink()
                run_dir.rmdir()
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, 0)
            with contextlib.suppress(OSError):
                # for all who inherited it: what the command left behind is no part of the run
                fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)
