"""From a combination to its shipped script, and the environment that it is started in."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from quantctl.errors import QuantctlError
from quantctl.launch.settings import choose
from quantctl.modes import NAMED, SCRIPT_MODES, file_name, selection
from quantctl.script import models
from quantctl.script.datasets import DATASETS
from quantctl.script.training import TRAINING_CONFIGS


def script_path(model: str, dataset: str, mode: str) -> Path:
    """The shipped script of a combination.

    Raises QuantctlError with the choices for a model, dataset or mode that has no scripts, and when the
    installation lacks the file.
    """
    from quantctl.script.render import FOLDER, relative_path

    path = FOLDER / relative_path(
        choose("model", model, models.MODELS), choose("dataset", dataset, DATASETS), choose("mode", mode, SCRIPT_MODES)
    )
    if not path.is_file():
        raise QuantctlError(f"{path} is missing from this installation", "write it with: quantctl generate")
    return path


def selector_words(mode: str) -> list[str]:
    """What goes over the mode of the script that runs `mode`: nothing where it has a script of its own."""
    if mode in SCRIPT_MODES:
        return []
    if mode in NAMED:
        return ["--mode", mode]
    return [word for role, value in selection(mode).items() for word in (f"--{role.replace('_', '-')}", value)]


@dataclass(frozen=True)
class Run:
    """One mode of a model through the script that runs it: its own, or that of bf16 with selectors over it."""

    model: str
    script: Path
    name: str
    """MODEL_DATASET_MODE, the dataset being what the run is called after."""
    own: Mapping[str, str]
    """The variables by which it differs from what the script would do by itself."""
    run_dir: str

    @classmethod
    def of(cls, model: str, dataset: str, called: str, mode: str, environment: Mapping[str, str]) -> Run:
        """`called` stands for the dataset in names. Raises QuantctlError as script_path does."""
        script = script_path(model, dataset, mode if mode in SCRIPT_MODES else SCRIPT_MODES[0])
        name = f"{model}_{file_name(called)}_{file_name(mode)}"
        own = {}
        if words := selector_words(mode):
            own["SELECTORS"] = " ".join(filter(None, [shlex.join(words), environment.get("SELECTORS", "")]))
        config = environment.get("TRAINING_CONFIG") or next(iter(TRAINING_CONFIGS))
        run_dir = environment.get("RUN_DIR") or f"runs/{name}_{config}"
        if name != script.stem.removeprefix("pretrain_") and not environment.get("RUN_DIR"):
            own["RUN_DIR"] = run_dir
        return cls(model, script, name, own, run_dir)

    def bash(self, trailing: Sequence[str]) -> list[str]:
        """The script with Megatron's flags behind its own."""
        return ["bash", str(self.script), "--", *trailing]

    def command(self, trailing: Sequence[str]) -> list[str]:
        """The same, with its own variables in front."""
        front = ["env", *(f"{name}={value}" for name, value in self.own.items())] if self.own else []
        return [*front, *self.bash(trailing)]


def environment(settings: Mapping[str, str | None]) -> dict[str, str]:
    """This process's environment with the settings that are not None, and with QUANTCTL as the quantctl in use."""
    changed = os.environ | {name: value for name, value in settings.items() if value is not None}
    changed.pop("MODE", None)  # what is meant stands in the call
    beside = Path(sys.executable).with_name("quantctl")
    if "QUANTCTL" not in changed and beside.is_file():
        changed["QUANTCTL"] = str(beside)
    return changed


def call_cli(*arguments: str) -> NoReturn:
    """Run `quantctl ARGUMENTS` under this interpreter and exit as it does: for the front ends in script/."""
    sys.exit(subprocess.call([sys.executable, "-m", "quantctl.cli", *arguments]))
