"""Signals that wait while files and history are between two states."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

_FAULTS = {
    *(signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGTRAP, signal.SIGSYS),
    signal.SIGCHLD,  # subprocess wants it
}


@contextmanager
def signals_wait() -> Iterator[None]:
    """Every signal that can wait takes effect behind the block, which takes a fraction of a second.

    They are blocked in the kernel and not only caught: git inherits that, so a Ctrl-C that reaches the whole terminal
    ends none of its steps half-way.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        # an earlier signal whose handler has not run yet is raised here, before the block
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - _FAULTS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
