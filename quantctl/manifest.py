"""RUN_DIR/manifest.json: what a run is made of, and how each attempt at it ended."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from quantctl.errors import QuantctlError
from quantctl.files import write_new
from quantctl.selectors import SELECTORS

_DEFAULTS = {role: selector.default for role, selector in SELECTORS.items()}
"""What a tree without the selector does."""


def with_defaults(selectors: Mapping[str, str]) -> dict[str, str]:
    """All selectors: those that are not named do what a tree without them does."""
    return _DEFAULTS | dict(selectors)


def _read(path: Path) -> dict[str, Any]:
    try:
        data: dict[str, Any] = json.loads(path.read_text())
        if isinstance(data["selectors"], dict) and isinstance(data["attempts"], list):
            return data
    except (ValueError, KeyError, TypeError):
        pass
    raise QuantctlError(f"{path} is no manifest of a run", "give another --run-dir, or remove the file")


class Manifest:
    """The file: one entry an attempt, the newest last."""

    def __init__(self, run_dir: Path, selectors: Mapping[str, str]) -> None:
        self.path = run_dir / "manifest.json"
        self.data: dict[str, Any] = {"selectors": dict(selectors), "attempts": []}
        if self.path.exists():
            earlier = _read(self.path)
            if with_defaults(earlier["selectors"]) != dict(selectors):
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


def is_finished(run_dir: Path, chosen: Mapping[str, str], trainer: Sequence[str]) -> bool:
    """Whether the last attempt in `run_dir` trained exactly this to the end, with its proof.

    `chosen` are the selectors asked for, `trainer` the trainer and its flags; what starts it (torchrun, its ports) may
    differ. More iterations or another format are another run.
    """
    path = run_dir / "manifest.json"
    if not path.exists():
        return False
    data = _read(path)
    if not data["attempts"]:
        return False
    last = data["attempts"][-1]
    return (
        bool(last.get("finished"))
        and with_defaults(data["selectors"]) == with_defaults(data["selectors"]) | dict(chosen)
        and last.get("asked", [])[-len(trainer) :] == list(trainer)
    )
