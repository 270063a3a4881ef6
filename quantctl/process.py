"""One command of a run: its output to the terminal and the log, its end, and a wish to stop early."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from quantctl.errors import QuantctlError

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

    def __init__(self, child: subprocess.Popen[bytes], run_dir: Path, node: int) -> None:
        self.child, self.run_dir, self.node = child, run_dir, node
        self.asked = False

    def _trainers(self) -> list[int]:
        with contextlib.suppress(OSError):
            records = [json.loads(path.read_text()) for path in (self.run_dir / "proof").glob("import-*.json")]
            return [record["pid"] for record in records if record["node"] == self.node]
        return []

    def ask(self, *_: object) -> None:
        """SIGTERM to the processes that train, which save and end when they have Megatron's --exit-signal-handler.

        torchrun between them and us is left alone: on a SIGTERM of its own it kills them after 30 seconds, which is
        less than a large checkpoint takes. Before any of them has started, or when asked again, the command gets it.
        """
        reached = 0
        if not self.asked:
            for pid in self._trainers():
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGTERM)
                    reached += 1
        if not reached:
            self.child.send_signal(signal.SIGTERM)
        self.asked = True


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
    if shutil.which(program) is None:
        raise QuantctlError(f"cannot start {program!r}: there is no such program", "name a program on PATH")


def run(command: Sequence[str], environment: Mapping[str, str], run_dir: Path, log: str, node: int) -> Ending:
    """Run to the end. Node 0 also looks for the stop file; SIGTERM asks the same on every node.

    One node's processes are enough to stop all: Megatron's ranks agree on it after each iteration.
    """
    try:
        child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except OSError as error:
        raise QuantctlError(f"cannot start {command[0]!r}: {error.strerror}", "name a program on PATH") from error
    stopping = _Stopping(child, run_dir, node)
    # SIGINT from a terminal reaches the child by itself; a scheduler's SIGTERM does not
    handlers = {
        signal.SIGTERM: signal.signal(signal.SIGTERM, stopping.ask),
        signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN),
    }
    output = _Output(child, (run_dir / log).open("ab"))
    try:
        while (status := _wait(child)) is None:
            # Path.exists() raises where a network file system is away for a moment
            if node == 0 and not stopping.asked and os.path.exists(run_dir / STOP):
                stopping.ask()
        output.drain()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return Ending(status if status >= 0 else 128 - status, stopping.asked or output.early)
