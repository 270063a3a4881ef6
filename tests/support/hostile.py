"""Rubbish handed to the command line: every command ends with 0, 1 or 2 and a sentence, soon, in little memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from command_server import be_quantctl
from remembered import remember_insertion

SECONDS = 10.0
"""A hostile input takes no command longer than this."""
MEMORY = 500 * 2**20
"""Bytes that it may make a command resident in."""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    """As subprocess gives it; -9 after SECONDS."""
    out: str
    err: str
    seconds: float
    peak: int
    """Largest resident size, bytes."""


def _resident(pid: int) -> int:
    """The largest resident size of a process so far, bytes; what wait4 gives counts the one that started it, too."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = [line for line in text.splitlines() if line.startswith("VmHWM:")]
    return int(found[0].split()[1]) * 1024 if found else 0


def run(arguments: Sequence[object], cwd: Path, env: Mapping[str, str] | None = None, stdin: bytes = b"") -> Ended:
    """Run `quantctl ARGUMENTS` in `cwd`; killed, with what it started, after SECONDS."""
    with tempfile.TemporaryFile() as feed, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        feed.write(stdin)
        feed.seek(0)
        start = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "quantctl.cli", *map(os.fsencode, map(str, arguments))],
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdin=feed,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
        peak = 0
        while True:
            peak = max(peak, _resident(process.pid))
            pid, status = os.waitpid(process.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() - start > SECONDS:
                os.killpg(process.pid, signal.SIGKILL)
            time.sleep(0.01)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - start
        said = []
        for file in (out, err):
            file.seek(0)
            said.append(file.read().decode(errors="replace"))
    return Ended(process.returncode, *said, seconds, peak)


def run_forked(arguments: Sequence[object], cwd: Path, env: Mapping[str, str] | None = None) -> Ended:
    """The same in a fork of this process, which has its modules already: for long tables. Memory is not measured."""
    remember_insertion()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, open(os.devnull, "rb") as nothing:
        start = time.monotonic()
        if (pid := os.fork()) == 0:
            files = [nothing.fileno(), out.fileno(), err.fileno()]
            be_quantctl([*map(str, arguments)], str(cwd), {**os.environ, **(env or {})}, False, files)
        while (ended := os.waitpid(pid, os.WNOHANG))[0] == 0:
            if time.monotonic() - start > SECONDS:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.005)
        seconds = time.monotonic() - start
        said = []
        for file in (out, err):
            file.seek(0)
            said.append(file.read().decode(errors="replace"))
    return Ended(os.waitstatus_to_exitcode(ended[1]), *said, seconds, 0)


def assert_civil(ended: Ended, *statuses: int) -> None:
    """It ended with one of `statuses` (default 0, 1 or 2), in time, in little memory, without a traceback.

    A refusal (2) says why in a first line of its own.
    """
    said = f"status {ended.status} after {ended.seconds:.1f} s, {ended.peak / 2**20:.0f} MB\n{ended.err[-3000:]}"
    assert ended.status in (statuses or (0, 1, 2)), said
    assert "Traceback" not in ended.err, said
    assert ended.seconds <= SECONDS, said
    assert ended.peak <= MEMORY, said
    if ended.status == 2:
        assert ended.err.strip(), "refused without a word"
