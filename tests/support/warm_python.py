"""Programs that compute: each a process of its own, forked from one that has torch loaded, so it starts at once."""

from __future__ import annotations

import atexit
import functools
import io
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from command_server import Server


@functools.lru_cache(maxsize=1)
def _server() -> Server:
    folder = Path(tempfile.mkdtemp(prefix="quantctl-python-"))
    server = Server(folder / "socket", "python")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(server.close)
    return server


def python(*arguments: object, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """`python ARGUMENTS`, of which the first is -m, -c or a file, to its end: what subprocess.run would say of it."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, open(os.devnull, "rb") as nothing:
        words = [*map(str, arguments)]
        status = _server().start(words, Path.cwd(), env, (nothing, out, err)).wait()
        said = []
        for file in (out, err):
            file.seek(0)
            said.append(io.TextIOWrapper(file).read())
    return subprocess.CompletedProcess(words, status, *said)
