"""Flags that every trainer takes, what is read from a run, and a run that ends badly."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from quantctl.bench import measured, step
from quantctl.bench.machine import Setting
from quantctl.bench.result import Failure
from quantctl.lint.megatron_flags import releases, table
from quantctl.pretrain.arguments import parse
from quantctl.tree.tree import Tree

CPU, CUDA = (Setting(torch.device(kind)) for kind in ("cpu", "cuda"))


@pytest.mark.parametrize("release", releases())
def test_every_release_knows_the_flags(release) -> None:
    known = table(release)
    assert [word for word in step.training_flags(step.FULL) if word.startswith("--") and word not in known] == []


@pytest.mark.parametrize("size", [step.FULL, step.REDUCED], ids=["full", "reduced"])
def test_the_embedded_trainer_takes_them(size) -> None:
    args = parse(step.training_flags(size))
    assert (args.num_layers, args.hidden_size, args.ffn_hidden_size) == (size.layers, size.hidden, size.ffn)
    assert (args.micro_batch_size, args.global_batch_size) == (size.micro_batch, size.global_batch)


def test_the_size_that_figures_are_about() -> None:
    size = step.FULL
    assert (size.layers, size.hidden, size.ffn, size.heads, size.groups) == (8, 2048, 8192, 32, 8)
    assert (size.sequence, size.micro_batch, size.global_batch) == (2048, 4, 8)


@pytest.mark.parametrize(
    ("own", "setting", "words"),
    [
        (True, CUDA, ["torch.distributed.run", "pretrain_gpt.py"]),
        (True, CPU, ["quantctl.pretrain"]),
        (False, CUDA, ["quantctl.pretrain"]),
    ],
    ids=["checkout", "checkout on a CPU", "package"],
)
def test_which_trainer(own, setting, words, tmp_path) -> None:
    if own:
        (tmp_path / "pretrain_gpt.py").touch()
    command = step.trainer(Tree(tmp_path, "--megatron"), setting)
    assert [Path(word).name for word in command if Path(word).name in words] == words
    assert measured.__name__ in command


TRAINER = """
import sys, torch
from pathlib import Path
assert sys.argv[1:] == ["--flag", "1"] and __name__ == "__main__"
assert sys.path[0] == str(Path(__file__).parent)
optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])
optimizer.step()
sys.exit({status})
"""


@pytest.mark.parametrize(("as_module", "status"), [(False, 7), (True, 0)], ids=["failing file", "module"])
def test_memory_is_written_however_the_trainer_ends(as_module, status, tmp_path) -> None:
    script = tmp_path / "trainer.py"
    script.write_text(TRAINER.format(status=status))
    program = ["-m", "trainer"] if as_module else [str(script)]
    environment = {**os.environ, "QUANTCTL_RUN_DIR": str(tmp_path / "run"), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", measured.__name__, *program, "--flag", "1"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    found = measured.read(tmp_path / "run")
    assert (found["device"], found["after"]) == ("cpu", None)
    assert found["peak"] > 50 * 2**20  # torch alone takes more


def test_nothing_to_read(tmp_path) -> None:
    """A trainer that was killed."""
    assert measured.read(tmp_path) == {}


LOG = "[rank0]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 8 GiB"


@pytest.mark.parametrize(
    ("log", "errors", "failure"),
    [
        ("start\nValueError: no\nat the end", "", Failure("ValueError: no")),
        ("x\nquantctl: lm_head: no\n  hint", "staged: y", Failure("quantctl: lm_head: no")),
        ("AssertionError: a\nquantctl: this is a bug in quantctl. Please", "", Failure("AssertionError: a")),
        (f"a\n{LOG}\n", "the command ended", Failure(f"out of memory: {LOG}", excused=True)),
        ("fine", "proof failed: qk should", Failure("proof failed: qk should")),
        ("fine", "", Failure("no reason in {}")),
    ],
    ids=["exception", "refusal", "bug", "memory", "proof", "silence"],
)
def test_reasons(log, errors, failure, tmp_path) -> None:
    (tmp_path / "log.txt").write_text(log)
    found = step._why(tmp_path, errors)
    assert found == Failure(failure.reason.format(tmp_path / "log.txt"), failure.excused)


def test_ratios_are_to_stock_and_to_bf16() -> None:
    def row(name: str, ms: float, beyond: int) -> step.Row:
        time = step.Spread(ms, ms, ms, 1)
        return step.Row("step", "c", name, time=time, peak_bytes=100, facts={step.BEYOND: beyond})

    stock, fused, mode = row(step.STOCK, 300.0, 40), row(step.FUSED, 150.0, 20), row(step.LIMITED, 160.0, 10)
    found = step._ratios(mode, stock, fused, CUDA)
    assert [(round(r.value, 3), r.limit, r.met) for r in found] == [
        (0.533, 0.5, False),
        (1.067, 1.05, False),
        (0.25, 0.35, True),
    ]
    assert step._ratios(stock, stock, fused, CUDA) == (step.Ratio("time of bf16, attention auto", 2.0),)
