"""Every command of the 60 scripts, against the parser of every release of Megatron-LM.

`python -m pytest tests/launch/test_parsers.py -rP -k table` prints the table. Wheels hold the parser itself from 0.17.1
on: there its parse_args and validate_args take the commands. For the other releases, and main, the shipped tables of
flags decide, which were read from the live parsers.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import click.testing
import pytest

import quantctl.script
from quantctl.commands import launch
from quantctl.launch.plan import Plan
from quantctl.lint.megatron_flags import Option, releases, table
from quantctl.modes import SCRIPT_MODES
from quantctl.script.datasets import DATASETS
from quantctl.script.models import MODELS
from quantctl.script.training import TRAINING_CONFIGS

from .conftest import smoke_environment

FOLDER = Path(quantctl.script.__file__).parent
PARSER = Path(__file__).with_name("parse_commands.py")
WITH_PARSER = ("0.17.1", "0.18.2", "0.19.0")
EIGHT = ("0.12.3", "0.13.1", "0.14.0", "0.15.3", "0.16.1", *WITH_PARSER)
Flags = tuple[str, ...]


@pytest.fixture(scope="module")
def commands(tmp_path_factory) -> dict[tuple[str, str, str, str], tuple[int, Flags]]:
    """(model, dataset, mode, training config) -> ranks and Megatron flags, as the script has quantctl launch them."""
    folder = tmp_path_factory.mktemp("commands")
    recorder = folder / "quantctl"
    recorder.write_text("#!/bin/sh\nprintf '%s\\0' \"$@\"\n")
    recorder.chmod(0o755)
    handed = click.testing.CliRunner()
    plans: list[Plan] = []
    patch = pytest.MonkeyPatch()
    patch.setattr(launch, "_start", lambda ctx, plan, dry: plans.append(plan))
    patch.chdir(folder)
    (folder / "data.bin").touch()
    (folder / "data.idx").touch()
    given = {"DATA_PATH": "data", "TOKENIZER": "some/tokenizer", "RUN_DIR": "run", "CHECKPOINT_PATH": "checkpoints"}
    found = {}
    for model, dataset, mode, config in itertools.product(MODELS, DATASETS, SCRIPT_MODES, TRAINING_CONFIGS):
        environment = smoke_environment(**given, QUANTCTL=str(recorder), TRAINING_CONFIG=config, PLATFORM="cuda")
        del environment["TRAIN_ITERS"]
        script = FOLDER / model / f"pretrain_{model}_{dataset}_{mode}.sh"
        done = subprocess.run(["bash", script], cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        # what the script says, read by the command that it says it to
        ended = handed.invoke(launch.command, done.stdout.split("\0")[1:-1], env=environment)
        assert ended.exit_code == 0, ended.output
        trainer = plans[-1].trainer
        flags = trainer[trainer.index("--transformer-impl") :]
        found[model, dataset, mode, config] = (plans[-1].processes, flags)
    patch.undo()
    return found


def mismatch(option: Option, values: list[str]) -> str:
    counts = {"?": (0, 1), "*": (0, 99), "+": (1, 99)}
    least, most = counts.get(str(option.nargs), (option.nargs, option.nargs))
    if not least <= len(values) <= most:
        return f"{option.name} takes {option.nargs} values, not {values}"
    if option.choices and set(values) - set(option.choices):
        return f"{option.name} {values} is none of {option.choices}"
    number = {"int": int, "float": float}.get(option.type or "", str)
    for value in values:
        try:
            number(value)
        except ValueError:
            return f"{option.name} {value} is no {option.type}"
    return ""


def by_table(release: str, flags: Flags) -> str:
    """What the release's table has against these flags."""
    groups: dict[str, list[str]] = {}
    for word in flags:
        if word.startswith("--"):
            groups[word] = []
        else:
            groups[list(groups)[-1]].append(word)
    known = table(release)
    problems = (mismatch(known[flag], values) if flag in known else f"no {flag}" for flag, values in groups.items())
    return "; ".join(filter(None, problems))


def by_parser(tree: Path, commands: list[tuple[int, Flags]]) -> list[str]:
    environment = os.environ | {"PYTHONPATH": str(tree), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", PARSER],
        input=json.dumps([{"world": world, "flags": flags} for world, flags in commands]),
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_table_of_60_commands_and_every_release(commands, megatron_tree, request):
    """`make launch` asks every parser that there is, the daily run the newest."""
    asked = WITH_PARSER if not request.config.getoption("markexpr") else WITH_PARSER[-1:]
    distinct = list(dict.fromkeys(commands.values()))
    assert len(commands) == 60 * len(TRAINING_CONFIGS)
    # modes choose selectors and change no flag of Megatron's
    assert len(distinct) == len(MODELS) * len(DATASETS) * len(TRAINING_CONFIGS)
    assert set(EIGHT) < set(releases())
    print(f"\n60 scripts x {len(TRAINING_CONFIGS)} training configs")
    print(f"{'release':8} {'table of flags':>15} {'its own parser':>15}")
    found: dict[str, str] = {}
    for release in releases():
        judged = [by_table(release, flags) for _, flags in distinct]
        parsed = None
        if release in asked:
            world, flags = distinct[0]
            refused = [(world, (*flags, "--no-such-flag")), (world, (*flags, "--tensor-model-parallel-size", "3"))]
            *parsed, unknown, parallel = by_parser(megatron_tree(release), [*distinct, *refused])
            assert "--no-such-flag" in unknown
            assert "not divisible" in parallel
        counts = []
        for problems in (judged, parsed):
            if problems is None:
                counts.append("-")
                continue
            good = {command for command, problem in zip(distinct, problems, strict=True) if not problem}
            counts.append(f"{sum(command in good for command in commands.values())} of {len(commands)}")
            found |= {f"{release}: {problem}": problem for problem in problems if problem}
        print(f"{release:8} {counts[0]:>15} {counts[1]:>15}")
    assert not found


WRONG = {
    "unknown flag": (("--no-such-flag",), "no --no-such-flag"),
    "outside its choices": (("--attention-backend", "best"), "--attention-backend"),
    "value too many": (("--swiglu", "yes"), "--swiglu takes 0 values"),
    "no number": (("--num-layers", "many"), "--num-layers many is no int"),
}


@pytest.mark.parametrize(("flags", "problem"), WRONG.values(), ids=WRONG)
def test_the_table_would_say_so(flags, problem):
    assert problem in by_table("0.19.0", flags)
