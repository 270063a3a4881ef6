"""What the local layers of a tree, with its patches, can and cannot build."""

from __future__ import annotations

from collections.abc import Iterator

from quantctl.lint.case import Case
from quantctl.lint.rule import Hit, Rule, Severity

_PATCH = "quantctl patch puts the patch in; quantctl exec does it for its own copy of the tree"


def _rmsnorm(case: Case) -> bool:
    return case.text("--normalization") == "RMSNorm"


def _torch_norm(case: Case) -> bool | None:
    """Whether the layers' norms are PyTorch's; Apex brings another LayerNorm, and no RMSNorm."""
    if not case.local or not case.is_megatron or case.text("--normalization") is None:
        return None
    apex = case.importable("apex")
    return True if _rmsnorm(case) else None if apex is None else not apex


def _persist(case: Case) -> Iterator[Hit]:
    if case.has("--no-persist-layer-norm") is False and case.local and case.is_megatron:
        which = _torch_norm(case)
        if which is not False:
            severity = None if which else Severity.WARNING
            unless = "" if which else ", unless Apex is installed"
            yield Hit(f"--no-persist-layer-norm is missing: PyTorch's norm stops at an assert{unless}",
                      ("--no-persist-layer-norm",), severity)  # fmt: skip


def _sequence_parallel(case: Case) -> Iterator[Hit]:
    if case.sequence_parallel and case.local and case.is_megatron and _torch_norm(case) is not False:
        lacks = case.lacks("rmsnorm_sp")
        if not _rmsnorm(case):
            lacks, which = True, "LayerNorm without Apex"
        else:
            which = "RMSNorm"
        if lacks is not False:
            sure = _torch_norm(case) and lacks
            yield Hit(f"--sequence-parallel with {which}: the local layers' norm stops at an assert",
                      ("--sequence-parallel", "--normalization"), None if sure else Severity.WARNING)  # fmt: skip


def _moe_tensor_parallel(case: Case) -> Iterator[Hit]:
    tensor = case.size("--tensor-model-parallel-size")
    if case.has("--num-experts") and tensor and tensor > 1 and case.has("--sequence-parallel") is False:
        message = f"experts with tensor parallelism {tensor} but no --sequence-parallel: MoELayer raises ValueError"
        yield Hit(message, ("--num-experts", "--tensor-model-parallel-size", "--sequence-parallel"))


def _te_is_there(case: Case) -> bool:
    return case.importable("transformer_engine") is True


def _patched(case: Case, patch: str, message: str, flag: str, stock: bool) -> Iterator[Hit]:
    """A condition that a patch of quantctl's removes. `stock`: whether the release's own code has it."""
    lacks = case.lacks(patch)
    if lacks or (lacks is None and stock):
        yield Hit(message, (flag,), None if lacks else Severity.WARNING)


def _mla(case: Case) -> Iterator[Hit]:
    if not (case.local and case.is_megatron and case.has("--multi-latent-attention")):
        return
    flag = "--multi-latent-attention"
    yield from _patched(
        case, "mla", "the local attention does not take MLA's k_channels and v_channels: TypeError", flag, True
    )
    if case.at_least("0.14") and not case.at_least("0.17") and not _te_is_there(case):
        message = "MLA without Transformer Engine stops at isinstance(..., TELinear)"
        yield from _patched(case, "mla_without_te", message, flag, True)
    if case.at_least("0.19") and case.has("--qk-layernorm") and case.has("--q-lora-rank") is False:
        message = "--qk-layernorm without --q-lora-rank: the norm's resolver refuses local layers"
        yield from _patched(case, "mla_q_norm", message, "--qk-layernorm", True)


def _moe_without_te(case: Case) -> Iterator[Hit]:
    inside = case.at_least("0.13") and not case.at_least("0.17")
    if case.local and case.is_megatron and case.has("--num-experts") and inside and not _te_is_there(case):
        message = "experts without Transformer Engine: the router stops at a NameError, te_general_gemm"
        absent = case.importable("transformer_engine") is False
        for hit in _patched(case, "moe_without_te", message, "--num-experts", True):
            yield Hit(hit.message, hit.parameters, hit.severity if absent else Severity.WARNING)


def _mtp_without_te(case: Case) -> Iterator[Hit]:
    if (
        case.local
        and case.is_megatron
        and case.has("--mtp-num-layers")
        and case.importable("transformer_engine") is False
    ):
        message = (
            "MTP layers without Transformer Engine: isinstance(..., InferenceColumnParallelLinear) raises TypeError"
        )
        yield from _patched(case, "mtp_without_te", message, "--mtp-num-layers", case.at_least("0.20"))


def _grouped(case: Case) -> Iterator[Hit]:
    if not (case.local and case.is_megatron and case.has("--moe-grouped-gemm")) or case.at_least("0.17"):
        return
    flag = ("--moe-grouped-gemm",)
    if "linear" in case.quantized:
        yield Hit("--moe-grouped-gemm: the experts' products go past the linear selector", flag)
    elif case.importable("grouped_gemm") is False:
        yield Hit("--moe-grouped-gemm needs the package grouped_gemm, which is not installed", flag)


def _latent(case: Case) -> Iterator[Hit]:
    if case.local and case.is_megatron and case.has("--moe-latent-size") and "linear" in case.quantized:
        yield Hit("--moe-latent-size: its two projections go past the linear selector", ("--moe-latent-size",))


def _query_norm(case: Case) -> Iterator[Hit]:
    asked = all(case.has(name) for name in ("--multi-latent-attention", "--q-lora-rank", "--qk-layernorm"))
    ranks = case.size("--tensor-model-parallel-size") or 1
    if case.local and case.is_megatron and asked and ranks > 1 and case.sequence_parallel is False:
        message = f"the gradient of the queries' norm becomes {ranks} times too large, and with it the gradient norm"
        yield Hit(message, ("--sequence-parallel", "--qk-layernorm"))


def _grouped_query(case: Case) -> Iterator[Hit]:
    if case.has("--multi-latent-attention") and case.has("--group-query-attention") and case.at_least("0.16"):
        yield Hit("--group-query-attention excludes --multi-latent-attention", ("--group-query-attention",))


_NORM = "core/transformer/torch_norm.py, WrappedTorchNorm.__new__; run on 0.12.3, 0.16.1, 0.19.0"

RULES = (
    Rule(
        id="persist-layer-norm",
        family="layers",
        severity=Severity.ERROR,
        what="local layers without --no-persist-layer-norm",
        why="PyTorch's norm has no persistent kernel and asserts so",
        fix="add --no-persist-layer-norm",
        releases="all",
        evidence=_NORM,
        check=_persist,
    ),
    Rule(
        id="norm-sequence-parallel",
        family="layers",
        severity=Severity.ERROR,
        what="sequence parallelism with PyTorch's norms",
        why="stock Megatron asserts; the patch rmsnorm_sp makes it work",
        fix=_PATCH + "; or drop --sequence-parallel",
        releases="all",
        evidence=_NORM,
        check=_sequence_parallel,
    ),
    Rule(
        id="moe-tensor-parallel",
        family="layers",
        severity=Severity.ERROR,
        what="experts with tensor parallelism but no sequence parallelism",
        why="MoELayer.forward raises ValueError in training",
        fix="add --sequence-parallel, or use expert parallelism with --tensor-model-parallel-size 1",
        releases="all",
        evidence="core/transformer/moe/moe_layer.py",
        check=_moe_tensor_parallel,
    ),
    Rule(
        id="mla-local",
        family="layers",
        severity=Severity.ERROR,
        what="multi-latent attention with stock local layers",
        why=("DotProductAttention rejects MLA's head widths, and three releases need Transformer Engine"),
        fix=_PATCH,
        releases="all",
        evidence="run on 0.12.3 to 0.19.0: TypeError in every stock release",
        check=_mla,
    ),
    Rule(
        id="moe-without-te",
        family="layers",
        severity=Severity.ERROR,
        what="experts without Transformer Engine",
        why="the router asks for a name that only Transformer Engine's import binds",
        fix=_PATCH,
        releases="0.13 - 0.16",
        evidence="run: NameError te_general_gemm",
        check=_moe_without_te,
    ),
    Rule(
        id="mtp-without-te",
        family="layers",
        severity=Severity.ERROR,
        what="multi-token prediction without Transformer Engine",
        why="an isinstance on a name that is no class",
        fix=_PATCH,
        releases="main",
        evidence="run: TypeError",
        check=_mtp_without_te,
    ),
    Rule(
        id="grouped-gemm",
        family="layers",
        severity=Severity.ERROR,
        what="--moe-grouped-gemm with local layers",
        why=("GroupedMLP calls gg.ops.gmm: no selector sees it, and it needs the package grouped_gemm"),
        fix="take --moe-grouped-gemm out",
        releases="up to 0.16.1",
        evidence="core/transformer/moe/experts.py",
        check=_grouped,
        unseen=True,
    ),
    Rule(
        id="moe-latent-size",
        family="layers",
        severity=Severity.ERROR,
        what="--moe-latent-size with local layers and a linear format",
        why="the projections to and from the latent size are always Transformer Engine's: they stay bf16",
        fix="take --moe-latent-size out, or set linear to none",
        releases="0.16 and later",
        evidence="core/transformer/moe/moe_layer.py, MoELayer.__init__: TELinear",
        check=_latent,
        unseen=True,
    ),
    Rule(
        id="mla-query-norm",
        family="layers",
        severity=Severity.WARNING,
        what="MLA's query norm under tensor parallelism without sequence parallelism",
        why="finalize_model_grads sums what is called q_layernorm over the ranks, which all have the whole gradient",
        fix="add --sequence-parallel",
        releases="all",
        evidence="core/distributed/finalize_model_grads.py, _allreduce_non_tensor_model_parallel_grads",
        check=_query_norm,
    ),
    Rule(
        id="gqa-with-mla",
        family="layers",
        severity=Severity.ERROR,
        what="grouped queries with multi-latent attention",
        why="validate_args asserts that they exclude each other",
        fix="take --group-query-attention out",
        releases="0.16 and later",
        evidence="training/arguments.py",
        check=_grouped_query,
    ),
)
