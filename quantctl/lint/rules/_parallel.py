"""What rules about parallel sizes share: ranks, and how many of them hold one model."""

from __future__ import annotations

from quantctl.lint.case import Case
from quantctl.lint.rule import Severity

MODEL = ("--tensor-model-parallel-size", "--pipeline-model-parallel-size", "--context-parallel-size")

FSDP = ("--use-torch-fsdp2", "--use-megatron-fsdp", "--use-custom-fsdp")

# these make other sizes count
UNEVEN = ("--encoder-tensor-model-parallel-size", "--encoder-pipeline-model-parallel-size", "--gtp-weight-remat-size",
           "--tensor-parallel-num-weight-shards", "--hybrid-context-parallel")  # fmt: skip

VARIABLE = "CUDA_DEVICE_MAX_CONNECTIONS"


def model_size(case: Case) -> int | None:
    sizes = [case.size(name) if name in case.options else 1 for name in MODEL]
    if None in sizes or any(case.has(name) is not False for name in UNEVEN if name in case.options):
        return None
    product = 1
    for size in sizes:
        product *= size or 1
    return product


def rank_count(case: Case) -> tuple[int, Severity | None, str]:
    """How many there are (0: unknown), how sure that is, and how to say so: without --nnodes a job can add nodes."""
    processes, nodes = case.command.processes, case.command.nodes
    if nodes is None:
        return processes or 0, Severity.WARNING, " on one node"
    return (processes or 0) * nodes, None, ""
