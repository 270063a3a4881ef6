"""Fused kernels, on by default, that need packages which may not be there. Nothing is imported to find out."""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.case import TE, Case
from quantctl.lint.rule import Hit, Rule, Severity

_MOST_FUSED_KEYS = 4096


def _needs(case: Case, modules: tuple[str, ...], message: str, flag: str) -> Iterator[Hit]:
    """An error where the command is about to run and lacks all of `modules`, a note where another machine decides."""
    found = [case.importable(module) for module in modules]
    if None in found:
        yield Hit(f"{message}, where it trains", (flag,), Severity.NOTE)
    elif not any(found):
        yield Hit(f"{message}, which this machine does not have", (flag,))


def _gradient_accumulation(case: Case) -> Iterator[Hit]:
    flag = "--no-gradient-accumulation-fusion"
    if case.local and case.is_megatron and case.has(flag) is False:
        message = f"{flag} is missing: the fusion needs Apex's fused_weight_gradient_mlp_cuda"
        yield from _needs(case, ("fused_weight_gradient_mlp_cuda",), message, flag)


def _masked_softmax(case: Case) -> Iterator[Hit]:
    flag, keys = "--no-masked-softmax-fusion", case.size("--seq-length")
    half = case.has("--bf16") or case.has("--fp16")
    if case.local and case.is_megatron and case.has(flag) is False and half and keys and 16 < keys <= _MOST_FUSED_KEYS:
        message = f"{flag} is missing: the fusion needs the extension scaled_upper_triang_masked_softmax_cuda"
        yield from _needs(case, ("scaled_upper_triang_masked_softmax_cuda",), message, flag)


def _rope(case: Case) -> Iterator[Hit]:
    flag = "--no-rope-fusion"
    by_flag = case.has("--use-rotary-position-embeddings") or case.text("--position-embedding-type") == "rope"
    if case.local and case.is_megatron and by_flag and case.has(flag) is False:
        modules = ("transformer_engine",) if case.at_least("0.14") else ("transformer_engine", "apex")
        yield from _needs(case, modules, f"{flag} is missing: the fusion needs Transformer Engine", flag)


def _transformer_engine(case: Case) -> Iterator[Hit]:
    asked = case.is_megatron and case.implementation == TE
    if asked and case.importable("transformer_engine") is False:
        message = "transformer_engine layers are asked for, and Transformer Engine is not installed"
        yield Hit(message, ("--transformer-impl",))


def _apex_rmsnorm(case: Case) -> Iterator[Hit]:
    apex, engine = case.importable("apex"), case.importable("transformer_engine")
    if case.local and case.is_megatron and apex and engine is False and case.text("--normalization") == "RMSNorm":
        message = "Apex is there and Transformer Engine is not: the final norm is FusedLayerNorm, which has no RMSNorm"
        yield Hit(message, ("--normalization",))


_FIX = "add the flag; or install the package"
_WHERE = "An error where the command is about to run, a note for a script"

RULES = (
    Rule(
        id="gradient-accumulation-fusion",
        family="fusions",
        severity=Severity.ERROR,
        what="gradient accumulation fusion without Apex's extension",
        why="ColumnParallelLinear raises RuntimeError. " + _WHERE,
        fix=_FIX,
        releases="all",
        evidence="core/tensor_parallel/layers.py; run",
        check=_gradient_accumulation,
    ),
    Rule(
        id="masked-softmax-fusion",
        family="fusions",
        severity=Severity.ERROR,
        what="masked softmax fusion without its CUDA extension",
        why="ModuleNotFoundError in the first forward, with 17 to 4096 keys in half precision. " + _WHERE,
        fix=_FIX,
        releases="all",
        evidence="core/fusions/fused_softmax.py; run on an H200",
        check=_masked_softmax,
    ),
    Rule(
        id="rope-fusion",
        family="fusions",
        severity=Severity.ERROR,
        what="rotary fusion without Transformer Engine",
        why="TransformerConfig raises ValueError. " + _WHERE,
        fix=_FIX,
        releases="all",
        evidence="core/transformer/transformer_config.py; run on an H200",
        check=_rope,
    ),
    Rule(
        id="te-missing",
        family="fusions",
        severity=Severity.ERROR,
        what="transformer_engine layers without Transformer Engine",
        why="the layer spec cannot be built; only where the command is about to run",
        fix="pip install 'transformer-engine[pytorch]', or --transformer-impl local",
        releases="all",
        evidence="core/models/gpt/gpt_layer_specs.py",
        check=_transformer_engine,
    ),
    Rule(
        id="apex-rmsnorm",
        family="fusions",
        severity=Severity.ERROR,
        what="RMSNorm with Apex but without Transformer Engine",
        why=("the final norm is Apex's FusedLayerNorm, which rejects RMSNorm; only where the command is about to run"),
        fix="install Transformer Engine, or take Apex out",
        releases="all",
        evidence="core/transformer/transformer_block.py",
        check=_apex_rmsnorm,
    ),
)
