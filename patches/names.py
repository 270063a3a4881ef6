"""Tells each module that computes products its name, once a model is built, and what the selectors say of it.

A selector's rules speak of layers and modules, and no product knows whose it is. The names are those of
named_modules(); `quantctl.kernels.modules` numbers their layers over all pipeline stages, resolves the selectors, and
refuses rules that fit nothing before the first step. Other models than GPTModel take selectors without rules only.
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


PATCH = Patch(
    name="names",
    file="megatron/core/models/gpt/gpt_model.py",
    why="rules of a selector speak of layers and modules, and products know neither",
    releases="0.10 - 0.19, main",
    mark=b"quantctl_modules",
    edits=(Edit(Kind.LAST, "GPTModel.__init__", "", _NAME),),
    required=False,
)
