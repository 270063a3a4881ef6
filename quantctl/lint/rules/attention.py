"""Which attention a command asks for, and what the local one cannot do."""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.case import Case
from quantctl.lint.rule import Hit, Rule, Severity


def _context_parallel(case: Case) -> Iterator[Hit]:
    context = case.size("--context-parallel-size")
    if case.local and case.is_megatron and context and context > 1:
        yield Hit(
            f"--context-parallel-size {context}: the local attention stops at an assert", ("--context-parallel-size",)
        )


def _backend_local(case: Case) -> Iterator[Hit]:
    if case.text("--attention-backend") != "local" or not case.is_megatron:
        return
    spec = case.arguments.last("--spec")
    if (spec is None and case.has("--spec") is False) or (spec is not None and spec.values[:1] != ("local",)):
        yield Hit("--attention-backend local chooses no local attention: it asserts --spec local, and stops without it",
                  ("--attention-backend",))  # fmt: skip


def _backend_implicit(case: Case) -> Iterator[Hit]:
    if not case.is_megatron or "--attention-backend" not in case.options:
        return
    given = case.text("--attention-backend")
    if case.has("--attention-backend") is False or given == "auto":
        choose = "unfused is what the local layers compute" if case.local else "auto is Transformer Engine's own choice"
        severity = None if case.local else Severity.NOTE
        yield Hit(f"--attention-backend is not explicit: {choose}", ("--attention-backend",), severity)
    elif case.local and given in ("flash", "fused"):
        yield Hit(f"--attention-backend {given} is not looked at by the local layers: they compute unfused",
                  ("--attention-backend",), Severity.WARNING)  # fmt: skip


RULES = (
    Rule(
        id="context-parallel-local",
        family="attention",
        severity=Severity.ERROR,
        what="context parallelism with local layers",
        why="DotProductAttention asserts a context parallel size of 1",
        fix="use tensor or pipeline parallelism",
        releases="all",
        evidence="core/transformer/dot_product_attention.py",
        check=_context_parallel,
    ),
    Rule(
        id="attention-backend-local",
        family="attention",
        severity=Severity.ERROR,
        what="--attention-backend local",
        why=("it does not choose local attention; it asserts args.spec[0] == 'local' and crashes without --spec"),
        fix="use --attention-backend unfused with --transformer-impl local",
        releases="all",
        evidence="training/arguments.py; run",
        check=_backend_local,
    ),
    Rule(
        id="attention-backend-implicit",
        family="attention",
        severity=Severity.WARNING,
        what="--attention-backend not given, auto, or without effect",
        why="the run does not say which attention it computed",
        fix="add --attention-backend unfused with local layers, else flash, fused or unfused",
        releases="all",
        evidence="core/transformer/enums.py: the default is auto",
        check=_backend_implicit,
    ),
)
