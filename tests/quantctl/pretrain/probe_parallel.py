"""Run as a program by test_parallel.py: one step of a small DeepSeek-V2-Lite, spread over ranks in several ways.

    python probe_parallel.py FOLDER LAYOUT ...     LAYOUT: WORLDxTPxEP, e.g. 4x1x4; experts are not split

Each rank saves what it holds, gathered by nobody, as FOLDER/LAYOUT/RANK.pt. All of it is computed in float64: what is
equal in exact arithmetic then differs by far less than any mistake would change it. (Megatron computes the routers'
softmax in float32, from logits that are equal to float64's rounding.) The processes are forked after the imports.
"""

import os
import socket
import sys
from pathlib import Path

import torch
import torch.multiprocessing as multiprocessing
from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel, gpt_layer_specs  # noqa: F401
from megatron.core.tensor_parallel import gather_from_tensor_model_parallel_region

from quantctl.pretrain import parallel
from quantctl.pretrain.arguments import parse
from quantctl.pretrain.balance import scale_gradients, take_losses
from quantctl.pretrain.flops import expert_layers
from quantctl.pretrain.gradients import Reduction, is_expert
from quantctl.pretrain.model import build_model

MODEL = (
    "--num-layers 2 --hidden-size 32 --ffn-hidden-size 64 --num-attention-heads 4 --seq-length 16 "
    "--max-position-embeddings 4096 --position-embedding-type rope --normalization RMSNorm --swiglu "
    "--disable-bias-linear --attention-dropout 0 --hidden-dropout 0 --untie-embeddings-and-output-weights "
    "--multi-latent-attention --qk-layernorm --kv-lora-rank 32 --qk-head-dim 16 --qk-pos-emb-head-dim 8 "
    "--v-head-dim 16 --rotary-scaling-factor 40 --mscale 0.707 --mscale-all-dim 0.707 --num-experts 64 "
    "--moe-router-topk 6 --moe-ffn-hidden-size 16 --moe-shared-expert-intermediate-size 32 --moe-router-pre-softmax "
    "--moe-layer-freq [0,1] --moe-router-load-balancing-type seq_aux_loss --moe-aux-loss-coeff 0.01 "
    "--moe-router-dtype fp64 --moe-token-dispatcher-type alltoall --init-method-std 0.2 "
    "--micro-batch-size 1 --global-batch-size 4 --train-iters 1 --lr 1 --tokenizer-type NullTokenizer "
    "--vocab-size 127 --mock-data"
)
VOCABULARY = 128


def step(model, args):
    """Gradients of the mean loss of four samples, one a micro batch; the loss and the load-balancing losses."""
    named = list(model.named_parameters())
    ranks, rank = parallel_state.get_data_parallel_world_size(), parallel_state.get_data_parallel_rank()
    tokens = torch.randint(0, VOCABULARY, (4, args.seq_length + 1), generator=torch.Generator().manual_seed(11))
    mask = torch.ones(args.seq_length, args.seq_length, dtype=torch.bool).triu(1)[None, None]
    positions = torch.arange(args.seq_length)[None]
    mine = tokens[rank::ranks]
    scale_gradients(len(mine), torch.device("cpu"))
    losses = []
    for sample in mine[:, None]:
        # Megatron's own cross entropy is float32
        logits = gather_from_tensor_model_parallel_region(model(sample[:, :-1], positions, mask))
        losses.append(torch.nn.functional.cross_entropy(logits.flatten(0, 1), sample[:, 1:].flatten()))
        (losses[-1] / len(mine)).backward()
    gradients = [parameter.grad for _, parameter in named]
    reduction = Reduction(named, gradients, args)
    reduction.reduce()
    return {
        "losses": [loss.item() for loss in losses],
        "balance": take_losses(sum(expert_layers(args)), len(mine)),
        "norm": reduction.norm(),
        "parameters": {
            name: {
                "weight": parameter.detach(),
                "gradient": gradient,
                "dim": parameter.partition_dim if getattr(parameter, "tensor_model_parallel", False) else None,
                "stride": getattr(parameter, "partition_stride", 1),
                "expert": is_expert(parameter),
            }
            for (name, parameter), gradient in zip(named, gradients, strict=True)
        },
    }


def run(rank, layout, port, folder):
    world, tensor, expert = map(int, layout.split("x"))
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in place.items()}
    flags = f"--tensor-model-parallel-size {tensor} --expert-model-parallel-size {expert} --sequence-parallel"
    flags += " --expert-tensor-parallel-size 1" if expert > 1 else ""
    args = parse(f"{MODEL} {flags}".split())
    args.padded_vocab_size = VOCABULARY
    device = parallel.start(args)
    torch.set_default_dtype(torch.float64)
    model = build_model(args, device).double()
    routed = []
    for layer in model.decoder.layers:
        if hasattr(layer.mlp, "router"):
            layer.mlp.router.register_forward_hook(lambda module, inputs, output: routed.append(output[1]))
    result = step(model, args)
    result["tensor_rank"] = parallel_state.get_tensor_model_parallel_rank()
    result["data_rank"] = parallel_state.get_data_parallel_rank()
    result["expert_rank"] = parallel_state.get_expert_model_parallel_rank()
    result["local_experts"] = [
        layer.mlp.num_local_experts for layer in model.decoder.layers if hasattr(layer.mlp, "router")
    ]
    result["routed"] = torch.stack(routed)  # [micro batches, tokens, experts]
    torch.save(result, folder / f"{rank}.pt")
    parallel.stop()


def main():
    base = Path(sys.argv[1])
    for layout in sys.argv[2:]:
        folder = base / layout
        folder.mkdir()
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            port = probe.getsockname()[1]
        multiprocessing.start_processes(run, (layout, port, folder), int(layout.split("x")[0]), start_method="fork")


main()
