"""One command of a run: its output to the terminal and the log, its end, and a wish to stop early."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any

from quantctl.errors import QuantctlError
from quantctl.output import say
from quantctl.runs import descent, rundir

STOP = "stop"
"""RUN_DIR/stop: whoever makes this file asks the run to save and end. It works from every node and every container."""

_FORGOTTEN = "QUANTCTL_STOP_FORGOTTEN"
"""Environment: the run directory whose old stop file is gone; who finds it set leaves the file alone."""

_DRAIN = 2.0
"""Seconds that output is waited for behind the command's end."""

_LOOK = 1.0
"""Seconds between two looks for the stop file."""

_EARLY = b"exiting program "
"""How Megatron-LM says that it stops before --train-iters (a signal, --exit-interval, --exit-duration-in-mins)."""


@dataclass(frozen=True)
class Ending:
    """How a command ended."""

    status: int
    """As a shell would give it."""
    early: bool
    """It was asked to stop, or said itself that it stops before the end."""


def forget_stop(run_dir: Path, node: int, starts_another: bool = False) -> None:
    """Node 0 removes an earlier attempt's stop file: one that is made from now on is a wish to end this attempt.

    `quantctl launch` does it first of all, and tells the programs that it starts to leave the file alone: itself as
    srun's task, and `quantctl exec`, which does it otherwise.
    """
    here = str(run_dir.resolve())
    if os.environ.pop(_FORGOTTEN, None) != here and node == 0:
        (run_dir / STOP).unlink(missing_ok=True)
    if starts_another:
        os.environ[_FORGOTTEN] = here


class _Stopping:
    """Passes a wish to stop on to the training processes of this node."""

    def __init__(self, run_dir: Path, node: int) -> None:
        self.run_dir, self.node = run_dir, node
        self.asked = False
        self.child: subprocess.Popen[bytes] | None = None

    def started(self, child: subprocess.Popen[bytes]) -> None:
        """There is something to stop from now on."""
        self.child = child
        if self.asked:
            child.send_signal(signal.SIGTERM)

    def _records(self) -> Iterator[dict[str, Any]]:
        """What the processes left that imported megatron.core on this node."""
        for path in (self.run_dir / "proof").glob("import-*.json"):
            with contextlib.suppress(OSError, ValueError):
                record = json.loads(path.read_text())
                if isinstance(record, dict) and record.get("node") == self.node:
                    yield record

    def _signal_trainers(self, below: int) -> list[int]:
        """SIGTERM to the descendants of `below` that train; a record alone could mean a stranger."""
        with contextlib.suppress(OSError):
            records = list(self._records())
            pairs = [(pid, record) for pid in descent.descendants(below) for record in records]
            return [pid for pid, record in pairs if descent.signal_one(pid, record, signal.SIGTERM)]
        return []

    def ask(self, *_: object) -> None:
        """SIGTERM to the processes that train, which save and end when they have Megatron's --exit-signal-handler.

        torchrun between them and us is left alone: on a SIGTERM of its own it kills them after 30 seconds, which is
        less than a large checkpoint takes. Before any of them has started, or when asked again, the command gets it.
        """
        if self.child is not None and (self.asked or not self._signal_trainers(os.getpid())):
            self.child.send_signal(signal.SIGTERM)
        self.asked = True

    def end_survivors(self) -> list[int]:
        """SIGTERM to what still trains though the command has ended, as when torchrun itself was killed."""
        return self._signal_trainers(os.getpid())


def _wait(child: subprocess.Popen[bytes]) -> int | None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        return child.wait(_LOOK)
    return None


class _Output:
    """Copies a command's two streams to ours and to the log."""

    def __init__(self, child: subprocess.Popen[bytes], log: IO[bytes]) -> None:
        self.log = log
        self.early = False
        streams = ((child.stdout, sys.stdout.buffer), (child.stderr, sys.stderr.buffer))
        self.threads = [threading.Thread(target=self._copy, args=pair, daemon=True) for pair in streams]
        for thread in self.threads:
            thread.start()

    def _copy(self, source: IO[bytes], terminal: IO[bytes]) -> None:
        for line in source:
            self.early = self.early or _EARLY in line
            # a full disk costs lines of the log, not the run
            with contextlib.suppress(OSError):
                self.log.write(line)
                self.log.flush()
            try:
                terminal.write(line)
                terminal.flush()
            except OSError:
                # the reader of our output left (`| head`, a lost connection): the run and its log go on
                os.dup2(os.open(os.devnull, os.O_WRONLY), terminal.fileno())

    def drain(self) -> None:
        """A process that the command left behind may hold its output open; the run is over all the same."""
        for thread in self.threads:
            thread.join(_DRAIN)


def require(program: str) -> None:
    """Raises QuantctlError if there is no such program, while the run directory is as it was."""
    if shutil.which(program) is not None:
        return
    words = program.split()
    if os.path.isfile(program):
        raise QuantctlError(
            f"cannot start {program!r}: the file is not executable, or no path was given",
            f"start what runs it, as in -- bash {shlex.quote(program)}",
        )
    if len(words) > 1 and shutil.which(words[0]) is not None:
        raise QuantctlError(f"cannot start {program!r}: it is one word", f"leave the quotes away: -- {program}")
    raise QuantctlError(f"cannot start {program!r}: there is no such program", "name a program on PATH")


def _begin(log: Path, attempt: str) -> IO[bytes]:
    """The log, with the mark of an attempt behind what earlier ones wrote."""
    file = os.fdopen(rundir.open_own(log, os.O_RDWR | os.O_APPEND), "ab+")
    end = file.seek(0, os.SEEK_END)
    if end:
        file.seek(end - 1)
    whole = not end or file.read(1) == b"\n"
    with contextlib.suppress(OSError):
        file.write(("" if whole else "\n").encode() + attempt.encode() + b"\n")
        file.flush()
    return file


def _handlers(stopping: _Stopping) -> dict[int, Callable[[int, FrameType | None], Any]]:
    """A lost terminal and a scheduler's SIGTERM are wishes to stop. SIGINT from a terminal reaches the command by
    itself, and must not be ignored, which the command would inherit.
    """
    handlers = {signal.SIGTERM: stopping.ask, signal.SIGHUP: stopping.ask, signal.SIGINT: lambda *_: None}
    # nohup ignores SIGHUP, a shell that puts a command into the background SIGINT: for the command, too
    kept = [number for number in (signal.SIGHUP, signal.SIGINT) if signal.getsignal(number) is signal.SIG_IGN]
    return {number: handler for number, handler in handlers.items() if number not in kept}


def run(
    command: Sequence[str],
    environment: Mapping[str, str],
    run_dir: Path,
    log: str,
    node: int,
    attempt: str = "",
    lock: int | None = None,
) -> Ending:
    """Run to the end. Node 0 also looks for the stop file; SIGTERM and SIGHUP ask the same on every node.

    One node's processes are enough to stop all: Megatron's ranks agree on it after each iteration. `attempt` is the
    line that this attempt's part of the log begins with; the command inherits the descriptor `lock`, and gets a SIGTERM
    should this process be killed.
    """
    written = _begin(run_dir / log, attempt)
    stopping = _Stopping(run_dir, node)
    before = {number: signal.signal(number, handler) for number, handler in _handlers(stopping).items()}
    descent.adopt(True)
    try:
        child = _start(command, environment, lock)
        stopping.started(child)
        output = _Output(child, written)
        while (status := _wait(child)) is None:
            descent.reap(child.pid)
            # Path.exists() raises where a network file system is away for a moment
            if node == 0 and not stopping.asked and os.path.exists(run_dir / STOP):
                stopping.ask()
        if left := stopping.end_survivors():
            say(f"the command has ended and its trainers have not: SIGTERM to {', '.join(map(str, left))}")
        output.drain()
    finally:
        descent.adopt(False)
        for number, handler in before.items():
            signal.signal(number, handler)
    return Ending(status if status >= 0 else 128 - status, stopping.asked or output.early)


def _start(command: Sequence[str], environment: Mapping[str, str], lock: int | None) -> subprocess.Popen[bytes]:
    parent = os.getpid()
    try:
        return subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=() if lock is None else (lock,),
            # no thread of ours runs yet
            preexec_fn=lambda: descent.end_with(parent),  # noqa: PLW1509
        )
    except OSError as error:
        raise QuantctlError(f"cannot start {command[0]!r}: {error.strerror}", "name a program on PATH") from error
