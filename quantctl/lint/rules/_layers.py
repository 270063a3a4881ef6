"""What rules about the local layers share: their norms, and patches of quantctl's."""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.case import Case
from quantctl.lint.rule import Hit, Severity


def rmsnorm(case: Case) -> bool:
    return case.text("--normalization") == "RMSNorm"


def torch_norm(case: Case) -> bool | None:
    """Whether the layers' norms are PyTorch's; Apex brings another LayerNorm, and no RMSNorm."""
    if not case.local or not case.is_megatron or case.text("--normalization") is None:
        return None
    apex = case.importable("apex")
    return True if rmsnorm(case) else None if apex is None else not apex


def te_is_there(case: Case) -> bool:
    return case.importable("transformer_engine") is True


def patched(case: Case, patch: str, message: str, flag: str, stock: bool) -> Iterator[Hit]:
    """A condition that a patch of quantctl's removes. `stock`: whether the release's own code has it."""
    lacks = case.lacks(patch)
    if lacks or (lacks is None and stock):
        yield Hit(message, (flag,), None if lacks else Severity.WARNING)
