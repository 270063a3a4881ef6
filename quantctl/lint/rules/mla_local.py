"""Multi-latent attention with stock local layers.

Severity: error

Why: DotProductAttention rejects MLA's head widths, and three releases need Transformer Engine

Fix: quantctl patch puts the patch in; quantctl exec does it for its own copy of the tree

Releases: all

Evidence: run on 0.12.3 to 0.19.0: TypeError in every stock release
"""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.case import Case
from quantctl.lint.rule import Hit
from quantctl.lint.rules._layers import patched, te_is_there


def check(case: Case) -> Iterator[Hit]:
    if not (case.local and case.is_megatron and case.has("--multi-latent-attention")):
        return
    flag = "--multi-latent-attention"
    yield from patched(
        case, "mla", "the local attention does not take MLA's k_channels and v_channels: TypeError", flag, True
    )
    if case.at_least("0.14") and not case.at_least("0.17") and not te_is_there(case):
        message = "MLA without Transformer Engine stops at isinstance(..., TELinear)"
        yield from patched(case, "mla_without_te", message, flag, True)
    if case.at_least("0.19") and case.has("--qk-layernorm") and case.has("--q-lora-rank") is False:
        message = "--qk-layernorm without --q-lora-rank: the norm's resolver refuses local layers"
        yield from patched(case, "mla_q_norm", message, "--qk-layernorm", True)
