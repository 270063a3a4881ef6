"""What a sweep consists of: one task for each model, mode and seed, and the script that runs it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from quantctl.errors import QuantctlError
from quantctl.launch.scripts import environment, script_path
from quantctl.modes import MODES, SCRIPT_MODES
from quantctl.outside.masking import masked, masked_pairs
from quantctl.outside.records import BadRecord
from quantctl.runs import manifest
from quantctl.sweep import record
from quantctl.tree.selectors import SELECTORS


@dataclass(frozen=True)
class Task:
    """One run."""

    model: str
    dataset: str
    mode: str
    """A mode, or selectors as `linear=mxfp8:scale=floor qk=mxfp4`."""
    seed: int
    run_dir: Path
    settings: Mapping[str, str]
    """Environment of the script, beside the run's own."""
    trailing: tuple[str, ...] = ()
    """Megatron's flags behind the script's."""

    @property
    def name(self) -> str:
        return self.run_dir.name

    @property
    def command(self) -> list[str]:
        script_mode = self.mode if self.mode in SCRIPT_MODES else SCRIPT_MODES[0]
        return ["bash", str(script_path(self.model, self.dataset, script_mode)), "--", *self.trailing]

    @property
    def own(self) -> dict[str, str]:
        """The variables by which this run differs from the others."""
        return {"SEED": str(self.seed), "RUN_DIR": str(self.run_dir), "SELECTORS": " ".join(self._selectors())}

    def variables(self, **more: str) -> dict[str, str]:
        """The script's whole environment."""
        return environment({**self.settings, **self.own, **more})

    @property
    def experiment(self) -> record.Experiment:
        """What this run is one of, for its run directory to say."""
        decided = {name: value for name, value in self.variables().items() if name in record.DECIDING and value}
        return {
            "model": self.model,
            "dataset": self.dataset,
            "mode": " ".join(self.mode.split()),
            "seed": self.seed,
            "settings": masked_pairs({**self.settings, **decided}),
            "trailing": masked(self.trailing),
        }

    def _selectors(self) -> list[str]:
        """Words for the script to add to its own mode: none for a mode that has a script."""
        if self.mode in SCRIPT_MODES:
            return []
        if self.mode in MODES:
            return ["--mode", self.mode]
        return [
            word for site, value in selectors_of(self.mode).items() for word in (f"--{site.replace('_', '-')}", value)
        ]

    def is_finished(self) -> bool:
        """Whether the run directory holds this run, ended well and proved."""
        try:
            attempts = manifest.read(self.run_dir / "manifest.json")["attempts"]
        except BadRecord:
            return False
        return bool(attempts and attempts[-1].get("finished"))


def selectors_of(mode: str) -> dict[str, str]:
    """What `linear=mxfp8:scale=floor qk=mxfp4` chooses. Raises QuantctlError for what is neither that nor a mode."""
    if mode in MODES:
        return dict(MODES[mode])
    chosen: dict[str, str] = {}
    for word in mode.split():
        role, equals, value = word.partition("=")
        if not equals or role not in SELECTORS:
            raise QuantctlError(
                f"{mode!r} is neither a mode nor selectors",
                f"modes: {', '.join(MODES)}; selectors are written linear=mxfp8:scale=floor qk=mxfp4",
            )
        if role in chosen:
            raise QuantctlError(f"{mode!r} says {role} twice", "name each selector once")
        chosen[role] = SELECTORS[role].canonical(value)
    if not chosen:
        raise QuantctlError("an empty mode", f"modes: {', '.join(MODES)}")
    return chosen


def _slug(mode: str) -> str:
    return re.sub(r"[^\w.+-]+", "_", mode.replace("=", "-")).strip("_")


def tasks(
    models: Sequence[str],
    dataset: str,
    modes: Sequence[str],
    seeds: Sequence[int],
    folder: Path,
    settings: Mapping[str, str],
    trailing: Sequence[str] = (),
) -> list[Task]:
    """All runs, the reference's first: seed by seed, so that a sweep cut short compares what it has.

    Raises QuantctlError for an unknown model, dataset or mode, and for a run directory that holds a run of another
    sweep, before anything runs.
    """
    for mode in modes:
        selectors_of(mode)
    made = [
        Task(
            model,
            dataset,
            mode,
            seed,
            (folder / model / f"{_slug(mode)}-seed{seed}").resolve(),
            settings,
            tuple(trailing),
        )
        for model, seed, mode in product(models, dict.fromkeys(seeds), dict.fromkeys(modes))
    ]
    for task in made:
        task.command  # noqa: B018  # an unknown name is refused here
    names = [task.run_dir for task in made]
    if len(set(names)) != len(names):
        raise QuantctlError("two of these modes would share a run directory", "name each selector once")
    for task in made:
        record.check(task.run_dir, task.experiment)
    return made
