"""Run as a program by test_experts.py: steps of a small DeepSeek-V2-Lite with its true head widths and experts.

One step for each set of selectors that is given as JSON (`loop` computes experts one by one); prints a line of JSON a
step: calls by site, the widths that core attention saw, what the router computed with, and which of quantctl's kernels
issued operations whose output shape or control flow depends on data.
"""

import json
import sys
import traceback
from collections import Counter
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import quantctl.kernels
from quantctl.kernels.formats import rounding
from quantctl.pretrain import parallel
from quantctl.pretrain.arguments import parse
from quantctl.pretrain.balance import scale_gradients
from quantctl.pretrain.flops import flops_per_sample
from quantctl.pretrain.model import build_model
from quantctl.pretrain.optimizer import MasterAdamW

MODEL = (
    "--num-layers 2 --hidden-size 128 --ffn-hidden-size 96 --num-attention-heads 2 --seq-length 32 "
    "--max-position-embeddings 4096 --position-embedding-type rope --normalization RMSNorm --swiglu "
    "--disable-bias-linear --attention-dropout 0 --hidden-dropout 0 --untie-embeddings-and-output-weights "
    "--multi-latent-attention --qk-layernorm --kv-lora-rank 64 --qk-head-dim 128 --qk-pos-emb-head-dim 64 "
    "--v-head-dim 128 --rotary-scaling-factor 40 --mscale 0.707 --mscale-all-dim 0.707 --num-experts 64 "
    "--moe-router-topk 6 --moe-ffn-hidden-size 32 --moe-shared-expert-intermediate-size 64 --moe-router-pre-softmax "
    "--moe-layer-freq [0,1] --moe-router-load-balancing-type seq_aux_loss --moe-aux-loss-coeff 0.01 "
    "--moe-router-dtype fp32 --moe-token-dispatcher-type alltoall --init-method-std 0.1 "
    "--micro-batch-size 2 --train-iters 1 --lr 1e-3 --tokenizer-type NullTokenizer --vocab-size 127 --mock-data"
)
VOCABULARY = 128
KERNELS = str(Path(next(iter(quantctl.kernels.__path__))))
# only on a CPU, where that is cheap, the reference looks whether a scale is low; this is to see what a device sees
rounding.known_zero = lambda by: False

# operations whose output shape depends on values, or that bring a value to Python
DEPENDENT = {
    "nonzero",
    "nonzero_numpy",
    "masked_select",
    "unique_dim",
    "_unique",
    "_unique2",
    "unique_consecutive",
    "repeat_interleave",
    "bincount",
    "_local_scalar_dense",
    "item",
    "equal",
    "is_nonzero",
}


def depends_on_data(operation, arguments) -> bool:
    name = operation.overloadpacket.__name__
    if name in ("index", "index_put", "index_put_", "_index_put_impl_"):  # by a boolean mask
        return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in arguments[1])
    return name in DEPENDENT


class DataDependence(TorchDispatchMode):
    """Counts such operations by the innermost frame outside of torch: quantctl's kernels, or anybody else."""

    def __init__(self):
        super().__init__()
        self.operations = 0
        self.found = Counter()

    def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
        self.operations += 1
        if depends_on_data(operation, arguments):
            self.found[self._caller() + " " + operation.overloadpacket.__name__] += 1
        return operation(*arguments, **(keywords or {}))

    def _caller(self) -> str:
        frames = traceback.extract_stack()[:-2]
        own = next(frame for frame in reversed(frames) if "/torch/" not in frame.filename)
        return f"kernels: {own.filename}:{own.lineno}" if own.filename.startswith(KERNELS) else "others:"


def set_selectors(values) -> None:
    from megatron.core.tensor_parallel import layers
    from megatron.core.transformer import dot_product_attention

    for role in ("linear", "lm_head"):
        setattr(layers, f"custom_quant_type_{role}", values.get(role, "none"))
    for role in ("qk", "pv"):
        setattr(dot_product_attention, f"custom_quant_type_{role}", values.get(role, "none"))
    dot_product_attention.custom_attention_impl = values.get("attention", "unfused")


def watch(model):
    """What core attentions and routers saw: fills the dictionary that it returns."""
    from quantctl.kernels.formats.quantize import quantize_dequantize
    from quantctl.spec import parse as parse_spec

    seen = {"widths": [], "router_plain": [], "router_quantized": []}

    def attention(module, inputs, output):
        seen["widths"].append([tensor.shape[-1] for tensor in (*inputs[:3], output)])

    def router(module, stock):
        def gating(hidden):
            logits = stock(hidden)
            with torch.no_grad():
                operands = hidden.flatten(0, -2).float(), module.weight.float()
                plain = torch.nn.functional.linear(*operands)
                quantized = torch.nn.functional.linear(
                    *(quantize_dequantize(operand, parse_spec("mxfp8", "linear"), -1) for operand in operands)
                )
                seen["router_plain"].append(torch.equal(logits.flatten(0, -2), plain))
                seen["router_quantized"].append(torch.equal(logits.flatten(0, -2), quantized))
            return logits

        return gating

    for layer in model.decoder.layers:
        layer.self_attention.core_attention.register_forward_hook(attention)
        if hasattr(layer.mlp, "router"):
            layer.mlp.router.gating = router(layer.mlp.router, layer.mlp.router.gating)
    return seen


def calls() -> dict:
    kernels = sys.modules.get("quantctl.kernels.measure.hits")
    return kernels.snapshot() if kernels else {}


def since(before) -> dict:
    """Site -> spec -> product -> calls since then."""
    new = {}
    for site, specs in calls().items():
        for spec, products in specs.items():
            counts = {name: n - before.get(site, {}).get(spec, {}).get(name, 0) for name, n in products.items()}
            if any(counts.values()):
                new.setdefault(site, {})[spec] = counts
    return new


def main():
    args = parse(MODEL.split())
    args.padded_vocab_size = VOCABULARY
    device = parallel.start(args)
    scale_gradients(1, device)
    tokens = torch.randint(0, VOCABULARY, (2, args.seq_length + 1), generator=torch.Generator().manual_seed(11))
    positions = torch.arange(args.seq_length).repeat(2, 1)
    mask = torch.ones(args.seq_length, args.seq_length, dtype=torch.bool).triu(1)[None, None]
    for text in sys.argv[1:]:
        set_selectors(json.loads(text))
        torch.manual_seed(1)
        model = build_model(args, device)
        optimizer = MasterAdamW(model, args)
        seen, before = watch(model), calls()
        if "loop" in json.loads(text):  # a hook on an expert, which grouped products would pass by
            model.decoder.layers[1].mlp.experts.local_experts[0].register_forward_hook(lambda *_: None)
        with DataDependence() as mode:
            loss = model(tokens[:, :-1].contiguous(), positions, mask, labels=tokens[:, 1:].contiguous()).mean()
            loss.backward()
            optimizer.step()
        line = {"loss": loss.item(), "hits": since(before), "operations": mode.operations, "dependent": mode.found}
        if text == "{}":
            model = build_model(args, device)  # one that nobody watches
            with FlopCounterMode(display=False) as flops:
                model(tokens[:, :-1].contiguous(), positions, mask, labels=tokens[:, 1:].contiguous()).mean().backward()
            line |= {"flops": flops.get_total_flops(), "flops_per_sample": flops_per_sample(args)}
        print(json.dumps(line | seen), flush=True)


main()
