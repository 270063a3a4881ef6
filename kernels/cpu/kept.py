"""Compiled kernels kept on disk, one file each, so that a machine compiles a kernel once.

numba's own cache has one index a function, which processes that compile at the same time overwrite, and does not see
a change in another module than the function's. Here a file's name says all that its content depends on: signature,
CPU, versions, and the source of all kernels. Files come whole or not at all; what cannot be read or written is
compiled anew, and never an error.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import platform
import sys
import tempfile
import threading
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np
from numba.core import serialize
from numba.core.caching import CompileResultCacheImpl, FunctionCache
from numba.core.runtime import rtsys

from quantctl.disk.paths import cache_dir, digest

SAY_AFTER = 2.0
"""Seconds of compiling after which whoever waits is told."""
_DIGEST = hashlib.sha256


@lru_cache(maxsize=1)
def folder() -> Path:
    """Where the kernels of these sources, versions and this Python lie."""
    sources = sorted(Path(__file__).parents[1].rglob("*.py"))
    versions = (numba.__version__, llvmlite.__version__, np.__version__, platform.python_version(), sys.platform)
    return cache_dir() / "kernels" / digest(*versions, *(source.read_bytes() for source in sources))


class _Results(CompileResultCacheImpl):
    """What numba knows of turning compiled functions into bytes and back, without a place of its own for them."""

    def __init__(self, function: Callable[..., Any]) -> None:
        pass


class Kept(FunctionCache):
    """The files of one function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._py_func = function
        self._impl = _Results(function)
        self._waiting: dict[int, threading.Timer] = {}

    @property
    def cache_path(self) -> str:
        return str(folder())

    def enable(self) -> None:
        pass

    def disable(self) -> None:
        pass

    def flush(self) -> None:
        pass

    def _path(self, signature: Any, codegen: Any) -> Path:
        key = (self._py_func.__module__, self._py_func.__qualname__, *self._index_key(signature, codegen))
        return folder() / f"{self._py_func.__name__}-{_DIGEST(repr(key).encode()).hexdigest()[:32]}"

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        # all that a compiled function needs; what numba needs to compile takes longer to load, and it sees to it itself
        rtsys.initialize(target_context)
        try:
            content = self._path(signature, target_context.codegen()).read_bytes()
        except OSError:
            content = b""
        size = _DIGEST().digest_size
        if content and _DIGEST(content[size:]).digest() == content[:size]:
            return self._impl.rebuild(target_context, pickle.loads(content[size:]))
        self._announce()
        return None

    def save_overload(self, signature: Any, data: Any) -> None:
        timer = self._waiting.pop(threading.get_ident(), None)
        if timer is not None:
            timer.cancel()
        if not self._impl.check_cachable(data):
            return
        payload = serialize.dumps(self._impl.reduce(data))
        with contextlib.suppress(OSError):
            _write(self._path(signature, data.codegen), _DIGEST(payload).digest() + payload)

    def _announce(self) -> None:
        timer = threading.Timer(SAY_AFTER, _say)
        timer.daemon = True
        self._waiting[threading.get_ident()] = timer
        timer.start()


@lru_cache(maxsize=1)  # once a process
def _say() -> None:
    line = f"quantctl: compiling kernels for this CPU; kept in {folder()}, so once a machine\n"
    with contextlib.suppress(OSError):
        sys.stderr.write(line)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=".draft-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.replace(draft, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise
