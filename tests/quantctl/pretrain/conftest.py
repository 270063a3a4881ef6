"""Runs of the embedded trainer, each in a process of its own because Megatron keeps global state."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from warm_python import python

# how tools read Megatron-LM's log
ITERATION = re.compile(r"\biteration\s+(\d+)/\s*(\d+) \|(.*)$")
FIELD = re.compile(r"\s([^|:]+(?:\([^)]*\))?):\s+([-+0-9.eE]+|nan|inf)\s\|")
VALIDATION = re.compile(r"validation\S* loss at (?:iteration )?(\d+).*?\| lm loss value: (\S+)")

TINY = (
    "--num-layers 2 --hidden-size 32 --ffn-hidden-size 64 --num-attention-heads 4 --group-query-attention "
    "--num-query-groups 2 --seq-length 16 --max-position-embeddings 32 --position-embedding-type rope "
    "--use-rope-scaling --normalization RMSNorm --swiglu --disable-bias-linear --attention-dropout 0 "
    "--hidden-dropout 0 --transformer-impl local --no-persist-layer-norm --no-gradient-accumulation-fusion "
    "--no-masked-softmax-fusion --no-rope-fusion --micro-batch-size 2 --global-batch-size 4 --train-iters 10 "
    "--lr 0.01 --lr-decay-style cosine --lr-warmup-iters 2 --log-interval 1 --eval-interval 1000 --eval-iters 0"
)
MOCK = "--mock-data --tokenizer-type NullTokenizer --vocab-size 255"
TORCHRUN = "-m torch.distributed.run --rdzv-backend c10d --rdzv-endpoint localhost:0 --nproc-per-node"


@dataclass
class Run:
    status: int
    out: str
    err: str
    fields: dict[int, dict[str, float]] = field(init=False)
    """iteration -> the fields of its log line"""

    def __post_init__(self) -> None:
        found = [match for line in self.out.splitlines() if (match := ITERATION.search(line))]
        self.fields = {int(m[1]): {k: float(v) for k, v in FIELD.findall(m[3] + " ")} for m in found}

    @property
    def losses(self) -> dict[int, float]:
        return {iteration: fields["lm loss"] for iteration, fields in self.fields.items()}


def environment(tree: Path | None = None) -> dict[str, str]:
    """One thread, so that sums have one order; without the variables of a surrounding run."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("QUANTCTL_") and k != "MEGATRON_LM_PATH"}
    path = {"PYTHONPATH": str(tree)} if tree else {}
    return clean | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""} | path


def start(*flags: object, data: str = MOCK, ranks: int = 1, tree: Path | None = None) -> subprocess.Popen[str]:
    launcher = [*TORCHRUN.split(), str(ranks)] if ranks > 1 else []
    command = [sys.executable, *launcher, *_trainer(flags, data)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment(tree))


def _trainer(flags: Sequence[object], data: str) -> list[str]:
    return ["-m", "quantctl.pretrain", *TINY.split(), *data.split(), *map(str, flags)]


@pytest.fixture(scope="session")
def start_training() -> Callable[..., subprocess.Popen[str]]:
    """Start training the tiny model with more flags; `ranks` above 1 uses torchrun."""
    return start


@pytest.fixture(scope="session")
def train() -> Callable[..., Run]:
    """The same, to its end; `status` is what it must exit with."""

    def run(*flags: object, status: int = 0, data: str = MOCK, ranks: int = 1, tree: Path | None = None) -> Run:
        if ranks == 1:
            done = python(*_trainer(flags, data), env=environment(tree), timeout=120)
            found = Run(done.returncode, done.stdout, done.stderr)
        else:
            with start(*flags, data=data, ranks=ranks, tree=tree) as process:
                out, err = process.communicate(timeout=120)
            found = Run(process.returncode, out, err)
        assert found.status == status, found.err
        return found

    return run


@pytest.fixture(scope="session")
def prose() -> str:
    """Flags for the smoke corpus."""
    command = [sys.executable, "-m", "quantctl.data.corpus"]
    folder = subprocess.run(command, capture_output=True, text=True, check=True, env=environment()).stdout.strip()
    data = f"--data-path {folder}/text_document --split 950,50,0"
    return f"{data} --tokenizer-type HuggingFaceTokenizer --tokenizer-model {folder}"


@pytest.fixture(scope="session")
def scalars() -> Callable[[Path], dict[str, dict[int, float]]]:
    """Reads event files: tag -> step -> value, every float32 as it was written."""

    def read(folder: Path) -> dict[str, dict[int, float]]:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
        events.Reload()
        return {tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]}

    return read
