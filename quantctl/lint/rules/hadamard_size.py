"""A length that a Hadamard transform does not divide.

Severity: error

Why: the layer refuses it at its first product

Fix: choose a size that divides the hidden sizes on a rank, and for wgrad the tokens of a micro batch

Releases: all

Evidence: kernels/formats/hadamard.py
"""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.case import Case
from quantctl.lint.rule import Hit
from quantctl.lint.rules.block_tail import reduced
from quantctl.spec import NONE

Lengths = list[tuple[str, int | None, str]]


def _reduced_by(case: Case, role: str, sizes: Lengths) -> dict[str, Lengths]:
    """Product -> what it may reduce; of attention the forward's alone."""
    if role != "linear":
        return {"fprop": sizes}
    tokens = ("tokens of a micro batch", _tokens(case), "--seq-length")
    return {"fprop": sizes, "dgrad": sizes, "wgrad": [tokens]}


def _tokens(case: Case) -> int | None:
    """Of a micro batch on a rank of a linear layer; None where that is not plain."""
    sequence, batch = case.size("--seq-length"), case.size("--micro-batch-size")
    parts = case.size("--context-parallel-size") or 1
    return sequence * batch // parts if sequence and batch else None


def check(case: Case) -> Iterator[Hit]:
    if not case.local:
        return
    for role, sizes in reduced(case).items():
        for specs in case.products.get(role, ()):
            for product, lengths in _reduced_by(case, role, sizes).items():
                size = getattr(specs, product)[0].spec.transform[0]
                for what, length, flag in lengths if size != NONE else ():
                    if length is not None and length % int(size):
                        yield Hit(f"{what} {length} is no multiple of {product}'s hadamard={size} ({role})", (flag,))
