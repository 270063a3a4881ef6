"""A process that has modules loaded and forks for each command, which then starts at once.

    python tests/support/command_server.py SOCKET quantctl     the commands are quantctl's
    python tests/support/command_server.py SOCKET python       they are Python programs, and what is loaded is torch

A request is a line of JSON (argv, cwd, env, whether in a session of its own) with the files for standard input, output
and error; the answers are the command's pid and, when it ended, how (as os.wait says it).
"""

from __future__ import annotations

import array
import atexit
import contextlib
import gc
import io
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, NoReturn

_FILES = 3
_LIMIT = 1 << 20


class Started:
    """A command that the server runs."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._answers = connection, connection.makefile("r")
        self.pid = int(self._answers.readline())

    def wait(self, timeout: float | None = None) -> int:
        """How it ended, as subprocess says it. TimeoutError, and it is killed, behind so many seconds."""
        self._connection.settimeout(timeout)
        try:
            return os.waitstatus_to_exitcode(int(self._answers.readline()))
        except TimeoutError:
            os.kill(self.pid, signal.SIGKILL)
            raise


class Server:
    """The client's side: starts the server, which ends with this process."""

    def __init__(self, socket_path: Path, program: str = "quantctl") -> None:
        self._path = str(socket_path)
        command = [sys.executable, __file__, self._path, program]
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
        """Run `quantctl ARGUMENTS`, or `python ARGUMENTS`."""
        request = [[os.fsdecode(word) for word in arguments], os.fsdecode(cwd), dict(env), own_session]
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(self._path)
        text = json.dumps(request).encode() + b"\n"
        numbers = array.array("i", [file.fileno() for file in files])
        sent = connection.sendmsg([text], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)])
        connection.sendall(text[sent:])
        return Started(connection)

    def run(
        self, arguments: Sequence[object], cwd: Path, env: Mapping[str, str], timeout: float | None = None
    ) -> subprocess.CompletedProcess[str]:
        """`start` to its end, without standard input: what subprocess.run would say of it."""
        words = [*map(str, arguments)]
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, open(os.devnull, "rb") as nothing:
            status = self.start(words, cwd, env, (nothing, out, err)).wait(timeout)
            said = []
            for file in (out, err):
                file.seek(0)
                said.append(io.TextIOWrapper(file).read())
        return subprocess.CompletedProcess(words, status, *said)

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

    def main() -> None:
        sys.path[0] = cwd
        from quantctl import cli

        sys.argv = [str(cli.__file__), *argv]
        cli.main()

    _become(main, cwd, env, own_session, fds)


def be_python(argv: list[str], cwd: str, env: dict[str, str], own_session: bool, fds: list[int]) -> NoReturn:
    """Become `python ARGV`, of which the first is -m, -c or a program's file."""
    kind, *rest = argv if argv[0] in ("-m", "-c") else ["", *argv]

    def main() -> None:
        sys.argv = [kind if kind == "-c" else rest[0], *rest[1:]]
        first = "" if kind else str(Path(rest[0]).resolve().parent)
        sys.path[:1] = [first, *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
        if kind == "-m":
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        elif kind == "-c":
            exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
        else:
            runpy.run_path(rest[0], run_name="__main__")

    _become(main, cwd, env, own_session, fds)


def _become(main: Callable[[], None], cwd: str, env: dict[str, str], own_session: bool, fds: list[int]) -> NoReturn:
    atexit._clear()  # what the process before it registered is not this one's to do
    status = 1
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
        try:
            main()
            status = 0
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
            if isinstance(stop.code, str):
                print(stop.code, file=sys.stderr)
        except BaseException:
            traceback.print_exc()
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)


def _load_commands() -> None:
    from remembered import load_commands

    load_commands()
    assert "torch" not in sys.modules


def _load_torch() -> None:
    """And what Megatron's modules make it load."""
    del sys.path[0]  # this folder is no program's
    sys.path.insert(0, "")
    import torch.distributed._tensor

    torch.compile(lambda x: x)
    assert "megatron" not in sys.modules
    assert "quantctl" not in sys.modules


PROGRAMS = {"quantctl": (_load_commands, be_quantctl), "python": (_load_torch, be_python)}


def _serve(path: str, program: str) -> None:
    load, become = PROGRAMS[program]
    load()
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
                        become(argv, cwd, env, own_session, fds)
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
    _serve(*sys.argv[1:])
