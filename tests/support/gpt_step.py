"""One training step of a real GPTModel on the CPU, without quantctl: prints loss, gradients and hits as JSON.

    python gpt_step.py [--tied] [--freeze] [--bias]

The tree is the one on PYTHONPATH. Losses are printed in hexadecimal and gradients hashed: equal is equal in every bit.
"""

import argparse
import hashlib
import json
import sys
import warnings
from types import MethodType

import torch
import torch.distributed as dist

warnings.filterwarnings("ignore")


def rotary_on_cpu(self, max_seq_len, offset=0, packed_seq=False, cp_group=None):
    freqs = self.get_freqs_non_repeated(max_seq_len, offset)
    return torch.cat((freqs, freqs), dim=-1)[:, None, None, :]


def build(options):
    from megatron.core import parallel_state, tensor_parallel
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.transformer import TransformerConfig

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    parallel_state.initialize_model_parallel()
    tensor_parallel.random.initialize_rng_tracker(inference_rng_tracker=True)
    torch.manual_seed(7)
    buffer = parallel_state.get_global_memory_buffer().buffer
    buffer["mpu", torch.float32] = torch.empty(2 * 4 * 32 * 32)
    config = TransformerConfig(
        num_layers=2,
        hidden_size=64,
        ffn_hidden_size=128,
        num_attention_heads=4,
        num_query_groups=2,
        normalization="RMSNorm",
        gated_linear_unit=True,
        activation_func=torch.nn.functional.silu,
        add_bias_linear=options.bias,
        attention_dropout=0.0,
        hidden_dropout=0.0,
        use_cpu_initialization=True,
        persist_layer_norm=False,
        masked_softmax_fusion=False,
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        apply_rope_fusion=False,
        gradient_accumulation_fusion=False,
    )
    model = GPTModel(
        config=config,
        transformer_layer_spec=get_gpt_layer_local_spec(normalization="RMSNorm"),
        vocab_size=96,
        max_sequence_length=32,
        share_embeddings_and_output_weights=options.tied,
        position_embedding_type="rope",
    )
    model.rotary_pos_emb.forward = MethodType(rotary_on_cpu, model.rotary_pos_emb)
    if options.freeze:
        model.decoder.layers[1].mlp.linear_fc1.weight.requires_grad_(False)
    return model


def main():
    parser = argparse.ArgumentParser()
    for flag in ("tied", "freeze", "bias"):
        parser.add_argument(f"--{flag}", action="store_true")
    model = build(parser.parse_args())
    tokens = torch.randint(0, 96, (2, 33))
    positions = torch.arange(32).repeat(2, 1)
    mask = torch.ones(1, 1, 32, 32, dtype=torch.bool).triu(1)
    loss = model(tokens[:, :-1].contiguous(), positions, mask, labels=tokens[:, 1:].contiguous()).mean()
    loss.backward()
    gradients = {
        name: hashlib.sha256(p.grad.numpy().tobytes()).hexdigest()
        for name, p in model.named_parameters()
        if p.grad is not None
    }
    kernels = sys.modules.get("quantctl.kernels.hits")
    result = {
        "loss": loss.item().hex(),
        "gradients": gradients,
        "tree": sys.modules["megatron.core"].__file__,
        "quantctl_imported": any(name.partition(".")[0] == "quantctl" for name in sys.modules),
        "hits": kernels.snapshot() if kernels else {},
    }
    print(json.dumps(result))


main()
