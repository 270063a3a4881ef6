"""The scripts as a user meets them: run with bash, in an empty directory, in a clean environment."""

from __future__ import annotations

import itertools
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import quantctl.script
from quantctl.modes import SCRIPT_MODES
from quantctl.script.datasets import DATASETS
from quantctl.script.models import MODELS

FOLDER = Path(quantctl.script.__file__).parent
COMBINATIONS = list(itertools.product(MODELS, DATASETS, SCRIPT_MODES))
READ_BY_SCRIPTS = {
    "CHECKPOINT_PATH",
    "TENSORBOARD_LOGS_PATH",
    "TOKENIZER",
    "DATA_PATH",
    "DTYPE",
    "TRAINING_CONFIG",
    "RUN_DIR",
    "SEED",
    "TRAIN_ITERS",
    "DRY_RUN",
    "LINT",
    "FORCE",
    "PLATFORM",
    "SET_ENV",
    "MEGATRON_LM_PATH",
    "GPUS_PER_NODE",
    "NNODES",
    "NODE_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
    "QUANTCTL",
    "PYTHON",
    "CUDA_DEVICE_MAX_CONNECTIONS",
    "OMP_NUM_THREADS",
}


def path_of(model: str, dataset: str, mode: str) -> Path:
    return FOLDER / model / f"pretrain_{model}_{dataset}_{mode}.sh"


def words(text: str) -> list[str]:
    """What a shell reads in a printed command. shlex knows no line continuation."""
    return shlex.split(text.replace(" \\\n", " "))


@dataclass(frozen=True)
class Command:
    """A printed command, taken apart."""

    environment: dict[str, str]
    exec_options: list[str]
    launcher: list[str]
    flags: dict[str, list[str]]

    @classmethod
    def of(cls, argv: list[str]) -> Command:
        assert argv[0] == "env"
        at = next(i for i, word in enumerate(argv) if word == "exec")
        dashes = argv.index("--", at)
        first = next(i for i, word in enumerate(argv) if word == "--transformer-impl")
        flags: dict[str, list[str]] = {}
        for word in argv[first:]:
            if word.startswith("--"):
                assert word not in flags, f"{word} twice"
                flags[word] = []
            else:
                flags[list(flags)[-1]].append(word)
        environment = dict(word.split("=", 1) for word in argv[1 : at - 1])
        return cls(environment, argv[at + 1 : dashes], argv[dashes + 1 : first], flags)


@pytest.fixture(scope="session")
def clean_environment() -> dict[str, str]:
    """No setting of the scripts, and the quantctl of this Python first on PATH."""
    kept = {key: value for key, value in os.environ.items() if key not in READ_BY_SCRIPTS}
    return kept | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


@pytest.fixture
def bash(tmp_path_factory, clean_environment):
    """Runs a script with arguments and environment changes in an empty directory (`.cwd` of the result's runner)."""
    cwd = tmp_path_factory.mktemp("cwd")

    def run(script: Path, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", str(script), *arguments],
            cwd=cwd,
            env=clean_environment | changes,
            capture_output=True,
            text=True,
            timeout=60,
        )

    run.cwd = cwd
    return run


@pytest.fixture(scope="session")
def dry_runs(tmp_path_factory, clean_environment) -> dict[tuple[str, str, str], Command]:
    """The standard dry run of all 60, spawned once."""
    cwd = tmp_path_factory.mktemp("dry")
    commands = {}
    for combination in COMBINATIONS:
        done = subprocess.run(
            ["bash", str(path_of(*combination))],
            cwd=cwd,
            env=clean_environment | {"DRY_RUN": "1"},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        commands[combination] = Command.of(words(done.stdout))
    assert list(cwd.iterdir()) == []
    return commands
