"""Training steps of real GPTModels whose local layers stock Megatron refuses, on the CPU: prints a line of JSON a step.

    python local_layers.py CASE ...            CASE: mla, moe, mtp, mtp-tied, deepseek
    python local_layers.py norms --world N --rank R --store FILE --output FILE [--normalization RMSNorm|LayerNorm]

mla    multi-latent attention; each layer's attention output against the same computation in float64
moe    8 experts, top 2, a shared expert (from 0.16 on with a gate)
mtp    one multi-token prediction layer
deepseek  all of it: compressed queries, a dense layer before those with experts, two depths of prediction; only built
norms  sequence parallelism as wide as the world; rank 0 saves the full gradients

The tree is the one on PYTHONPATH. A step that raises prints its error. Code that asks for the CUDA device gets the CPU.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import inspect
import json
import math
import sys
import traceback
import typing
import warnings

import torch
import torch.distributed as dist
import typing_extensions

warnings.filterwarnings("ignore")
torch.cuda.current_device = lambda: torch.device("cpu")
if not hasattr(typing, "override"):  # 0.17 and later say that they need Python 3.12, for this name alone
    typing.override = typing_extensions.override

SEQUENCE, VOCABULARY = 32, 96
COMMON = {
    "num_layers": 2,
    "hidden_size": 64,
    "ffn_hidden_size": 128,
    "num_attention_heads": 4,
    "normalization": "RMSNorm",
    "gated_linear_unit": True,
    "activation_func": torch.nn.functional.silu,
    "add_bias_linear": False,
    "attention_dropout": 0.0,
    "hidden_dropout": 0.0,
    "use_cpu_initialization": True,
    "persist_layer_norm": False,
    "masked_softmax_fusion": False,
    "bias_activation_fusion": False,
    "bias_dropout_fusion": False,
    "apply_rope_fusion": False,
    "gradient_accumulation_fusion": False,
}
NEWER_FIELDS = {"rope_type": "yarn", "transformer_impl": "local"}
NEWER_MOE = {"moe_shared_expert_gate": True}
MLA = {
    "multi_latent_attention": True,
    "q_lora_rank": None,
    "kv_lora_rank": 32,
    "qk_head_dim": 16,
    "qk_pos_emb_head_dim": 8,
    "v_head_dim": 24,
    "qk_layernorm": True,
    "rotary_scaling_factor": 40.0,
    "mscale": 0.707,
    "mscale_all_dim": 0.707,
}
MOE = {
    "num_moe_experts": 8,
    "moe_router_topk": 2,
    "moe_ffn_hidden_size": 64,
    "moe_shared_expert_intermediate_size": 64,
    "moe_router_load_balancing_type": "aux_loss",
    "moe_aux_loss_coeff": 0.01,
    "moe_token_dispatcher_type": "allgather",
}


def start(world=1, rank=0, store=None):
    from megatron.core import parallel_state, tensor_parallel

    dist.init_process_group("gloo", store=store or dist.HashStore(), rank=rank, world_size=world)
    parallel_state.initialize_model_parallel(tensor_model_parallel_size=world)
    # without dropout nothing draws from the tracker, whose states are CUDA's
    tensor_parallel.random.get_cuda_rng_tracker().fork = lambda *_: contextlib.nullcontext()


def build(case, tied=False, **changes):
    from megatron.core.models.gpt import GPTModel, gpt_layer_specs
    from megatron.core.transformer import MLATransformerConfig, TransformerConfig

    torch.manual_seed(7)
    latent = case in ("mla", "deepseek")
    config_class = MLATransformerConfig if latent else TransformerConfig
    fields = {field.name for field in dataclasses.fields(config_class)}
    wished = NEWER_FIELDS | (NEWER_MOE if case == "moe" else {})
    newer = {name: value for name, value in wished.items() if name in fields}
    config = config_class(**COMMON | newer | changes)
    wanted = {
        "num_experts": config.num_moe_experts,
        "qk_layernorm": config.qk_layernorm,
        "multi_latent_attention": latent,
        "normalization": config.normalization,
    }
    # 0.10 and 0.11 take the normalization from the configuration; 0.19 passes everything on
    declared = getattr(gpt_layer_specs, "get_gpt_layer_local_submodules", gpt_layer_specs.get_gpt_layer_local_spec)
    known = inspect.signature(declared).parameters
    spec = gpt_layer_specs.get_gpt_layer_local_spec(**{name: value for name, value in wanted.items() if name in known})
    if getattr(config, "moe_layer_freq", 1) != 1:
        spec = gpt_layer_specs.get_gpt_decoder_block_spec(config, use_transformer_engine=False)
    more = {}
    if getattr(config, "mtp_num_layers", None):
        more["mtp_block_spec"] = gpt_layer_specs.get_gpt_mtp_block_spec(config, spec, use_transformer_engine=False)
    return GPTModel(
        config=config,
        transformer_layer_spec=spec,
        vocab_size=VOCABULARY,
        max_sequence_length=SEQUENCE,
        share_embeddings_and_output_weights=tied,
        position_embedding_type="rope",
        **more,
    )


def step(model):
    """Forward and backward of fixed tokens; the loss."""
    generator = torch.Generator().manual_seed(11)
    tokens = torch.randint(0, VOCABULARY, (2, SEQUENCE + 1), generator=generator)
    positions = torch.arange(SEQUENCE).repeat(2, 1)
    mask = torch.ones(1, 1, SEQUENCE, SEQUENCE, dtype=torch.bool).triu(1)
    loss = model(tokens[:, :-1].contiguous(), positions, mask, labels=tokens[:, 1:].contiguous()).mean()
    loss.backward()
    return loss.item()


class AttentionCheck:
    """Hooks on a core attention that compare its output with float64 on the same Q, K and V.

    Error bound of the float32 computation, element by element, with u = 2^-24, d the width of a key, s the number of
    keys and c the softmax scale: a score is off by at most D = (d + 3) u c max|q|.|k|, which moves a probability by at
    most a factor exp(2 D); softmax and product add at most (2 s + 16) u. So |error| <= (exp(2 D) - 1 + (2 s + 16) u)
    times the sum of p |v|.
    """

    def __init__(self, module, scale):
        self.scale = scale
        self.excess = []
        self.width = None
        module.register_forward_hook(self.compare)

    def compare(self, module, arguments, output):
        q, k, v = (x.detach().double().permute(1, 2, 0, 3) for x in arguments[:3])  # [b, np, s, d]
        scores = self.scale * q @ k.transpose(-1, -2)
        future = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).triu(1)
        probabilities = scores.masked_fill(future, -math.inf).softmax(-1)
        expected = (probabilities @ v).permute(2, 0, 1, 3).flatten(2)
        u = 2.0**-24
        drift = (q.shape[-1] + 3) * u * self.scale * (q.abs() @ k.abs().transpose(-1, -2)).max()
        relative = torch.expm1(2 * drift) + (2 * k.shape[-2] + 16) * u
        bound = (relative * (probabilities @ v.abs())).permute(2, 0, 1, 3).flatten(2)
        self.width = output.shape[-1]
        self.excess.append(((output.detach().double() - expected).abs() / bound).max().item())


def mla():
    model = build("mla", **MLA)
    # YARN: m = 0.1 * mscale * ln(factor) + 1, and the softmax scale is m^2 / sqrt(width of a key)
    m = 0.1 * MLA["mscale"] * math.log(MLA["rotary_scaling_factor"]) + 1
    scale = m * m / math.sqrt(MLA["qk_head_dim"] + MLA["qk_pos_emb_head_dim"])
    checks = [AttentionCheck(layer.self_attention.core_attention, scale) for layer in model.decoder.layers]
    loss = step(model)
    errors = [error for check in checks for error in check.excess]
    return model, {"loss": loss.hex(), "errors_in_bounds": errors, "widths": [check.width for check in checks]}


def moe():
    model = build("moe", **MOE)
    return model, {"loss": step(model).hex()}


def mtp(tied=False):
    model = build("mtp", tied=tied, mtp_num_layers=1, mtp_loss_scaling_factor=0.1)
    return model, {"loss": step(model).hex()}


def deepseek():
    return build("deepseek", **MLA | {"q_lora_rank": 24}, **MOE, moe_layer_freq=[0, 1], mtp_num_layers=2), {}


CASES = {"mla": mla, "moe": moe, "mtp": mtp, "mtp-tied": lambda: mtp(tied=True), "deepseek": deepseek}


def products(model):
    """What computes matrix products, by name, and the number of its layer."""
    from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
    from megatron.core.transformer.dot_product_attention import DotProductAttention

    numbers = {f"decoder.layers.{index}": layer.layer_number for index, layer in enumerate(model.decoder.layers)}
    kinds = (ColumnParallelLinear, RowParallelLinear, DotProductAttention)
    return {
        name: numbers.get(".".join(name.split(".")[:3]))
        for name, module in model.named_modules()
        if isinstance(module, kinds)
    }


def full(gradient, parameter):
    """The gradient of the whole parameter, from the parts of all tensor parallel ranks."""
    if dist.get_world_size() == 1 or not getattr(parameter, "tensor_model_parallel", False):
        return gradient.clone()
    parts = [torch.empty_like(gradient) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, gradient.contiguous())
    return torch.cat(parts, dim=parameter.partition_dim)


def norms(options):
    """Gradients before and after the reduction that Megatron makes in finalize_model_grads."""
    from megatron.core.distributed import DistributedDataParallelConfig
    from megatron.core.distributed.finalize_model_grads import _allreduce_layernorm_grads

    world = options.world
    start(world, options.rank, dist.FileStore(options.store, world))
    # the halves of a gated first layer lie differently for different widths, so there is no gate here
    changes = {"gated_linear_unit": False, "num_query_groups": 2, "normalization": options.normalization}
    model = build("norms", **changes, tensor_model_parallel_size=world, sequence_parallel=world > 1)
    loss = step(model)
    named = dict(model.named_parameters())
    before = {name: full(p.grad, p) for name, p in named.items()}
    model.ddp_config = DistributedDataParallelConfig()
    _allreduce_layernorm_grads([model], model.config)
    after = {name: full(p.grad, p) for name, p in named.items()}
    if options.rank == 0:
        torch.save({"loss": loss, "before": before, "after": after}, options.output)


def hits():
    kernels = sys.modules.get("quantctl.kernels.measure.hits")
    return kernels.snapshot() if kernels else {}


def since(before):
    """The calls counted since then: {site: {product: n}}."""
    counts = {}
    for site, specs in hits().items():
        for spec, products in specs.items():
            new = {name: n - before.get(site, {}).get(spec, {}).get(name, 0) for name, n in products.items()}
            if any(new.values()):
                counts[site] = new
    return counts


def digest(model):
    grads = [p.grad.numpy().tobytes() for p in model.parameters() if p.grad is not None]
    return hashlib.sha256(b"".join(grads)).hexdigest()


def run(case):
    before = hits()
    try:
        model, result = CASES[case]()
    except Exception as error:
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}
    idle = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all() or not p.grad.any()]
    found = {"gradients": digest(model), "without_gradient": idle, "hits": since(before)} if "loss" in result else {}
    return {**result, **found, "products": products(model)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("cases", nargs="+", choices=(*CASES, "norms"))
    parser.add_argument("--normalization", default="RMSNorm")
    parser.add_argument("--world", type=int)
    parser.add_argument("--rank", type=int)
    parser.add_argument("--store")
    parser.add_argument("--output")
    options = parser.parse_args()
    if options.cases == ["norms"]:
        norms(options)
        return
    start()
    for case in options.cases:
        print(json.dumps({"case": case, **run(case)}), flush=True)


if __name__ == "__main__":
    main()
