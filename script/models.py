"""The three models: true architectures, reduced ones of the same kind for smoke runs, and their layouts.

Sizes are those of the published Hugging Face configurations.
"""

from __future__ import annotations

from dataclasses import replace

from quantctl.script.architecture import Architecture, Mla, Model, Moe, Recipe

_LLAMA31_8B = Architecture(
    num_layers=32,
    hidden_size=4096,
    ffn_hidden_size=14336,
    num_attention_heads=32,
    num_query_groups=8,
    kv_channels=128,
    max_position_embeddings=131072,
    rotary_base=500000,
    rope_scaling_factor=8.0,
    tied_embeddings=False,
    vocab_size=128256,
    make_vocab_size_divisible_by=128,
    norm_epsilon=1e-5,
    init_method_std=0.02,
)

_LLAMA32_1B = replace(
    _LLAMA31_8B,
    num_layers=16,
    hidden_size=2048,
    ffn_hidden_size=8192,
    kv_channels=64,
    rope_scaling_factor=32.0,
    tied_embeddings=True,
)

_DEEPSEEK2_LITE_MLA = Mla(
    kv_lora_rank=512,
    qk_head_dim=128,
    qk_pos_emb_head_dim=64,
    v_head_dim=128,
    rotary_scaling_factor=40.0,
    mscale=0.707,
    mscale_all_dim=0.707,
)

_DEEPSEEK2_LITE_MOE = Moe(
    num_experts=64,
    topk=6,
    ffn_hidden_size=1408,
    shared_intermediate_size=2816,
    dense_layers=1,
    aux_loss_coeff=0.001,
)

_DEEPSEEK2_LITE = Architecture(
    num_layers=27,
    hidden_size=2048,
    ffn_hidden_size=10944,
    num_attention_heads=16,
    num_query_groups=None,
    kv_channels=None,
    max_position_embeddings=4096,
    rotary_base=10000,
    rope_scaling_factor=None,
    tied_embeddings=False,
    vocab_size=102400,
    # the tokenizer has 100,0xx entries, the embedding 102,400 rows: 32 * 3200
    make_vocab_size_divisible_by=3200,
    norm_epsilon=1e-6,
    # the paper's; the published config.json says 0.02, the library's default
    init_method_std=0.006,
    mla=_DEEPSEEK2_LITE_MLA,
    moe=_DEEPSEEK2_LITE_MOE,
)

# at four times this rate two runs that differ in the order of a sum end 0.3 apart: docs/evidence.md
_SMOKE_RECIPE = Recipe(seq_length=128, micro_batch_size=8, lr=1e-3, min_lr=1e-4)

MODELS: dict[str, Model] = {
    model.name: model
    for model in (
        Model(
            name="llama31-8b",
            title="Llama 3.1 8B",
            source="arXiv 2407.21783; huggingface.co/meta-llama/Llama-3.1-8B config.json",
            tokenizer="meta-llama/Llama-3.1-8B",
            full=_LLAMA31_8B,
            full_recipe=Recipe(
                seq_length=4096,
                micro_batch_size=1,
                lr=3e-4,
                min_lr=3e-5,
                tensor_parallel=2,
                recompute_modules=("core_attn",),
            ),
            # GQA 4:1, ffn 3.5 x hidden, untied, scaling x8
            smoke=replace(
                _LLAMA31_8B,
                num_layers=4,
                hidden_size=128,
                ffn_hidden_size=448,
                num_attention_heads=4,
                num_query_groups=1,
                kv_channels=32,
                vocab_size=None,
            ),
            smoke_recipe=_SMOKE_RECIPE,
            memory="8.03e9 parameters over TP 2: weights and fp32 gradients 6 B x 4.02e9 = 24, optimizer 12 B x "
            "4.02e9 / DP 4 = 12, activations of 32 layers at about 0.45 = 14, one layer's attention "
            "recomputed 4, logits 3: 57.",
        ),
        Model(
            name="llama32-1b",
            title="Llama 3.2 1B",
            source="huggingface.co/meta-llama/Llama-3.2-1B config.json",
            tokenizer="meta-llama/Llama-3.2-1B",
            full=_LLAMA32_1B,
            full_recipe=Recipe(
                seq_length=4096,
                micro_batch_size=2,
                lr=3e-4,
                min_lr=3e-5,
                recompute_modules=("core_attn",),
            ),
            # GQA 4:1, ffn 4 x hidden, tied, scaling x32
            smoke=replace(
                _LLAMA32_1B,
                num_layers=4,
                hidden_size=128,
                ffn_hidden_size=512,
                num_attention_heads=4,
                num_query_groups=1,
                kv_channels=32,
                vocab_size=None,
            ),
            smoke_recipe=_SMOKE_RECIPE,
            memory="1.24e9 parameters: weights and fp32 gradients 6 B x 1.24e9 = 7, optimizer 12 B x 1.24e9 / DP 8 = "
            "2, activations of 16 layers at about 0.8 = 13, one layer's attention recomputed 11, logits 11: "
            "44.",
            note="a stock pretrain_gpt.py drops --rope-scaling-factor (8 then, not 32); the staged copy passes it on.",
        ),
        Model(
            name="deepseek2_lite",
            title="DeepSeek-V2-Lite",
            source="arXiv 2405.04434; huggingface.co/deepseek-ai/DeepSeek-V2-Lite config.json",
            tokenizer="deepseek-ai/DeepSeek-V2-Lite",
            full=_DEEPSEEK2_LITE,
            full_recipe=Recipe(
                seq_length=4096,
                micro_batch_size=1,
                lr=4.2e-4,
                min_lr=4.2e-5,
                expert_parallel=8,
                recompute_modules=("core_attn", "moe"),
            ),
            # MLA without query compression, first layer dense, shared experts, 6 of 64 experts
            smoke=replace(
                _DEEPSEEK2_LITE,
                num_layers=3,
                hidden_size=128,
                ffn_hidden_size=672,
                num_attention_heads=4,
                mla=replace(
                    _DEEPSEEK2_LITE_MLA, kv_lora_rank=32, qk_head_dim=64, qk_pos_emb_head_dim=32, v_head_dim=64
                ),
                moe=replace(_DEEPSEEK2_LITE_MOE, ffn_hidden_size=32, shared_intermediate_size=64),
                vocab_size=None,
                make_vocab_size_divisible_by=128,
            ),
            # the router's choices tip over with less: 0.02 apart at the others' rate
            smoke_recipe=replace(_SMOKE_RECIPE, lr=5e-4, min_lr=5e-5),
            memory="1.31e9 parameters outside the experts and 14.39e9 / EP 8 = 1.80e9 in them: weights and fp32 "
            "gradients 6 B x 3.11e9 = 19, optimizer 12 B x (1.31e9 / DP 8 + 1.80e9) = 24, activations of 27 "
            "layers at about 0.35 = 9, one expert layer recomputed 1, attention 3, logits 4: 60.",
            note="Stock releases reject local layers with MLA and experts; the staged copy has what they need.",
        ),
    )
}
"""Name -> model."""
