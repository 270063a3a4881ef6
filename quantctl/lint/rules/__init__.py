"""The rules, one module each. A rule's docstring says what it finds, why, the fix, in which releases, and how that is
known; its `check` finds it. `quantctl lint --explain RULE` and docs/lint.md are made from there.
"""

from __future__ import annotations

import importlib

from quantctl.lint.rule import Rule, described

_ORDER = {
    "flags": (
        "flag-unknown",
        "flag-removed",
        "flag-later",
        "flag-choice",
        "flag-value",
        "flag-count",
        "placeholder",
        "literal-quotes",
    ),
    "formats": (
        "selectors-never-run",
        "fp8-ignored",
        "recipe-without-format",
        "format-unknown",
        "name-says-otherwise",
        "block-tail",
        "hadamard-size",
        "ms-swift-te",
    ),
    "layers": (
        "persist-layer-norm",
        "norm-sequence-parallel",
        "moe-tensor-parallel",
        "mla-local",
        "moe-without-te",
        "mtp-without-te",
        "grouped-gemm",
        "moe-latent-size",
        "mla-query-norm",
        "gqa-with-mla",
    ),
    "attention": (
        "context-parallel-local",
        "attention-backend-local",
        "attention-backend-implicit",
    ),
    "fusions": (
        "gradient-accumulation-fusion",
        "masked-softmax-fusion",
        "rope-fusion",
        "te-missing",
        "apex-rmsnorm",
    ),
    "parallel": (
        "world-size",
        "batch-size",
        "sequence-length",
        "sequence-parallel-length",
        "pipeline-layers",
        "pipeline-layout",
        "heads",
        "expert-parallel",
        "overlap-param-gather",
        "save-interval",
        "cuda-connections",
        "cuda-connections-fsdp",
        "eval-interval",
    ),
    "start": ("stops-at-start",),
    "models": (
        "model-mismatch",
        "rope-scaling-missing",
        "rope-factor-dropped",
        "rope-factor-alone",
        "not-rotary",
        "yarn-factor",
        "yarn-original-length",
    ),
    "scripts": (
        "exit-status-lost",
        "unreadable",
    ),
}
"""Family -> its rules, in the order in which findings are shown."""


def _rule(family: str, name: str) -> Rule:
    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    return described(name, family, module.__doc__ or "", module.check, getattr(module, "UNSEEN", False))


FAMILIES = {family: tuple(_rule(family, name) for name in names) for family, names in _ORDER.items()}
RULES: dict[str, Rule] = {rule.id: rule for rules in FAMILIES.values() for rule in rules}
"""Id -> rule."""
