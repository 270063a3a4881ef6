"""The tables against the published Hugging Face configurations, typed here independently."""

from __future__ import annotations

import pytest

from quantctl.script import flags
from quantctl.script.models import MODELS
from quantctl.script.parameters import active_parameters, parameters

# config.json of the published checkpoints, in Hugging Face's words
PUBLISHED = {
    "llama31-8b": {
        "num_hidden_layers": 32,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 131072,
        "rope_theta": 500000,
        "rope_scaling.factor": 8,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "vocab_size": 128256,
        "initializer_range": 0.02,
    },
    "llama32-1b": {
        "num_hidden_layers": 16,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "max_position_embeddings": 131072,
        "rope_theta": 500000,
        "rope_scaling.factor": 32,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "vocab_size": 128256,
        "initializer_range": 0.02,
    },
    "deepseek2_lite": {
        "num_hidden_layers": 27,
        "hidden_size": 2048,
        "intermediate_size": 10944,
        "num_attention_heads": 16,
        # max_position_embeddings is 163840 there: releases up to 0.13.1 take the flag for the original length
        "rope_scaling.original_max_position_embeddings": 4096,
        "rope_theta": 10000,
        "rope_scaling.factor": 40,
        "rope_scaling.mscale": 0.707,
        "rope_scaling.mscale_all_dim": 0.707,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "vocab_size": 102400,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "n_routed_experts": 64,
        "num_experts_per_tok": 6,
        "moe_intermediate_size": 1408,
        "n_shared_experts": 2,
        "first_k_dense_replace": 1,
        "aux_loss_alpha": 0.001,
    },
}

# Hugging Face's word -> Megatron's flag, where the value is the same number
SAME = {
    "num_hidden_layers": "--num-layers",
    "hidden_size": "--hidden-size",
    "intermediate_size": "--ffn-hidden-size",
    "num_attention_heads": "--num-attention-heads",
    "num_key_value_heads": "--num-query-groups",
    "head_dim": "--kv-channels",
    "max_position_embeddings": "--max-position-embeddings",
    "rope_scaling.original_max_position_embeddings": "--max-position-embeddings",
    "rope_theta": "--rotary-base",
    "rope_scaling.mscale": "--mscale",
    "rope_scaling.mscale_all_dim": "--mscale-all-dim",
    "rms_norm_eps": "--norm-epsilon",
    "vocab_size": "--vocab-size",
    "initializer_range": "--init-method-std",
    "kv_lora_rank": "--kv-lora-rank",
    "qk_nope_head_dim": "--qk-head-dim",
    "qk_rope_head_dim": "--qk-pos-emb-head-dim",
    "v_head_dim": "--v-head-dim",
    "n_routed_experts": "--num-experts",
    "num_experts_per_tok": "--moe-router-topk",
    "moe_intermediate_size": "--moe-ffn-hidden-size",
    "aux_loss_alpha": "--moe-aux-loss-coeff",
}


def full_flags(model: str) -> dict[str, list[str]]:
    return {line[0]: list(line[1:]) for line in flags.architecture(MODELS[model].full)}


@pytest.mark.parametrize(("model", "word"), [(m, w) for m, row in PUBLISHED.items() for w in row if w in SAME])
def test_a_size_is_the_published_one(model, word):
    assert [float(value) for value in full_flags(model)[SAME[word]]] == [PUBLISHED[model][word]]


@pytest.mark.parametrize("model", PUBLISHED)
def test_what_is_no_plain_number(model):
    row, given = PUBLISHED[model], full_flags(model)
    assert ("--untie-embeddings-and-output-weights" in given) is not row["tie_word_embeddings"]
    assert ("--group-query-attention" in given) is ("num_key_value_heads" in row)
    scaling = "--rotary-scaling-factor" if "kv_lora_rank" in row else "--rope-scaling-factor"
    assert float(given[scaling][0]) == row["rope_scaling.factor"]
    assert ("--use-rope-scaling" in given) is ("kv_lora_rank" not in row)
    assert {"--swiglu", "--disable-bias-linear"} <= given.keys()
    assert given["--normalization"] == ["RMSNorm"]


def test_deepseek_has_one_dense_layer_and_two_shared_experts():
    row, given = PUBLISHED["deepseek2_lite"], full_flags("deepseek2_lite")
    (pattern,) = given["--moe-layer-freq"]
    layers = eval(pattern)
    dense = row["first_k_dense_replace"]
    assert layers == [0] * dense + [1] * (row["num_hidden_layers"] - dense)
    shared = row["n_shared_experts"] * row["moe_intermediate_size"]
    assert given["--moe-shared-expert-intermediate-size"] == [str(shared)]
    assert {"--multi-latent-attention", "--qk-layernorm", "--moe-router-pre-softmax"} <= given.keys()
    assert "--q-lora-rank" not in given


def test_initial_weights_of_deepseek_are_the_papers():
    assert full_flags("deepseek2_lite")["--init-method-std"] == ["0.006"]


def counted(given: dict[str, list[str]]) -> tuple[int, int]:
    """All weights, and those of the routed experts a token does not meet: shapes as in Hugging Face's modules."""

    def size(flag: str) -> int:
        return int(given[flag][0])

    hidden, heads, vocab = size("--hidden-size"), size("--num-attention-heads"), size("--vocab-size")
    layers = eval(given["--moe-layer-freq"][0]) if "--num-experts" in given else [0] * size("--num-layers")
    total, unused = vocab * hidden + hidden, 0
    if "--untie-embeddings-and-output-weights" in given:
        total += vocab * hidden
    for sparse in layers:
        total += 2 * hidden  # input_layernorm, post_attention_layernorm
        if "--multi-latent-attention" in given:
            nope, rope, value = size("--qk-head-dim"), size("--qk-pos-emb-head-dim"), size("--v-head-dim")
            rank = size("--kv-lora-rank")
            total += hidden * heads * (nope + rope)  # q_proj
            total += hidden * (rank + rope) + rank  # kv_a_proj_with_mqa, kv_a_layernorm
            total += rank * heads * (nope + value)  # kv_b_proj
            total += heads * value * hidden  # o_proj
        else:
            head, groups = size("--kv-channels"), size("--num-query-groups")
            total += 2 * hidden * heads * head + 2 * hidden * groups * head  # q_proj, o_proj, k_proj, v_proj
        if sparse:
            expert = 3 * hidden * size("--moe-ffn-hidden-size")
            total += hidden * size("--num-experts") + size("--num-experts") * expert  # gate, experts
            total += 3 * hidden * size("--moe-shared-expert-intermediate-size")
            unused += (size("--num-experts") - size("--moe-router-topk")) * expert
        else:
            total += 3 * hidden * size("--ffn-hidden-size")
    return total, unused


@pytest.mark.parametrize(
    ("model", "published"),
    [
        # numel of the published checkpoints
        ("llama31-8b", 8_030_261_248),
        ("llama32-1b", 1_235_814_400),
        ("deepseek2_lite", 15_706_484_224),
    ],
)
def test_parameters_are_as_many_as_published(model, published):
    assert counted(full_flags(model))[0] == published
    assert parameters(MODELS[model].full) == published


def test_deepseek_uses_2_4_billion_parameters_a_token():
    given = full_flags("deepseek2_lite")
    total, unused = counted(given)
    lookup = int(given["--vocab-size"][0]) * int(given["--hidden-size"][0])
    active = active_parameters(MODELS["deepseek2_lite"].full)
    assert active == total - unused - lookup
    # the paper says 2.4B
    assert 2.4e9 <= active < 2.5e9


@pytest.mark.parametrize(("model", "tokenizer_length"), [("llama31-8b", 128256), ("deepseek2_lite", 100015)])
def test_padding_turns_the_tokenizers_length_into_the_published_vocabulary(model, tokenizer_length):
    row = MODELS[model]
    multiple = row.full.make_vocab_size_divisible_by * row.full_recipe.tensor_parallel
    assert -(-tokenizer_length // multiple) * multiple == row.full.vocab_size


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_the_reduced_model_is_of_the_same_kind(model):
    full, smoke = model.full, model.smoke
    assert smoke.tied_embeddings == full.tied_embeddings
    assert smoke.rope_scaling_factor == full.rope_scaling_factor
    assert (smoke.mla is None, smoke.moe is None) == (full.mla is None, full.moe is None)
    # blocks of 32 stay whole along every reduction axis
    widths = [smoke.hidden_size, smoke.ffn_hidden_size, model.smoke_recipe.seq_length]
    if full.num_query_groups is not None:
        assert full.num_attention_heads * smoke.num_query_groups == smoke.num_attention_heads * full.num_query_groups
        assert full.ffn_hidden_size * smoke.hidden_size == smoke.ffn_hidden_size * full.hidden_size
        assert smoke.hidden_size == smoke.num_attention_heads * smoke.kv_channels
        widths.append(smoke.kv_channels)
    if smoke.mla is not None and smoke.moe is not None:
        mla, moe = smoke.mla, smoke.moe
        widths += [mla.kv_lora_rank, mla.qk_head_dim + mla.qk_pos_emb_head_dim, mla.v_head_dim, moe.ffn_hidden_size]
        assert 1 < moe.topk < moe.num_experts
        assert moe.dense_layers < smoke.num_layers
    assert [width % 32 for width in widths] == [0] * len(widths)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_the_layout_is_one_that_the_local_layers_support_on_8_gpus(model):
    arch, recipe = model.full, model.full_recipe
    assert 8 % recipe.tensor_parallel == 0
    if arch.moe is not None:
        # local experts with TP need sequence parallelism, which RMSNorm excludes
        assert recipe.tensor_parallel == 1
        assert arch.moe.num_experts % recipe.expert_parallel == 0
    else:
        assert arch.num_query_groups % recipe.tensor_parallel == 0
    assert recipe.seq_length <= arch.max_position_embeddings
