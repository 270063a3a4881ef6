"""Sizes that must divide, the environment that parallelism asks for, and evaluation's interval."""

from __future__ import annotations

import os
from collections.abc import Iterator

from quantctl.lint.arguments import is_unknown
from quantctl.lint.case import Case
from quantctl.lint.rule import Hit, Rule, Severity

_MODEL = ("--tensor-model-parallel-size", "--pipeline-model-parallel-size", "--context-parallel-size")
_FSDP = ("--use-torch-fsdp2", "--use-megatron-fsdp", "--use-custom-fsdp")
# these make other sizes count
_UNEVEN = ("--encoder-tensor-model-parallel-size", "--encoder-pipeline-model-parallel-size", "--gtp-weight-remat-size",
           "--tensor-parallel-num-weight-shards", "--hybrid-context-parallel")  # fmt: skip
_VARIABLE = "CUDA_DEVICE_MAX_CONNECTIONS"


def _model_size(case: Case) -> int | None:
    sizes = [case.size(name) if name in case.options else 1 for name in _MODEL]
    if None in sizes or any(case.has(name) is not False for name in _UNEVEN if name in case.options):
        return None
    product = 1
    for size in sizes:
        product *= size or 1
    return product


def _ranks(case: Case) -> tuple[int, Severity | None, str]:
    """How many there are (0: unknown), how sure that is, and how to say so: without --nnodes a job can add nodes."""
    processes, nodes = case.command.processes, case.command.nodes
    if nodes is None:
        return processes or 0, Severity.WARNING, " on one node"
    return (processes or 0) * nodes, None, ""


def _world(case: Case) -> Iterator[Hit]:
    (ranks, severity, where), model = _ranks(case), _model_size(case)
    if ranks and model and ranks % model and case.is_megatron:
        message = f"{ranks} ranks{where} are no multiple of tensor x pipeline x context parallelism = {model}"
        yield Hit(message, _MODEL, severity)


def _batch(case: Case) -> Iterator[Hit]:
    (ranks, severity, where), model = _ranks(case), _model_size(case)
    micro, whole = case.size("--micro-batch-size"), case.size("--global-batch-size")
    loose = ("--rampup-batch-size", "--decrease-batch-size-if-needed", "--step-batch-size-schedule")
    if not (ranks and model and micro and whole and case.is_megatron) or any(case.has(name) for name in loose):
        return
    if ranks % model == 0 and whole % (micro * (ranks // model)):
        split = f"micro batch {micro} x data parallelism {ranks // model}{where}"
        message = f"global batch {whole} is no multiple of {split}"
        yield Hit(message, ("--global-batch-size", "--micro-batch-size"), severity)


def _positions(case: Case) -> Iterator[Hit]:
    sequence, most = case.size("--seq-length"), case.size("--max-position-embeddings")
    if sequence and most and most < sequence:
        yield Hit(f"--max-position-embeddings {most} is below --seq-length {sequence}", ("--max-position-embeddings",))


def _heads(case: Case) -> Iterator[Hit]:
    tensor = case.size("--tensor-model-parallel-size")
    heads, groups = case.size("--num-attention-heads"), case.size("--num-query-groups")
    if tensor and heads and heads % tensor:
        yield Hit(f"{heads} heads are no multiple of tensor parallelism {tensor}", ("--num-attention-heads",))
    if case.has("--group-query-attention") and groups and heads and heads % groups:
        yield Hit(f"{heads} heads are no multiple of {groups} query groups", ("--num-query-groups",))


def _connections(case: Case) -> Iterator[Hit]:
    sizes = {name: case.size(name) for name in (_MODEL[0], _MODEL[2]) if name in case.options}
    if not case.is_megatron or not any(size and size > 1 for size in sizes.values()):
        return
    if (
        case.has("--overlap-moe-expert-parallel-comm") is not False
        and "--overlap-moe-expert-parallel-comm" in case.options
    ):
        return
    value = case.command.environment.get(_VARIABLE)
    if value is None and case.setting.here:
        value = os.environ.get(_VARIABLE)
    fsdp = [name for name in _FSDP if case.has(name)]
    which = next(name for name, size in sizes.items() if size and size > 1)
    if (value is not None and (value == "1" or is_unknown(value))) or fsdp:
        return
    says = f"is {value}" if value is not None else "is not set"
    yield Hit(f"{which} above 1 and {_VARIABLE} {says}: validate_args asserts 1 on GPUs before Blackwell", (which,))


def _fsdp(case: Case) -> Iterator[Hit]:
    value = case.command.environment.get(_VARIABLE)
    for name in _FSDP:
        if case.has(name) and case.is_megatron and value == "1":
            yield Hit(f"{name} with {_VARIABLE}=1: validate_args asserts another value", (name,))


def _evaluation(case: Case) -> Iterator[Hit]:
    option = case.options.get("--eval-interval")
    if option is None or option.default != "None" or case.has("--eval-interval") is not False or not case.is_megatron:
        return
    if any(case.has(name) is not False for name in ("--full-validation", "--skip-train", "--train-samples")):
        return
    yield Hit("--eval-interval is missing: train_iters // None is a TypeError, also with --eval-iters 0",
              ("--eval-interval", "--eval-iters"))  # fmt: skip


RULES = (
    Rule(
        id="world-size",
        family="parallel",
        severity=Severity.ERROR,
        what="ranks that the parallel sizes do not divide",
        why="validate_args asserts it",
        fix="change --nproc-per-node, --nnodes or the parallel sizes",
        releases="all",
        evidence="training/arguments.py",
        check=_world,
    ),
    Rule(
        id="batch-size",
        family="parallel",
        severity=Severity.ERROR,
        what="a global batch that micro batches and ranks do not divide",
        why="the microbatch calculator asserts it",
        fix="make it a multiple of micro batch x data parallelism",
        releases="all",
        evidence="core/num_microbatches_calculator.py",
        check=_batch,
    ),
    Rule(
        id="sequence-length",
        family="parallel",
        severity=Severity.ERROR,
        what="sequences longer than the position embeddings",
        why="validate_args asserts it",
        fix="raise --max-position-embeddings",
        releases="all",
        evidence="training/arguments.py",
        check=_positions,
    ),
    Rule(
        id="heads",
        family="parallel",
        severity=Severity.ERROR,
        what="heads that tensor parallelism or query groups do not divide",
        why="TransformerConfig raises ValueError",
        fix="choose sizes that divide",
        releases="all",
        evidence="core/transformer/transformer_config.py",
        check=_heads,
    ),
    Rule(
        id="cuda-connections",
        family="parallel",
        severity=Severity.WARNING,
        what="tensor or context parallelism without CUDA_DEVICE_MAX_CONNECTIONS=1",
        why="the trainer stops at an assert on every GPU before Blackwell",
        fix="export CUDA_DEVICE_MAX_CONNECTIONS=1",
        releases="all",
        evidence="training/arguments.py, get_device_arch_version() < 10",
        check=_connections,
    ),
    Rule(
        id="cuda-connections-fsdp",
        family="parallel",
        severity=Severity.ERROR,
        what="FSDP with CUDA_DEVICE_MAX_CONNECTIONS=1",
        why="validate_args asserts another value",
        fix="unset CUDA_DEVICE_MAX_CONNECTIONS",
        releases="all",
        evidence="training/arguments.py",
        check=_fsdp,
    ),
    Rule(
        id="eval-interval",
        family="parallel",
        severity=Severity.ERROR,
        what="no --eval-interval",
        why="the number of validation samples is computed from it, and its default became None",
        fix="add --eval-interval 1000; --eval-iters 0 switches validation off",
        releases="0.16 and later",
        evidence="training/training.py, build_train_valid_test_datasets; run on an H200",
        check=_evaluation,
    ),
)
