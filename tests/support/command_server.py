"""A process that has quantctl's modules loaded and forks for each command, which then starts at once.

    python tests/support/command_server.py SOCKET

A request is a line of JSON (argv, cwd, env, whether in a session of its own) with the files for standard input, output
and error; the answers are the command's pid and, when it ended, how (as os.wait says it).
"""

from __future__ import annotations

import array
import atexit
import contextlib
import gc
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, NoReturn

_FILES = 3
_LIMIT = 1 << 20


class Started:
    """A command that the server runs."""

    def __init__(self, connection: socket.socket) -> None:
        self._answers = connection.makefile("r")
        self.pid = int(self._answers.readline())

    def wait(self) -> int:
        """How it ended, as subprocess says it."""
        return os.waitstatus_to_exitcode(int(self._answers.readline()))


class Server:
    """The client's side: starts the server, which ends with this process."""

    def __init__(self, socket_path: Path) -> None:
        self._path = str(socket_path)
        command = [sys.executable, __file__, self._path]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self._process.stdout.readline()

    def start(
        self,
        arguments: Sequence[str | bytes],
        cwd: Path,
        env: Mapping[str, str],
        files: tuple[IO[bytes], IO[bytes], IO[bytes]],
        own_session: bool = False,
    ) -> Started:
        """Run `quantctl ARGUMENTS`."""
        request = [[os.fsdecode(word) for word in arguments], os.fsdecode(cwd), dict(env), own_session]
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(self._path)
        text = json.dumps(request).encode() + b"\n"
        numbers = array.array("i", [file.fileno() for file in files])
        sent = connection.sendmsg([text], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)])
        connection.sendall(text[sent:])
        return Started(connection)

    def close(self) -> None:
        """End the server."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def _request(connection: socket.socket) -> tuple[list[str], str, dict[str, str], bool, list[int]]:
    text, fds, _, _ = socket.recv_fds(connection, _LIMIT, _FILES)
    while not text.endswith(b"\n"):
        text += connection.recv(_LIMIT)
    argv, cwd, env, own_session = json.loads(text)
    return argv, cwd, env, own_session, list(fds)


def be_quantctl(argv: list[str], cwd: str, env: dict[str, str], own_session: bool, fds: list[int]) -> NoReturn:
    """Become `quantctl ARGV`, in a process that was forked for it, with `fds` as standard input, output and error."""
    atexit._clear()  # what the process before it registered is not this one's to do
    status = 70
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if own_session:
            os.setsid()
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(env)
        for target, source in enumerate(fds):
            os.dup2(source, target)
        os.closerange(_FILES, max(fds) + 64)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", closefd=False, errors="backslashreplace")  # noqa: SIM115
        sys.path[0] = cwd
        from quantctl import cli

        sys.argv = [str(cli.__file__), *argv]
        try:
            cli.main()
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)


def _serve(path: str) -> None:
    from remembered import load_commands

    load_commands()
    assert "torch" not in sys.modules
    gc.collect()
    gc.freeze()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen(64)
    wake, alarm = os.pipe()
    os.set_blocking(alarm, False)
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(alarm)
    waiting: dict[int, socket.socket] = {}
    print("ready", flush=True)
    with selectors.DefaultSelector() as selector:
        for source in (listener, wake, 0):
            selector.register(source, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj == 0:
                    return
                if key.fileobj == wake:
                    os.read(wake, 4096)
                else:
                    connection, _ = listener.accept()
                    argv, cwd, env, own_session, fds = _request(connection)
                    if (pid := os.fork()) == 0:
                        be_quantctl(argv, cwd, env, own_session, fds)
                    for fd in fds:
                        os.close(fd)
                    waiting[pid] = connection
                    connection.sendall(b"%d\n" % pid)
            while waiting:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    break
                with contextlib.suppress(OSError), waiting.pop(pid) as connection:
                    connection.sendall(b"%d\n" % status)


if __name__ == "__main__":
    _serve(sys.argv[1])
