"""RUN_DIR/manifest.json: what a run is made of, and how each attempt at it ended."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from quantctl.disk.files import write_new
from quantctl.errors import QuantctlError
from quantctl.outside import records
from quantctl.outside.masking import masked
from quantctl.outside.records import TEXT, TRUTH, WHOLE, WORD, Each, Fields, Named
from quantctl.runs import recipe
from quantctl.runs.runlog import log_files, points
from quantctl.tree.selectors import SELECTORS

_DEFAULTS = {role: selector.default for role, selector in SELECTORS.items()}
"""What a tree without the selector does."""


def with_defaults(selectors: Mapping[str, str]) -> dict[str, str]:
    """All selectors: those that are not named do what a tree without them does."""
    return _DEFAULTS | dict(selectors)


_ATTEMPT = Fields(
    {},
    {
        "command": Each(TEXT),
        "asked": Each(TEXT),
        "exit_status": WHOLE,
        "finished": TRUTH,
        "megatron_core": WORD,
        "code": WORD,
        "packages": Named(WORD),
    },
)
_SHAPE = Fields({"selectors": Named(WORD), "attempts": Each(_ATTEMPT)})
"""What is read of it; it holds more."""


def read(path: Path) -> dict[str, Any]:
    """The manifest, every field that is read of its type. Raises BadRecord that says what is wrong, and where."""
    data: dict[str, Any] = records.read(path, _SHAPE)
    return data


class Manifest:
    """The file: one entry an attempt, the newest last."""

    def __init__(self, run_dir: Path, selectors: Mapping[str, str]) -> None:
        self.path = run_dir / "manifest.json"
        self.data: dict[str, Any] = {"selectors": dict(selectors), "attempts": []}
        if self.path.exists():
            earlier = read(self.path)
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
    data = read(path)
    if not data["attempts"]:
        return False
    last = data["attempts"][-1]
    return (
        bool(last.get("finished"))
        and with_defaults(data["selectors"]) == with_defaults(data["selectors"]) | dict(chosen)
        and masked(last.get("asked", []))[-len(trainer) :] == masked(trainer)
    )


def _selectors_changed(chosen: Mapping[str, str], earlier: Mapping[str, str]) -> list[str]:
    """A selector that asks for nothing, as fused attention `auto` where a tree has none, is no difference."""
    return [
        f"{role} {value} against {earlier[role]}"
        for role, value in chosen.items()
        if value != earlier[role] and not {value, earlier[role]} <= set(SELECTORS[role].indifferent)
    ]


def _flags_changed(trainer: Sequence[str], asked: Sequence[str]) -> list[str]:
    """`asked` begins with what started the trainer, whose ports and node ranks may differ."""
    program = list(takewhile(lambda word: not word.startswith("--"), trainer))
    starts = [at for at in range(len(asked)) if list(asked[at : at + len(program)]) == program]
    mine, theirs = recipe.from_command(trainer), recipe.from_command(asked[starts[-1] if starts else 0 :])
    seeds = recipe.seed(mine), recipe.seed(theirs)
    changed = recipe.differences(mine, theirs)
    return changed if seeds[0] == seeds[1] else [f"--seed {seeds[0]} against {seeds[1]}", *changed]


def require_same_experiment(run_dir: Path, chosen: Mapping[str, str], trainer: Sequence[str]) -> None:
    """Raises QuantctlError when the last attempt in `run_dir` was another experiment: other formats, or other flags
    among those that decide the loss. Its checkpoint would be taken for this one's, and its log for a part of it.

    An attempt that ended before its first logged iteration has left neither: its flags may be corrected.
    """
    path = run_dir / "manifest.json"
    if not path.exists() or not any(points(log_files(run_dir))):
        return
    data = read(path)
    fresh = "another RUN_DIR (and CHECKPOINT_PATH) starts afresh"
    for changed, hint in (
        (_selectors_changed(chosen, with_defaults(data["selectors"])), fresh),
        (
            _flags_changed(trainer, data["attempts"][-1].get("asked") or trainer) if data["attempts"] else [],
            f"{fresh}; FORCE=1 goes on there all the same",
        ),
    ):
        if changed:
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            raise QuantctlError(f"{run_dir} holds another run: {', '.join(changed[:3])}{more}", hint)
