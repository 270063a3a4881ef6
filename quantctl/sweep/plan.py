"""What a sweep consists of: one task for each model, mode and seed, and the script that runs it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from quantctl.launch.scripts import Run, environment, selector_words
from quantctl.modes import all_choices, file_name
from quantctl.outside.masking import masked, masked_pairs
from quantctl.outside.records import BadRecord
from quantctl.runs import manifest
from quantctl.sweep import record


@dataclass(frozen=True)
class Task:
    """One run."""

    model: str
    dataset: str
    mode: str
    """A mode, or selectors as `linear=mxfp8:scale=floor qk=mxfp4`: see quantctl.modes."""
    seed: int
    run_dir: Path
    settings: Mapping[str, str]
    """Environment of the script, beside the run's own."""
    trailing: tuple[str, ...] = ()
    """Megatron's flags behind the script's."""
    base: str = ""
    """The dataset whose script runs it, where the run is called after other data."""

    @property
    def name(self) -> str:
        return self.run_dir.name

    @property
    def command(self) -> list[str]:
        return self._run.bash(self.trailing)

    @property
    def _run(self) -> Run:
        return Run.of(self.model, self.base or self.dataset, self.dataset, self.mode, {})

    @property
    def own(self) -> dict[str, str]:
        """The variables by which this run differs from the others."""
        words = shlex.join(selector_words(self.mode))
        return {"SEED": str(self.seed), "RUN_DIR": str(self.run_dir), "SELECTORS": words}

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

    def is_finished(self) -> bool:
        """Whether the run directory holds this run, ended well and proved, and nobody wants it again."""
        if self.settings.get("FORCE") == "1":
            return False
        try:
            attempts = manifest.read(self.run_dir / "manifest.json")["attempts"]
        except BadRecord:
            return False
        return bool(attempts and attempts[-1].get("finished"))


def tasks(
    models: Sequence[str],
    dataset: str,
    modes: Sequence[str],
    seeds: Sequence[int],
    folder: Path,
    settings: Mapping[str, str],
    trailing: Sequence[str] = (),
    base: str = "",
) -> list[Task]:
    """All runs, the reference's first: seed by seed, so that a sweep cut short compares what it has.

    Raises QuantctlError for an unknown model, dataset or mode, and for a run directory that holds a run of another
    sweep (unless FORCE is 1), before anything runs. `base`: of a dataset that has no scripts, whose are taken.
    """
    modes = all_choices(modes)
    made = [
        Task(
            model,
            dataset,
            mode,
            seed,
            (folder / model / f"{file_name(mode)}-seed{seed}").resolve(),
            settings,
            tuple(trailing),
            base,
        )
        for model, seed, mode in product(models, dict.fromkeys(seeds), modes)
    ]
    for task in made:
        task.command  # noqa: B018  # an unknown name is refused here
    for task in made if settings.get("FORCE") != "1" else ():
        record.check(task.run_dir, task.experiment)
    return made
