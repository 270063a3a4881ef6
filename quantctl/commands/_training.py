"""What `run` and `sweep` share: the options that are a script's settings, where it goes, and which tree it takes."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from quantctl import output
from quantctl.commands._common import describe
from quantctl.commands._options import Choice
from quantctl.errors import QuantctlError
from quantctl.modes import selection
from quantctl.script.datasets import DATASETS
from quantctl.script.models import MODELS
from quantctl.script.platforms import PLATFORMS
from quantctl.script.training import DTYPES, TRAINING_CONFIGS
from quantctl.spec import SITES, literal
from quantctl.tree.tree import find_tree, surrounding_tree

# option -> the script's environment variable
SETTINGS = {
    "training_config": "TRAINING_CONFIG",
    "run_dir": "RUN_DIR",
    "checkpoint": "CHECKPOINT_PATH",
    "tensorboard": "TENSORBOARD_LOGS_PATH",
    "tokenizer": "TOKENIZER",
    "data": "DATA_PATH",
    "dtype": "DTYPE",
    "seed": "SEED",
    "iterations": "TRAIN_ITERS",
    "platform": "PLATFORM",
    "stats": "STATS",
}

MODEL = Choice(list(MODELS), "model")

_OPTIONS = (
    click.option("--dataset", type=Choice(list(DATASETS), "dataset"), help="May be left out with --data."),
    click.option("--data", help="Megatron's indexed dataset, without .bin."),
    click.option("--tokenizer", help="Hugging Face tokenizer: a folder or a name."),
    click.option(
        "--training-config",
        type=Choice(list(TRAINING_CONFIGS), "training config"),
        help=f"Size and length of the run.  [default: {next(iter(TRAINING_CONFIGS))}]",
    ),
    click.option("--dtype", type=Choice(list(DTYPES), "dtype"), help="[default: bf16, in smoke runs fp32]"),
    click.option("--iterations", type=click.IntRange(min=1), help="Optimizer steps."),
    click.option("--stats", metavar="every=N", help="Record what the formats do to the products, every N steps."),
    click.option("--platform", type=Choice(list(PLATFORMS), "platform"), help="[default: cuda]"),
    click.option("--launcher", type=Choice(["local", "slurm"]), default="local", help="Here, or with sbatch."),
    click.option("--sbatch", multiple=True, metavar="OPTION", help="For sbatch, e.g. --sbatch=--nodes=2; any number."),
    click.option("--force", is_flag=True, help="Start in spite of what the run directory holds."),
    click.option("--dry-run", is_flag=True, help="Print what would be run and do nothing."),
)


def training_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a training, whether one or many."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def settings_of(options: Mapping[str, object], megatron: Path | None, force: bool) -> dict[str, str]:
    """The scripts' environment variables that options ask for. Raises QuantctlError for --stats that is not read."""
    settings = {SETTINGS[name]: str(value) for name, value in options.items() if value is not None}
    if "STATS" in settings:
        from quantctl.kernels.measure.wanted import parse_wanted

        parse_wanted(settings["STATS"])
    if force:
        settings["FORCE"] = "1"
    tree = _tree(megatron)
    return settings if tree is None else {**settings, "MEGATRON_LM_PATH": tree}


def _tree(megatron: Path | None) -> str | None:
    """The tree for the scripts, whose own look is at MEGATRON_LM_PATH alone: also the checkout that one stands in."""
    if megatron is not None:
        return str(megatron)
    if "MEGATRON_LM_PATH" in os.environ:  # also the empty one: none is meant
        return None
    tree = surrounding_tree(Path.cwd())
    if tree is None:
        return None
    output.say(f"tree: {describe(tree)}")
    if not (tree.root / "pretrain_gpt.py").is_file():
        output.say("it has no pretrain_gpt.py: the embedded trainer trains, on this tree's megatron.core")
    return str(tree.root)


def would_start(argv: Sequence[str], variables: Mapping[str, str]) -> list[str] | None:
    """The command that a script ends in; None where it is refused, which it says for itself when it runs."""
    asked = {**variables, "DRY_RUN": "1"}
    dry = subprocess.run(argv, env=asked, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return None if dry.returncode else shlex.split(dry.stdout.replace(" \\\n", " "))


def refuse_misfits(mode: str, argv: Sequence[str], variables: Mapping[str, str]) -> None:
    """Raises QuantctlError for selectors that speak of what the model or the training of a script does not have.

    Costs nothing where `mode` has no rules: the script is asked what it would start.
    """
    if not any(literal(text, role).rules for role, text in selection(mode).items() if role in SITES):
        return
    words = would_start(argv, variables)
    if words is None:
        return
    from quantctl.lint.resolved import foreseen

    trees = [word.partition("=")[2] for word in words if word.startswith("MEGATRON_LM_PATH=")]
    foreseen(words, find_tree(Path(trees[0]) if trees else None))


def of_data(dataset: str | None, data: str | None) -> tuple[str, str]:
    """The dataset whose script runs, and what the run is called after: the same, or the user's own data.

    Raises QuantctlError where neither is given.
    """
    if dataset is not None:
        return dataset, dataset
    prefix = data or os.environ.get("DATA_PATH")
    if not prefix:
        hint = f"give --dataset {' or '.join(DATASETS)}, or --data PREFIX of your own"
        raise QuantctlError("no data: neither --dataset nor --data was given", hint)
    name = Path(prefix.split()[-1]).name
    for ending in ("_document", "_text"):
        name = name.removesuffix(ending)
    return next(iter(DATASETS)), name
