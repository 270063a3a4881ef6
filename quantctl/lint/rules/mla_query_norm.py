"""MLA's query norm under tensor parallelism without sequence parallelism.

Severity: warning

Why: finalize_model_grads sums what is called q_layernorm over the ranks, which all have the whole gradient

Fix: add --sequence-parallel

Releases: all

Evidence: core/distributed/finalize_model_grads.py, _allreduce_non_tensor_model_parallel_grads
"""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.case import Case
from quantctl.lint.rule import Hit


def check(case: Case) -> Iterator[Hit]:
    asked = all(case.has(name) for name in ("--multi-latent-attention", "--q-lora-rank", "--qk-layernorm"))
    ranks = case.size("--tensor-model-parallel-size") or 1
    if case.local and case.is_megatron and asked and ranks > 1 and case.sequence_parallel is False:
        message = f"the gradient of the queries' norm becomes {ranks} times too large, and with it the gradient norm"
        yield Hit(message, ("--sequence-parallel", "--qk-layernorm"))
