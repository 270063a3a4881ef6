"""Tags a model's output layer, so that its products obey `lm_head` and not `linear`.

The tag sits on the layer and not on its weight: with tied embeddings the weight arrives as an argument and belongs to
the embedding. Every language model of Megatron-core (GPT, Mamba, hybrid ones) passes setup_embeddings_and_output_layer
once its layers exist; multi-token prediction calls the same layer again.
"""

from __future__ import annotations

from quantctl.patches.patch import Edit, Kind, Patch

_TAG = """
if hasattr(self, 'output_layer'):
    self.output_layer.is_lm_head = True  # quantctl: obeys custom_quant_type_lm_head
"""

PATCH = Patch(
    name="lm_head",
    file="megatron/core/models/common/language_module/language_module.py",
    why="the linear functions cannot tell the output layer from other layers",
    releases="0.12 - 0.19",
    mark=b"is_lm_head",
    edits=(Edit(Kind.FIRST, "LanguageModule.setup_embeddings_and_output_layer", "", _TAG),),
)
