"""Runs at the start of every Python process of a staged run: megatron.core must come from the staged tree.

`megatron` is a namespace package, so the current directory, a script's own directory or an installed copy can come
before the staged tree without anybody noticing. Imports that would go to the tree the run was staged from go to its
copy; a megatron.core from a third place fails at once. The first import leaves a record in the run directory and
holds its lock. Imports nothing of quantctl, and hands on to the sitecustomize that it hides.
"""

import contextlib
import fcntl
import importlib.machinery
import importlib.util
import json
import os
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))
_CORE = "megatron.core"
_PLACE = {"rank": "RANK", "node": "QUANTCTL_NODE"}


class _StagedMegatron:
    """A finder that answers for megatron's direct subpackages."""

    def __init__(self, source: str, staged: str, run_dir: str) -> None:
        self.source, self.staged = (os.path.join(os.path.realpath(tree), "megatron") for tree in (source, staged))
        self.run_dir = run_dir
        self.held: list[int] = []

    def find_spec(self, fullname, path=None, target=None):
        if fullname.rpartition(".")[0] != "megatron":
            return None
        places = [self.staged if os.path.realpath(place) == self.source else place for place in path or ()]
        spec = importlib.machinery.PathFinder.find_spec(fullname, places, target)
        if fullname == _CORE:
            self._check(spec)
        return spec

    def _check(self, spec) -> None:
        origin = os.path.realpath(spec.origin) if spec is not None and spec.origin else None
        if origin is None or os.path.dirname(os.path.dirname(origin)) != self.staged:
            raise ImportError(
                f"quantctl: this process would import megatron.core from {origin}, its run is staged in {self.staged}. "
                "Start the trainer of the tree that was staged, or take the other tree off sys.path."
            )
        self._record(origin)

    def _record(self, origin: str) -> None:
        folder = os.path.join(self.run_dir, "proof")
        os.makedirs(folder, exist_ok=True)
        place = {name: int(os.environ.get(variable, "0")) for name, variable in _PLACE.items()}
        record = {"pid": os.getpid(), "start": _started(), **place, "megatron_core": origin}
        path = os.path.join(folder, f"import-{place['rank']}-{os.getpid()}-{place['node']}.json")
        with open(path + ".new", "w", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o666)) as file:
            json.dump(record, file)
        os.replace(path + ".new", path)
        self._hold(place["node"])

    def _hold(self, node: int) -> None:
        """Keep the run directory from a next attempt, and the tree from being pruned, for as long as this process
        lives, whoever started it.
        """
        lock = os.path.join(self.run_dir, f".lock-node{node}" if node else ".lock")
        for path in (lock, os.path.join(os.path.dirname(self.staged), ".quantctl-staged.json")):
            with contextlib.suppress(OSError):
                self.held.append(os.open(path, os.O_RDONLY | os.O_NOFOLLOW))
                fcntl.flock(self.held[-1], fcntl.LOCK_SH | fcntl.LOCK_NB)


def _started() -> "int | None":
    """When this process began, in clock ticks from the machine's boot: with its number, no other process has it."""
    with contextlib.suppress(OSError, ValueError, IndexError), open("/proc/self/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[19])
    return None


def _hand_on() -> None:
    others = [entry for entry in sys.path if os.path.abspath(entry or ".") != _HERE]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


_variables = [os.environ.get(f"QUANTCTL_{name}", "") for name in ("SOURCE_TREE", "STAGED_TREE", "RUN_DIR")]
if all(_variables):
    sys.meta_path.insert(0, _StagedMegatron(*_variables))
_hand_on()
