"""A training step of Megatron on staged trees: stock attention, fused attention, and the nine quantized modes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quantctl.bench import measured
from quantctl.bench.machine import Setting
from quantctl.bench.result import Failure, Measured, Ratio, Row, Spread
from quantctl.bench.timing import free_memory
from quantctl.kernels.dispatch import CPU, REFERENCE, VARIABLE, family
from quantctl.modes import SCRIPT_MODES
from quantctl.runs.runlog import Point, read_log
from quantctl.script.flags import LOCAL_LAYERS
from quantctl.tree.tree import Tree

STOCK, FUSED = "stock local bf16", "bf16"
BEYOND = "memory beyond weights, gradients and optimizer"
BY_REFERENCE = ", torch reference"
"""Behind a mode: in the place of the kernels that are compiled for a CPU."""
QUICK = (STOCK, FUSED, "FA_linear_mxfp8")
# of FA_linear_mxfp8: time of stock local bf16, time of bf16 with fused attention, memory of stock beyond its state
LIMITED, LIMITS = "FA_linear_mxfp8", (0.50, 1.05, 0.35)


_ERROR = re.compile(r"(\[rank\d+\]: *)?([\w.]+(Error|Exception)\b|quantctl: |proof failed: )")
_BUG = "this is a bug in quantctl"


@dataclass(frozen=True)
class Size:
    """A model and how long it is trained."""

    layers: int
    hidden: int
    ffn: int
    heads: int
    groups: int
    sequence: int
    micro_batch: int
    global_batch: int
    vocabulary: int
    iterations: int
    warm_up: int
    """Iterations whose time does not count."""

    def __str__(self) -> str:
        return (
            f"{self.layers} layers, hidden {self.hidden}, ffn {self.ffn}, {self.heads} heads, {self.groups} groups, "
            f"s {self.sequence}, micro batch {self.micro_batch}, global {self.global_batch}, bf16"
        )


FULL = Size(8, 2048, 8192, 32, 8, 2048, 4, 8, 32000, iterations=30, warm_up=10)
REDUCED = Size(2, 128, 512, 4, 2, 128, 2, 4, 1000, iterations=12, warm_up=4)


def size_of(setting: Setting) -> Size:
    size = FULL if setting.full else REDUCED
    return replace(size, iterations=size.warm_up + 4) if setting.quick else size


def training_flags(size: Size) -> list[str]:
    """Megatron's flags, which both trainers take and all supported releases know."""
    valued = {
        "--num-layers": size.layers,
        "--hidden-size": size.hidden,
        "--ffn-hidden-size": size.ffn,
        "--num-attention-heads": size.heads,
        "--num-query-groups": size.groups,
        "--seq-length": size.sequence,
        "--max-position-embeddings": size.sequence,
        "--position-embedding-type": "rope",
        "--normalization": "RMSNorm",
        "--attention-dropout": 0.0,
        "--hidden-dropout": 0.0,
        "--micro-batch-size": size.micro_batch,
        "--global-batch-size": size.global_batch,
        "--train-iters": size.iterations,
        "--lr": 3e-4,
        "--lr-decay-style": "constant",
        "--tokenizer-type": "NullTokenizer",
        "--vocab-size": size.vocabulary,
        "--log-interval": 1,
        "--eval-iters": 0,
        "--eval-interval": 1000000,
        "--num-workers": 0,
    }
    switches = (
        "--group-query-attention",
        "--swiglu",
        "--disable-bias-linear",
        "--untie-embeddings-and-output-weights",
        "--bf16",
        "--mock-data",
    )
    lines = [*LOCAL_LAYERS, *((flag, str(value)) for flag, value in valued.items()), *((flag,) for flag in switches)]
    return [word for line in lines for word in line]


def trainer(tree: Tree, setting: Setting) -> list[str]:
    """Megatron-LM's own where the tree is a checkout and there is a GPU, which it needs; else the embedded one."""
    own = tree.root / "pretrain_gpt.py"
    if setting.full and own.is_file():
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"]
        return [sys.executable, *launcher, "-m", measured.__name__, str(own)]
    return [sys.executable, "-m", measured.__name__, "-m", "quantctl.pretrain"]


def _environment(setting: Setting) -> dict[str, str]:
    device = {"CUDA_DEVICE_MAX_CONNECTIONS": "1"} if setting.full else {"CUDA_VISIBLE_DEVICES": ""}
    return {**os.environ, **device}


def _why(run_dir: Path, errors: str) -> Failure:
    """What ended the run: the last error that the log names, or the proof's complaint."""
    log = run_dir / "log.txt"
    lines = [line.strip() for line in (log.read_text(errors="replace") if log.exists() else "").splitlines()]
    told = [line.strip() for line in errors.splitlines()]
    named = [line for line in (*told, *lines) if _ERROR.match(line) and _BUG not in line]
    if not named:
        return Failure(f"no reason in {log}")
    return Failure(
        f"out of memory: {named[-1]}" if "OutOfMemory" in named[-1] else named[-1], "OutOfMemory" in named[-1]
    )


def _outcome(points: list[Point], memory: dict[str, Any], size: Size) -> Measured:
    times = [point.milliseconds for point in points if point.iteration > size.warm_up]
    return Measured(Spread.of(times), memory.get("peak"))


def _run(subject: str, tree: Tree, size: Size, setting: Setting, folder: Path) -> Row:
    run_dir = folder / subject.replace(" ", "-").replace(",", "")
    mode = "bf16" if subject == STOCK else subject.removesuffix(BY_REFERENCE)
    attention = "unfused" if subject == STOCK else "auto"
    command = [sys.executable, "-m", "quantctl.cli", "--megatron", str(tree.root), "exec", "--run-dir", str(run_dir)]
    command += ["--mode", mode, "--attention", attention, "--", *trainer(tree, setting), *training_flags(size)]
    kernels = {VARIABLE: REFERENCE} if subject.endswith(BY_REFERENCE) else {}
    done = subprocess.run(
        command, env=_environment(setting) | kernels, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    points, memory = read_log(run_dir), measured.read(run_dir)
    row = Row(bench="step", case=str(size), subject=subject, peer=subject in (STOCK, FUSED))
    if done.returncode or len(points) < size.iterations:
        return replace(row, failure=_why(run_dir, done.stderr))
    outcome = _outcome(points, memory, size)
    beyond = memory["peak"] - memory["after"] if memory.get("after") else None
    facts = {
        f"loss after {size.iterations} steps": points[-1].loss,
        "attention": attention,
        BEYOND: beyond,
    }
    return replace(row, time=outcome.time, peak_bytes=outcome.peak_bytes, facts=facts)


def _ratios(row: Row, stock: Row, fused: Row, setting: Setting) -> tuple[Ratio, ...]:
    time, time_fused, memory = LIMITS if setting.full and row.subject == LIMITED else (None, None, None)
    found = []
    for name, base, limit in ((f"time of {STOCK}", stock, time), ("time of bf16, attention auto", fused, time_fused)):
        if row.time and base.time and row is not base:
            found.append(Ratio(name, row.time.median / base.time.median, limit))
    mine, theirs = row.facts.get(BEYOND), stock.facts.get(BEYOND)
    if mine and theirs and row is not stock:
        found.append(Ratio(f"{BEYOND} of {STOCK}", mine / theirs, memory))
    elif row.peak_bytes and stock.peak_bytes and row is not stock:
        found.append(Ratio(f"peak memory of {STOCK}", row.peak_bytes / stock.peak_bytes))
    return tuple(found)


def rows(setting: Setting, say: Callable[[str], None], tree: Tree) -> Iterator[Row]:
    """Stock first; each row is a run of its own, on a staged copy of `tree`."""
    free_memory()  # what this process took for other benchmarks
    size = size_of(setting)
    subjects = QUICK if setting.quick else (STOCK, *SCRIPT_MODES)
    if family(setting.device) == CPU:
        subjects += (LIMITED + BY_REFERENCE,)
    done: dict[str, Row] = {}
    with tempfile.TemporaryDirectory(prefix="quantctl-bench-") as folder:
        for subject in subjects:
            say(subject)
            row = _run(subject, tree, size, setting, Path(folder))
            done[subject] = row
            yield replace(row, ratios=_ratios(row, done[STOCK], done.get(FUSED, row), setting))
