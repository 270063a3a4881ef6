"""Published training recipes by name: what their authors' papers and code say, as literals.

Each is what its source does by default. Where a source leaves layers out by a number that suits one model (the first
and last so many), the recipe has no rule: `--linear 'RECIPE'S LITERAL; layers 1-2,-8..-1: none'` adds one.
`quantctl list recipes` shows them; docs/numerics.md says of each part how it was verified.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Recipe(NamedTuple):
    """One recipe."""

    linear: str
    """The literal of the linear layers, canonical; the output layer and attention are computed as they are."""
    source: str
    """Paper with its section, or project with its file."""
    omits: str
    """What of the source it leaves out, or computes otherwise."""


_STATELESS = "nothing for linear layers; attention stays as it is, as by default there"

RECIPES: Mapping[str, Recipe] = {
    "te-current": Recipe(
        "fp8:gradient.elem=e5m2",
        "Transformer Engine, Float8CurrentScaling with Format.HYBRID (common/recipe/__init__.py)",
        _STATELESS,
    ),
    "te-mxfp8": Recipe(
        "mxfp8",
        "Transformer Engine, MXFP8BlockScaling (common/recipe/__init__.py); arXiv 2506.08027",
        _STATELESS,
    ),
    "te-block": Recipe(
        "fp8:scale=pow2,block=1x128,weight.block=128x128",
        "Transformer Engine, Float8BlockScaling with its defaults (common/recipe/__init__.py)",
        _STATELESS,
    ),
    "te-nvfp4": Recipe(
        "nvfp4:scale=multiply,weight.block=16x16,gradient.round=stochastic,wgrad.hadamard=16,wgrad.signs=fixed",
        "Transformer Engine, NVFP4BlockScaling (common/recipe/__init__.py); arXiv 2509.25149",
        "layers in the training dtype (first 2 and last 8 blocks of the paper's 12B: add a rule), its late switch of "
        "fprop (add `from 80%: fprop.format=none`); noise is Philox's as quantctl numbers it",
    ),
    "deepseek-v3": Recipe(
        "fp8:block=1x128,weight.block=128x128",
        "DeepSeek-V3, arXiv 2412.19437, section 3.3: E4M3 everywhere, fp32 scales",
        "its accumulation in intervals of 128, power-of-two scales and E5M6 of a few activations, optimizer states",
    ),
    "mxfp4-sr-rht": Recipe(
        "mxfp4:scale=floor,round=stochastic,headroom=3/4,hadamard=64,signs=random,fprop.format=none",
        "Training LLMs with MXFP4, arXiv 2502.20586; github.com/amazon-science/mxfp4-llm",
        "its FP8 forward (add fprop.format=fp8); the factor 16/9 stands behind each operand, not the product",
    ),
    "amd-mxfp4": Recipe(
        "mxfp4:scale=even,weight.block=32x32,wgrad.hadamard=16,wgrad.hadamard_out=fp32",
        "arXiv 2605.09825, as AMD's Primus-Turbo computes it",
        "nothing that a literal could say; that Primus-Turbo is the paper's code is inferred",
    ),
    "quartet-2": Recipe(
        "nvfp4:scale=multiply,round=stochastic,headroom=16/17,hadamard=32,signs=random,fprop.scale=4over6,"
        "fprop.round=nearest,fprop.headroom=none,fprop.hadamard=none,fprop.signs=none,"
        "dgrad.weight.source=forward,wgrad.input.source=forward",
        "Quartet II, arXiv 2601.22813; github.com/IST-DASLab",
        "MS-EDEN: elements are rounded stochastically here, there to nearest under scales that are; Hadamard of 32, as "
        "by default in its code, in place of 128",
    ),
    "hif8-ascend": Recipe(
        "hifp8:scale=fp32,gradient.target=224",
        "MindSpeed, te/pytorch/fp8/constants.py; arXiv 2409.16626",
        "nothing for linear layers: with one scale a tensor the backward's codes are the forward's",
    ),
    "mxfp8-32x32": Recipe(
        "mxfp8:weight.block=32x32",
        "MindSpeed's MXFP8, and Transformer Engine's MXFP8BlockScaling with 2D weights",
        _STATELESS,
    ),
    "fp8-hybrid": Recipe(
        "fp8:scale=pow2,gradient.elem=e5m2",
        "FP8 Formats for Deep Learning, arXiv 2209.05433; Megatron's --fp8-format hybrid",
        "delayed scaling: the scale is that of the tensor itself, so nothing has to be kept in checkpoints",
    ),
    "experts-mxfp4": Recipe(
        "fp8:block=1x128,weight.block=128x128; experts: fp8:block=1x128,weight.format=mxfp4",
        "routed experts with MXFP4 weights and FP8 1x128 activations, the rest as DeepSeek-V3",
        "packed MXFP4 weights: the masters stay in their dtype; a model without experts is refused",
    ),
}
"""Name -> recipe."""
