"""A command's model by its flags alone: the modules that compute products, named and numbered as Megatron builds them.

Sources: megatron/core/models/gpt/gpt_layer_specs.py, moe_module_specs.py, multi_token_prediction.py. Only GPTModel's
local and Transformer Engine's layers are known, and only where no flag changes what they consist of; of all else the
answer says why there is none. Tests hold it against models that the releases built.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

from quantctl.lint import own_model
from quantctl.lint.case import Case
from quantctl.lint.megatron_flags import table
from quantctl.lint.other_parsers import LOCAL, TE
from quantctl.lint.program import EMBEDDED, GPT
from quantctl.spec import Module
from quantctl.spec.outline import Outline

_LATENT_QUERIES = ("linear_q_down_proj", "linear_q_up_proj")
_LATENT = ("linear_kv_down_proj", "linear_kv_up_proj")
_MLP = ("linear_fc1", "linear_fc2")

_OTHER_MODELS = (
    "--experimental-attention-variant",
    "--enable-mhc-connections",
    "--hybrid-",
    "--is-hybrid-model",
    "--mamba-",
    "--heterogeneous-layers-config-",
    "--kitchen-",
    "--use-kitchen-attention",
    "--use-kitchen",
    "--moe-latent-size",
    "--mtp-hybrid-override-pattern",
    "--linear-attention-",
    "--dsa-",
    "--retro-",
    "--spec",
    "--use-legacy-models",
    "--use-grouped-gemm-for-shared-expert",
    "--encoder-num-layers",
    "--decoder-num-layers",
)
"""Flags, or families of them, under which GPTModel has other modules than those that are written here."""


_SPREAD = ("--pipeline-model-parallel-layout", "--mtp-standalone")
"""Flags that may put the depths of multi-token prediction on several pipeline stages."""
_FILES = {
    "--multi-latent-attention": own_model.LATENT,
    "--num-experts": own_model.EXPERTS,
    "--mtp-num-layers": own_model.PREDICTION,
}


@dataclass(frozen=True)
class Unknown:
    """No outline."""

    reason: str


class _Unclear(Exception):
    """A flag whose value decides and cannot be known."""


def outline(case: Case) -> Outline | Unknown:
    """The modules of the whole model; experts those of one rank, as it numbers them."""
    if reason := _other_model(case) or _own_model(case):
        return Unknown(reason)
    try:
        return _outline(case)
    except _Unclear as flag:
        return Unknown(f"what {flag} means is not known")


def _other_model(case: Case) -> str | None:
    """Why the command's model is not the one that is known here."""
    command = case.command
    if command.program not in (GPT, EMBEDDED):
        return f"{command.script} builds a model of its own"
    if command.foreign:
        return "an adaptor in front of the program changes the model"
    if command.opaque:
        return "it is not known what the command in front of the program starts"
    state = case.setting.state
    if state is not None and (state.forks or state.elsewhere):
        return "a fork's own code decides the formats"
    if case.arguments.open:
        return "not all of its flags are known"
    for given in case.arguments.given:
        stock = case.options if command.program == EMBEDDED else table(case.setting.release)
        if given.name not in stock:
            return f"{given.name} is no flag of Megatron-LM's {case.setting.release}"
        if any(given.name == flag or (flag.endswith("-") and given.name.startswith(flag)) for flag in _OTHER_MODELS):
            return f"{given.name} decides the layers"
    if case.implementation not in (LOCAL, TE):
        return "its layers are neither the local ones nor Transformer Engine's"
    return _experts_without_modules(case)


def _experts_without_modules(case: Case) -> str | None:
    local = case.implementation == LOCAL and not case.at_least("0.17")
    for flag in ("--moe-grouped-gemm",) if local else ("--moe-use-legacy-grouped-gemm",):
        if case.has(flag):
            return f"{flag} computes the experts without modules of their own"
    return None


def _own_model(case: Case) -> str | None:
    """What the tree's own code builds that Megatron's does not."""
    root = case.setting.root
    if root is None:
        return None
    files = [*own_model.DENSE]
    for flag, more in _FILES.items():
        files += more if case.has(flag) else ()
    program = case.command.script if case.command.program == GPT else None
    return own_model.strange(root, program, files)


def _outline(case: Case) -> Outline:
    layers = _size(case, "--num-layers")
    sparse = _sparse(case, layers)
    linear, attention = [], []
    for number in range(1, layers + 1):
        front = f"decoder.layers.{number - 1}."
        attention.append(Module(f"{front}self_attention.core_attention", number))
        linear += [Module(front + name, number) for name in _layer(case, sparse[number - 1])]
    inner = "mtp_model_layer" if case.at_least("0.17") else "transformer_layer"
    for depth in range(_depths(case)):
        front = f"mtp.layers.{depth}."
        attention.append(Module(f"{front}{inner}.self_attention.core_attention", None))
        linear.append(Module(f"{front}eh_proj", None))
        linear += [Module(f"{front}{inner}.{name}", None) for name in _layer(case, sparse[-1])]
    return Outline(
        layers,
        {
            "linear": tuple(linear),
            "lm_head": (Module("output_layer", None),),
            "qk": tuple(attention),
            "pv": tuple(attention),
        },
    )


def _layer(case: Case, sparse: bool) -> Iterator[str]:
    """The linear layers of one transformer layer, in the order in which they compute."""
    if case.has("--multi-latent-attention"):
        queries = _LATENT_QUERIES if case.has("--q-lora-rank") else ("linear_q_proj",)
        projections = (*queries, *_LATENT, "linear_proj")
    else:
        projections = ("linear_qkv", "linear_proj")
    yield from (f"self_attention.{name}" for name in projections)
    if not sparse:
        yield from (f"mlp.{name}" for name in _MLP)
        return
    if case.implementation == TE and case.has("--moe-grouped-gemm"):
        yield from (f"mlp.experts.{name}" for name in _MLP)
    else:
        yield from _single_experts(case)
    if case.has("--moe-shared-expert-intermediate-size"):
        yield from (f"mlp.shared_experts.{name}" for name in _MLP)


def _single_experts(case: Case) -> Iterator[str]:
    for expert in range(_size(case, "--num-experts") // _size(case, "--expert-model-parallel-size")):
        yield from (f"mlp.experts.local_experts.{expert}.{name}" for name in _MLP)


def _sparse(case: Case, layers: int) -> list[bool]:
    """Which layers have experts."""
    if not case.has("--num-experts"):
        return [False] * layers
    from quantctl.pretrain.flags import layer_frequency

    try:
        found = layer_frequency(case.text("--moe-layer-freq") or "")
    except argparse.ArgumentTypeError:
        raise _Unclear("--moe-layer-freq") from None
    if isinstance(found, int):
        return [index % found == 0 for index in range(layers)]
    if len(found) != layers:
        raise _Unclear("--moe-layer-freq")
    return [bool(one) for one in found]


def _depths(case: Case) -> int:
    """Layers of multi-token prediction; all depths may share one. Each pipeline stage numbers its own from 0."""
    if not case.has("--mtp-num-layers") or case.number("--mtp-num-layers") == 0:
        return 0
    depths = 1 if case.has("--mtp-use-repeated-layer") else _size(case, "--mtp-num-layers")
    if depths > 1 and (spread := next(filter(case.has, _SPREAD), None)):
        raise _Unclear(spread)
    return depths


def _size(case: Case, flag: str) -> int:
    found = case.size(flag)
    if found is None:
        raise _Unclear(flag)
    return found


def steps(case: Case) -> int | None:
    """Of the whole training, as Megatron-LM counts them; None where the flags do not say."""
    if iterations := case.size("--train-iters"):
        return iterations
    samples, batch = case.size("--train-samples"), case.size("--global-batch-size")
    varies = case.has("--rampup-batch-size") or case.has("--step-batch-size-schedule")
    return samples // batch if samples and batch and not varies else None
