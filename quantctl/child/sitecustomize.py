"""Runs at the start of every Python process of a staged run: megatron.core must come from the staged tree.

`megatron` is a namespace package, so a script's own directory or an installed copy can come before the staged one
without anybody noticing. The first import of megatron.core is checked against QUANTCTL_TREE: from elsewhere it fails at
once, from the staged tree it leaves a record in the run directory. Imports nothing of quantctl; hands on to the
sitecustomize that it hides.
"""

import importlib.machinery
import importlib.util
import json
import os
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))
_CORE = "megatron.core"


class _StagedCore:
    """A finder that answers for megatron.core alone."""

    def __init__(self, tree: str, run_dir: str) -> None:
        self.tree = tree
        self.run_dir = run_dir

    def find_spec(self, fullname, path=None, target=None):
        if fullname != _CORE:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        origin = os.path.realpath(spec.origin) if spec is not None and spec.origin else None
        staged = os.path.join(os.path.realpath(self.tree), "megatron", "core")
        if origin is None or os.path.dirname(origin) != staged:
            raise ImportError(
                f"quantctl: this process would import megatron.core from {origin}, its run is staged in {self.tree}. "
                "Start the trainer of the staged tree ($MEGATRON_LM_PATH), or take the other tree off sys.path."
            )
        self._record(origin)
        return spec

    def _record(self, origin: str) -> None:
        folder = os.path.join(self.run_dir, "proof")
        os.makedirs(folder, exist_ok=True)
        record = {"pid": os.getpid(), "rank": int(os.environ.get("RANK", "0")), "megatron_core": origin}
        path = os.path.join(folder, f"import-{record['rank']}-{record['pid']}.json")
        with open(path + ".new", "w") as file:
            json.dump(record, file)
        os.replace(path + ".new", path)


def _hand_on() -> None:
    others = [entry for entry in sys.path if os.path.abspath(entry or ".") != _HERE]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


_tree, _run_dir = os.environ.get("QUANTCTL_TREE"), os.environ.get("QUANTCTL_RUN_DIR")
if _tree and _run_dir:
    sys.meta_path.insert(0, _StagedCore(_tree, _run_dir))
_hand_on()
