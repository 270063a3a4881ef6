"""What a training script hands over, made into a plan: settings over its flags, data, folders, platform, trainer."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from quantctl.errors import QuantctlError
from quantctl.launch import arguments, data, embedded, folders, platform
from quantctl.launch.arguments import Called
from quantctl.launch.flags import Flags
from quantctl.launch.plan import EMBEDDED, Plan
from quantctl.launch.settings import choose, plain, positive, shown, words
from quantctl.modes import file_name, selection
from quantctl.script.datasets import DATASETS
from quantctl.script.models import MODELS
from quantctl.script.platforms import PLATFORMS, Platform
from quantctl.script.training import DTYPES, TRAINING_CONFIGS

_DTYPE_FLAGS = tuple(f"--{name}" for name in DTYPES)


@dataclass(frozen=True)
class Script:
    """What the last line of a script says."""

    name: str
    """Its file's name."""
    model: str
    dataset: str
    mode: str
    config: str
    """TRAINING_CONFIG, which the script has chosen its flags by."""
    platform: str
    processes: int
    """On a node, unless GPUS_PER_NODE says otherwise."""
    selectors: tuple[str, ...]
    """--mode and the like, as words."""
    words: tuple[str, ...]
    """Its flags, `--`, and what it was called with."""


def is_dry(environment: Mapping[str, str]) -> bool:
    """DRY_RUN. Raises QuantctlError for what is neither yes nor no."""
    text = environment.get("DRY_RUN") or "0"
    if text not in ("0", "1"):
        raise QuantctlError(f"DRY_RUN={shown(text)}", "1 prints the command, 0 or nothing runs it")
    return text == "1"


def resolve(script: Script, environment: Mapping[str, str], python: str, dry: bool, say: Callable[[str], None]) -> Plan:
    """The plan, of which nothing has been started; a smoke run's stand-in corpus is built unless it is a dry run.

    `say` gets what a person should read. Raises QuantctlError for whatever would stop the run.
    """

    def missing(message: str, hint: str) -> None:
        if not dry:
            raise QuantctlError(message, hint)
        say(f"a real run would stop here: {message}\n  {hint}")

    own, given = arguments.split(script.words)
    called = arguments.read(given, environment)
    config = TRAINING_CONFIGS[choose("TRAINING_CONFIG", script.config, TRAINING_CONFIGS)]
    model, dataset = (
        MODELS[choose("model", script.model, MODELS)],
        DATASETS[choose("dataset", script.dataset, DATASETS)],
    )
    machine = PLATFORMS[choose("PLATFORM", script.platform, PLATFORMS)]
    flags = Flags(own)
    _settings(flags, called)
    processes = positive("GPUS_PER_NODE", called.get("GPUS_PER_NODE", str(script.processes)))
    if shutil.which(python) is None:
        raise QuantctlError(f"PYTHON={python} is not an executable", "give the path of a Python that has torch")
    tree = _tree(called)
    trainer = _trainer(tree, machine)
    if trainer == EMBEDDED and (lacking := embedded.lack(python, tree, called.trailing)):
        missing(lacking.message, lacking.hint or "")
    stem, selectors = Path(script.name).stem, script.selectors
    if mode := called.get("MODE"):
        selection(mode)
        stem = f"{stem.removesuffix(script.mode)}{file_name(mode)}"
        place = selectors.index("--mode") + 1
        selectors = (*selectors[:place], mode, *selectors[place + 1 :])
    run_dir = plain("RUN_DIR", called.get("RUN_DIR", f"runs/{stem.removeprefix('pretrain_')}_{script.config}"))
    data.add(flags, called, model, dataset, config.smoke, python, dry, missing, say)
    folders.add(flags, called, run_dir, config.smoke)
    sourced = platform.sourced(machine, environment, missing)
    called = replace(called, settings={**called.settings, **sourced})
    variables = platform.variables(machine, called.settings, processes)
    threads = called.get("OMP_NUM_THREADS", "" if config.omp_num_threads is None else str(config.omp_num_threads))
    variables += [
        f"{name}={value}" for name, value in (("OMP_NUM_THREADS", threads), ("MEGATRON_LM_PATH", tree)) if value
    ]
    combination = f"--model {script.model} --dataset {script.dataset} --mode {shlex.quote(mode or script.mode)}"
    return Plan(
        run_dir,
        processes,
        script.platform,
        (*selectors, *words("SELECTORS", called.get("SELECTORS"))),
        tuple(variables),
        (*trainer, *flags.words(), *called.trailing),
        f"{stem}_{script.config}",
        called.get("STATS") or None,
        sourced,
        f"{'MEGATRON_LM_PATH= ' if tree else ''}quantctl run {combination} --training-config smoke",
    )


def _settings(flags: Flags, called: Called) -> None:
    """DTYPE, TRAIN_ITERS and SEED in place of what the script's own flags say."""
    if dtype := called.get("DTYPE"):
        wanted = f"--{choose('DTYPE', dtype, DTYPES)}"
        flags.drop(*_DTYPE_FLAGS)
        if dtype != "fp32":  # which is what Megatron does without a flag
            flags.behind("--lr-warmup-iters", [wanted])
    if iterations := called.get("TRAIN_ITERS"):
        steps = positive("TRAIN_ITERS", iterations)
        before, rise = flags.value("--train-iters"), flags.value("--lr-warmup-iters")
        if before and rise and before.isdecimal() and rise.isdecimal() and int(before):
            flags.put("--lr-warmup-iters", str(int(rise) * steps // int(before)))
        flags.put("--train-iters", iterations)
    if seed := called.get("SEED"):
        flags.put("--seed", seed)


def _tree(called: Called) -> str:
    tree = called.get("MEGATRON_LM_PATH")
    if tree and not (Path(tree) / "megatron" / "core").is_dir():
        raise QuantctlError(
            f"MEGATRON_LM_PATH={tree} holds no megatron/core", "give the directory that does, or unset it"
        )
    return tree


def _trainer(tree: str, machine: Platform) -> Sequence[str]:
    """A checkout's own pretrain_gpt.py, behind the platform's adaptor unless it brings that itself; else ours."""
    if not tree or not (Path(tree) / "pretrain_gpt.py").is_file():
        return EMBEDDED
    adaptor = () if (Path(tree) / "mindspeed_llm").is_dir() else machine.adaptor
    return (*adaptor, f"{tree}/pretrain_gpt.py")
