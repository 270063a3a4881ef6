"""--moe-latent-size with local layers and a linear format.

Severity: error

Why: the projections to and from the latent size are always Transformer Engine's: they stay bf16

Fix: take --moe-latent-size out, or set linear to none

Releases: 0.16 and later

Evidence: core/transformer/moe/moe_layer.py, MoELayer.__init__: TELinear
"""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.case import Case
from quantctl.lint.rule import Hit

UNSEEN = True
"""Products that a selector names are computed past it, and the proof cannot notice: exec refuses the command."""


def check(case: Case) -> Iterator[Hit]:
    if case.local and case.is_megatron and case.has("--moe-latent-size") and "linear" in case.quantized:
        yield Hit("--moe-latent-size: its two projections go past the linear selector", ("--moe-latent-size",))
