"""From a combination to its shipped script, and the environment that it is started in."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from quantctl.errors import QuantctlError
from quantctl.launch.settings import choose


def script_path(model: str, dataset: str, mode: str) -> Path:
    """The shipped script of a combination.

    Raises QuantctlError with the choices for a model, dataset or mode that has no scripts, and when the
    installation lacks the file.
    """
    from quantctl.modes import SCRIPT_MODES
    from quantctl.script.datasets import DATASETS
    from quantctl.script.models import MODELS
    from quantctl.script.render import FOLDER, relative_path

    path = FOLDER / relative_path(
        choose("model", model, MODELS), choose("dataset", dataset, DATASETS), choose("mode", mode, SCRIPT_MODES)
    )
    if not path.is_file():
        raise QuantctlError(f"{path} is missing from this installation", "write it with: quantctl generate")
    return path


def environment(settings: Mapping[str, str | None]) -> dict[str, str]:
    """This process's environment with the settings that are not None, and with QUANTCTL as the quantctl in use."""
    changed = os.environ | {name: value for name, value in settings.items() if value is not None}
    beside = Path(sys.executable).with_name("quantctl")
    if "QUANTCTL" not in changed and beside.is_file():
        changed["QUANTCTL"] = str(beside)
    return changed


def call_cli(*arguments: str) -> NoReturn:
    """Run `quantctl ARGUMENTS` under this interpreter and exit as it does: for the front ends in script/."""
    sys.exit(subprocess.call([sys.executable, "-m", "quantctl.cli", *arguments]))
