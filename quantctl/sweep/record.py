"""RUN_DIR/sweep.json: which run of which sweep a run directory is for, so that no sweep takes another's for its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from quantctl.disk.files import write_new
from quantctl.errors import QuantctlError
from quantctl.outside import records
from quantctl.outside.records import TEXT, WHOLE, Each, Fields, Named
from quantctl.runs import recipe

NAME = "sweep.json"

DECIDING = {
    "TRAINING_CONFIG": "the model's size, batch, learning rate and length",
    "TRAIN_ITERS": "how long, and with it the learning rate of every step",
    "DATA_PATH": "what is read",
    "TOKENIZER": "what it is cut into",
    "DTYPE": "what is computed in beside the formats",
    "PLATFORM": "which device, and so which kernels",
}
"""Setting of a script -> what of the numbers it decides.

The others (STATS, PYTHON, MEGATRON_LM_PATH, folders for output, GPUs of a node) may change from one call of a sweep to
the next; the report looks at trees and versions itself.
"""

_SHAPE = Fields(
    {"model": TEXT, "dataset": TEXT, "mode": TEXT, "seed": WHOLE, "settings": Named(TEXT), "trailing": Each(TEXT)}
)
Experiment = dict[str, Any]
"""model, dataset, mode, seed, settings (dict), trailing (list): plain JSON."""


def write(run_dir: Path, experiment: Experiment) -> None:
    run_dir.mkdir(parents=True, exist_ok=True)
    write_new(run_dir / NAME, (json.dumps(experiment, indent=2, sort_keys=True) + "\n").encode())


def _facts(experiment: Experiment) -> dict[str, str]:
    """What decides the numbers, by name, in the order in which a difference is looked for."""
    settings = experiment["settings"]
    facts = {name: str(experiment[name]) for name in ("model", "dataset", "mode", "seed")}
    facts |= {name: str(settings[name]) for name in DECIDING if settings.get(name)}
    flags = recipe.from_command(experiment["trailing"])
    return facts | {f"--{flag}": value or "given" for flag, value in sorted(flags.items())}


def check(run_dir: Path, experiment: Experiment) -> None:
    """Raises QuantctlError if the run directory says that it is another experiment's; an older one says nothing."""
    path = run_dir / NAME
    if not path.exists():
        return
    mine, theirs = _facts(experiment), _facts(records.read(path, _SHAPE))
    for name in dict.fromkeys([*mine, *theirs]):
        if mine.get(name) != theirs.get(name):
            raise QuantctlError(
                f"{run_dir} is of another sweep: {name} {theirs.get(name, 'absent')} there, "
                f"{mine.get(name, 'absent')} here",
                "give another --output, or remove the directory",
            )
