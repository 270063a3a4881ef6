"""Tells each module that computes products its name, once a model is built, and what the selectors say of it.

A selector's rules speak of layers and modules, and no product knows whose it is. The names are those of
named_modules(); `quantctl.kernels.modules` numbers their layers over all pipeline stages, resolves the selectors, and
refuses rules that fit nothing before the first step. Models without this patch take selectors without rules only.
"""

from __future__ import annotations

from quantctl.patches.patch import Edit, Kind, Patch

_NAME = """
# quantctl: modules learn their names, and what the selectors' rules say of them
from megatron.core.tensor_parallel import layers as quant_layers
from megatron.core.transformer import dot_product_attention as quant_attention

quant_types = {
    name: value
    for place in (quant_layers, quant_attention)
    for name, value in vars(place).items()
    if name.startswith('custom_quant_type_')
}
if set(quant_types.values()) - {'none'}:
    from quantctl.kernels import modules as quantctl_modules  # missing? pip install quantctl, or set 'none'

    quantctl_modules.name(self, quant_types)
"""


def _patch(name: str, file: str, model: str, releases: str) -> Patch:
    return Patch(
        name=name,
        file=f"megatron/core/models/{file}",
        why="rules of a selector speak of layers and modules, and products know neither",
        releases=releases,
        mark=b"quantctl_modules",
        edits=(Edit(Kind.LAST, f"{model}.__init__", "", _NAME),),
        required=False,
        needed=rf"^class {model}\(LanguageModule\b".encode(),
    )


PATCHES = (
    _patch("names", "gpt/gpt_model.py", "GPTModel", "0.10 - 0.19, main"),
    _patch("names_mamba", "mamba/mamba_model.py", "MambaModel", "0.10 - 0.18"),
    _patch("names_hybrid", "hybrid/hybrid_model.py", "HybridModel", "0.19, main"),
)
