"""Programs that compute: each a process of its own, forked from one that has torch loaded, so it starts at once."""

from __future__ import annotations

import atexit
import functools
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


def python(
    *arguments: object, env: Mapping[str, str], timeout: float | None = None
) -> subprocess.CompletedProcess[str]:
    """`python ARGUMENTS`, of which the first is -m, -c or a file, to its end."""
    return _server().run(arguments, Path.cwd(), env, timeout)
