"""Running a command on a staged tree: environment, log, signals, manifest, proof."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any

import quantctl.child
from quantctl import output, proof, provenance
from quantctl.errors import QuantctlError
from quantctl.exits import DIFFERS
from quantctl.files import write_new
from quantctl.selectors import SELECTORS
from quantctl.spec import NONE
from quantctl.stage import in_use, stage
from quantctl.state import read_state
from quantctl.tree import Tree

_HOOKS = Path(quantctl.child.__path__[0])


_DRAIN = 2.0
"""Seconds that output is waited for behind the command's end."""


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def child_environment(source: Path, staged: Path, run_dir: Path) -> dict[str, str]:
    """The caller's environment with the staged tree first on the path of every Python process."""
    path = [str(_HOOKS), str(staged), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path),
        "MEGATRON_LM_PATH": str(staged),
        "QUANTCTL_SOURCE_TREE": str(source),
        "QUANTCTL_STAGED_TREE": str(staged),
        "QUANTCTL_RUN_DIR": str(run_dir),
    }


def point_at_staged(arguments: Sequence[str], source: Path, staged: Path) -> list[str]:
    """The command with Python files of the source tree replaced by their staged copies."""

    def point(argument: str) -> str:
        path = Path(argument).resolve()
        if not (argument.endswith(".py") and path.is_file() and path.is_relative_to(source)):
            return argument
        copy = staged / path.relative_to(source)
        return str(copy) if copy.is_file() else argument

    return [point(argument) for argument in arguments]


@contextmanager
def _owned(run_dir: Path) -> Iterator[None]:
    """One attempt at a time in a run directory."""
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise QuantctlError(
                f"another run is writing to {run_dir}", "wait for it, or give another --run-dir"
            ) from error
        yield


class Manifest:
    """RUN_DIR/manifest.json: one entry an attempt, the newest last."""

    def __init__(self, run_dir: Path, selectors: Mapping[str, str]) -> None:
        self.path = run_dir / "manifest.json"
        self.data: dict[str, Any] = {"selectors": dict(selectors), "attempts": []}
        if self.path.exists():
            earlier = json.loads(self.path.read_text())
            if earlier["selectors"] != dict(selectors):
                raise QuantctlError(
                    f"{run_dir} holds a run with other selectors: {earlier['selectors']}",
                    "give another --run-dir: a run directory speaks of one choice of formats",
                )
            self.data = earlier

    def begin(self, attempt: dict[str, Any]) -> None:
        self.data["attempts"].append(attempt)
        self._write()

    def end(self, **facts: Any) -> None:
        self.data["attempts"][-1].update(facts)
        self._write()

    def _write(self) -> None:
        write_new(self.path, (json.dumps(self.data, indent=2) + "\n").encode())


def _tee(source: IO[bytes], terminal: IO[bytes], log: IO[bytes]) -> None:
    for line in source:
        for target in (log, terminal):
            target.write(line)
            target.flush()


def _run(command: Sequence[str], environment: Mapping[str, str], log: Path) -> int:
    """Run to the end, output to the terminal and the log; the exit status as a shell would give it."""
    try:
        child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except OSError as error:
        raise QuantctlError(f"cannot start {command[0]!r}: {error.strerror}", "name a program on PATH") from error
    # SIGINT from a terminal reaches the child by itself; a scheduler's SIGTERM does not
    handlers = {
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: child.send_signal(signal.SIGTERM)),
        signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN),
    }
    file = log.open("ab")
    streams = ((child.stdout, sys.stdout.buffer), (child.stderr, sys.stderr.buffer))
    threads = [threading.Thread(target=_tee, args=(*pair, file), daemon=True) for pair in streams]
    try:
        for thread in threads:
            thread.start()
        status = child.wait()
        # a process that the command left behind may hold its output open; the run is over all the same
        for thread in threads:
            thread.join(_DRAIN)
        file.flush()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return status if status >= 0 else 128 - status


def execute(tree: Tree, values: Mapping[str, str], command: Sequence[str], run_dir: Path) -> int:
    """Stage `tree` with the selectors of `values`, run `command` on it, prove what it used.

    Leaves manifest.json, log.txt and proof.json in `run_dir`. Returns the command's exit status, or 1 when the command
    succeeded and the proof did not.
    """
    run_dir = run_dir.resolve()
    staged = stage(tree, values)
    with in_use(staged), _owned(run_dir):
        state = read_state(staged)
        selectors = dict.fromkeys(SELECTORS, NONE) | state.values()
        of_fork = [role for role, place in state.selectors.items() if place.fork]
        pointed = point_at_staged(command, tree.root, staged)
        environment = child_environment(tree.root, staged, run_dir)
        manifest = Manifest(run_dir, selectors)
        proof.clear(run_dir)
        manifest.begin(
            {
                "command": pointed,
                "start": _now(),
                "tree": str(tree.root),
                "found_by": tree.found_by,
                "megatron_core": tree.version(),
                "git": provenance.git_state(tree),
                "staged": str(staged),
                "files": provenance.file_hashes(staged),
                "packages": provenance.package_versions(),
                "environment": provenance.environment(),
            }
        )
        output.say(f"staged: {staged}")
        output.say("selectors: " + " ".join(f"{role}={value}" for role, value in selectors.items()))
        status = _run(pointed, environment, run_dir / "log.txt")
        verdict = proof.merge(run_dir, selectors, of_fork)
        manifest.end(end=_now(), exit_status=status, proof=verdict.ok)
    for line in proof.lines(verdict):
        output.say(f"counted: {line}")
    if status:
        output.say(f"the command ended with exit status {status}")
    else:
        for problem in verdict.problems:
            output.say(f"proof failed: {problem}")
    output.say(f"run directory: {run_dir}")
    return status or (0 if verdict.ok else DIFFERS)
