"""Tags a model's output layer, so that its products obey `lm_head` and not `linear`.

The tag sits on the layer and not on its weight: with tied embeddings the weight arrives as an argument and belongs to
the embedding. Every language model of Megatron-core (GPT, Mamba, hybrid ones) passes setup_embeddings_and_output_layer
once its layers exist; multi-token prediction calls the same layer again. An output layer of Transformer Engine
(TELMHeadColumnParallelLinear, from 0.18 on with --fp8-output-proj) never reaches the selector, so it is refused there.
"""

from __future__ import annotations

from quantctl.patches.patch import Edit, Kind, Patch

_FORMER_TAG = """
if hasattr(self, 'output_layer'):
    self.output_layer.is_lm_head = True  # quantctl: obeys custom_quant_type_lm_head
    if tensor_parallel.layers.custom_quant_type_lm_head != 'none':
        from quantctl.kernels import linear as quantctl_linear  # missing? pip install quantctl, or set 'none'

        quantctl_linear.check_head(self.output_layer, tensor_parallel.layers.custom_quant_type_lm_head)
"""

_TAG = """
if hasattr(self, 'output_layer'):
    self.output_layer.is_lm_head = True  # quantctl: obeys custom_quant_type_lm_head
    self.output_layer.quant_layer = 'lm_head'
    if tensor_parallel.layers.custom_quant_type_lm_head != 'none':
        from quantctl.kernels import linear as quantctl_linear  # missing? pip install quantctl, or set 'none'

        quantctl_linear.check_head(self.output_layer, tensor_parallel.layers.custom_quant_type_lm_head)
"""

PATCH = Patch(
    name="lm_head",
    file="megatron/core/models/common/language_module/language_module.py",
    why="the linear functions cannot tell the output layer from other layers",
    releases="0.10 - 0.19, main",
    mark=b"is_lm_head",
    together=("linear",),
    edits=(Edit(Kind.FIRST, "LanguageModule.setup_embeddings_and_output_layer", "", _TAG),),
    edition=b"quant_layer",
    former=(Edit(Kind.FIRST, "LanguageModule.setup_embeddings_and_output_layer", "", _FORMER_TAG),),
)
