"""Processes that die or fail at a chosen step of an operation."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import quantctl.history.replace
from quantctl.history.git import Git

STEPS = {
    "write": (os, "open"),
    "fsync": (os, "fsync"),
    "mode": (os, "fchmod"),
    "owner": (os, "fchown"),
    "time": (os, "utime"),
    "rename": (os, "replace"),
    "exchange": (quantctl.history.replace, "exchange"),
    "remove": (Path, "unlink"),
    "git": (Git, "run"),
}
"""Everything an operation does to the disk goes through one of these."""


@contextmanager
def at_each_step(act: Callable[[str, int], None]) -> Iterator[None]:
    """`act(name, number)` runs before every step; it may kill the process or raise."""
    number = 0

    def wrap(name: str, real: Callable) -> Callable:
        def step(*arguments, **options):
            nonlocal number
            number += 1
            act(name, number)
            return real(*arguments, **options)

        return step

    real = {name: getattr(owner, attribute) for name, (owner, attribute) in STEPS.items()}
    for name, (owner, attribute) in STEPS.items():
        setattr(owner, attribute, wrap(name, real[name]))
    try:
        yield
    finally:
        for name, (owner, attribute) in STEPS.items():
            setattr(owner, attribute, real[name])


At = int | tuple[str, int]
"""The n-th step, or the n-th of one name."""


def run_in_child(arguments: list[str], at: At = 0, act: Callable[[str], None] | None = None) -> tuple[int, str]:
    """Run the command line in a forked process and call `act(name)` before step `at`.

    Returns the exit status as subprocess gives it, and the name of the step; empty if it was not reached.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _run(arguments, at, act, writer)
    os.close(writer)
    reached = os.read(reader, 100).decode()
    os.close(reader)
    _, wait_status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(wait_status), reached


def _run(arguments: list[str], at: At, act: Callable[[str], None] | None, report: int) -> NoReturn:
    status = 70
    seen: Counter[str] = Counter()

    def step(name: str, number: int) -> None:
        seen[name] += 1
        if at in (number, (name, seen[name])) and act is not None:
            os.write(report, name.encode())
            act(name)

    try:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        from quantctl import cli

        sys.argv = ["quantctl", *arguments]
        with at_each_step(step):
            cli.main()
    except SystemExit as stop:
        status = int(stop.code or 0)
    finally:
        os._exit(status)
