"""Real GPTModels of Transformer Engine's layers on the CPU, on the bed of te_cpu: prints a line of JSON a model.

    python te_models.py [CASE ...] [/ TREE SELECTOR=VALUE ...] ...

Each TREE is trained in a fork of its own, which imports Megatron from there, with the selectors of its line; each CASE
is a model of two layers: dense, bias, latent (MLA), experts (grouped), sequential (experts), prediction (MTP). A line
holds the losses in hexadecimal, a hash of the gradients and of the parameters, and what quantctl counted.
With the selector `layers=local` the local layers' model of the same weights is trained.
"""

import contextlib
import dataclasses
import gc
import hashlib
import inspect
import json
import os
import sys
import traceback
import typing
import warnings

warnings.filterwarnings("ignore")

import torch
import torch.distributed as dist
import typing_extensions
from te_cpu import bed

if not hasattr(typing, "override"):  # 0.17 and later say that they need Python 3.12, for this name alone
    typing.override = typing_extensions.override
bed.install()

SEQUENCE, VOCABULARY, STEPS = 32, 96, 2
COMMON = {
    "num_layers": 2,
    "hidden_size": 64,
    "ffn_hidden_size": 128,
    "num_attention_heads": 4,
    "num_query_groups": 2,
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
LATENT = {
    "multi_latent_attention": True,
    "num_query_groups": None,
    "q_lora_rank": 24,
    "kv_lora_rank": 32,
    "qk_head_dim": 16,
    "qk_pos_emb_head_dim": 8,
    "v_head_dim": 16,
    "qk_layernorm": True,
    "rotary_scaling_factor": 40.0,
}
EXPERTS = {
    "num_moe_experts": 4,
    "moe_router_topk": 2,
    "moe_ffn_hidden_size": 64,
    "moe_shared_expert_intermediate_size": 64,
    "moe_router_load_balancing_type": "aux_loss",
    "moe_aux_loss_coeff": 0.01,
    "moe_token_dispatcher_type": "allgather",
}
CASES = {
    "dense": {},
    "bias": {"add_bias_linear": True, "normalization": "LayerNorm", "layernorm_zero_centered_gamma": False},
    "latent": LATENT,
    "experts": EXPERTS | {"moe_grouped_gemm": True},
    "sequential": EXPERTS,
    "prediction": {"mtp_num_layers": 1, "mtp_loss_scaling_factor": 0.1},
}


def start(world=1, rank=0, store=None):
    from megatron.core import parallel_state, tensor_parallel

    dist.init_process_group("gloo", store=store or dist.HashStore(), rank=rank, world_size=world)
    parallel_state.initialize_model_parallel(tensor_model_parallel_size=world)
    # without dropout nothing draws from the tracker, whose states are CUDA's
    tensor_parallel.random.get_cuda_rng_tracker().fork = lambda *_: contextlib.nullcontext()


def configuration(case, layers, **changes):
    from megatron.core.transformer import MLATransformerConfig, TransformerConfig

    kind = MLATransformerConfig if case == "latent" else TransformerConfig
    known = {field.name for field in dataclasses.fields(kind)}
    values = COMMON | CASES[case] | changes
    if case == "latent":
        values["rope_type"] = "yarn"
    if layers == "local":
        values["moe_grouped_gemm"] = False
    values["transformer_impl"] = layers
    if "attention_backend" in known:
        from megatron.core.transformer.enums import AttnBackend

        values["attention_backend"] = AttnBackend.unfused
    return kind(**{name: value for name, value in values.items() if name in known})


def specification(config, layers):
    from megatron.core.models.gpt import gpt_layer_specs as specs

    function = getattr(specs, f"get_gpt_layer_{'local' if layers == 'local' else 'with_transformer_engine'}_spec")
    submodules = getattr(specs, function.__name__.replace("_spec", "_submodules"), function)
    wanted = {
        "num_experts": config.num_moe_experts,
        "moe_grouped_gemm": config.moe_grouped_gemm,
        "qk_layernorm": config.qk_layernorm,
        "multi_latent_attention": getattr(config, "multi_latent_attention", False),
        "normalization": config.normalization,
        "use_te_op_fuser": getattr(config, "use_transformer_engine_op_fuser", False),
    }
    known = inspect.signature(submodules).parameters
    return function(**{name: value for name, value in wanted.items() if name in known})


def build(case, layers="transformer_engine", **changes):
    from megatron.core.models.gpt import GPTModel

    torch.manual_seed(7)
    config = configuration(case, layers, **changes)
    spec = specification(config, layers)
    more = {}
    if getattr(config, "mtp_num_layers", None):
        from megatron.core.models.gpt.gpt_layer_specs import get_gpt_mtp_block_spec

        more["mtp_block_spec"] = get_gpt_mtp_block_spec(config, spec, use_transformer_engine=layers != "local")
    return GPTModel(
        config=config,
        transformer_layer_spec=spec,
        vocab_size=VOCABULARY,
        max_sequence_length=SEQUENCE,
        share_embeddings_and_output_weights=False,
        position_embedding_type="rope",
        **more,
    )


def local_name(name, moe):
    """What the local layers' model calls a parameter."""
    norm_of_mlp = "mlp.linear_fc1.layer_norm_"
    name = name.replace("self_attention.linear_qkv.layer_norm_", "input_layernorm.")
    name = name.replace("self_attention.linear_q_up_proj.layer_norm_", "self_attention.q_layernorm.")
    name = name.replace("self_attention.linear_kv_up_proj.layer_norm_", "self_attention.kv_layernorm.")
    for linear in ("linear_fc1", "linear_fc2"):
        for kind in ("weight", "bias"):
            head, found, number = name.partition(f"experts.{linear}.{kind}")
            if found and number:
                name = f"{head}experts.local_experts.{number}.{linear}.{kind}"
    return name.replace(norm_of_mlp, "pre_mlp_layernorm.")


def copy_into_local(model, local):
    own = dict(local.named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            own.pop(local_name(name, None)).copy_(parameter)
    assert not own, sorted(own)


def loss_of(model, number):
    generator = torch.Generator().manual_seed(11 + number)
    tokens = torch.randint(0, VOCABULARY, (2, SEQUENCE + 1), generator=generator)
    positions = torch.arange(SEQUENCE).repeat(2, 1)
    mask = torch.ones(1, 1, SEQUENCE, SEQUENCE, dtype=torch.bool).triu(1)
    return model(tokens[:, :-1].contiguous(), positions, mask, labels=tokens[:, 1:].contiguous()).mean()


def digest(tensors):
    return hashlib.sha256(b"".join((t.detach().float() + 0.0).numpy().tobytes() for t in tensors)).hexdigest()[:16]


def train(model):
    """Losses and digests of a few steps of SGD."""
    losses, gradients = [], []
    for number in range(STEPS):
        model.zero_grad()
        loss = loss_of(model, number)
        loss.backward()
        losses.append(loss.item().hex())
        gradients.append(digest(p.grad for p in model.parameters() if p.grad is not None))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter -= 0.1 * parameter.grad
    return {"losses": losses, "gradients": gradients}


def counted():
    kernels = sys.modules.get("quantctl.kernels.measure.hits")
    if kernels is None:
        return {"quantctl": any(name.partition(".")[0] == "quantctl" for name in sys.modules)}
    coverage = sys.modules["quantctl.kernels.measure.coverage"]
    return {"quantctl": True, "hits": kernels.snapshot(), "modules": kernels.by_module(), "coverage": coverage.report()}


def run(case, layers, **changes):
    try:
        model = build(case, layers, **changes)
        if layers == "local":
            copy_into_local(build(case), model)
        return {**train(model), "state": sorted(model.state_dict())}
    except Exception as error:
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}


def in_a_fork(function, *arguments):
    """Runs it in a fork of this process, which prints."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            function(*arguments)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def on_tree(tree, values, cases):
    sys.path.insert(0, tree)
    layers = values.pop("layers", "transformer_engine")
    from megatron.core.tensor_parallel import layers as linear
    from megatron.core.transformer import dot_product_attention as attention

    start()
    for role, value in values.items():
        home = attention if role in ("qk", "pv", "attention") else linear
        name = "custom_attention_impl" if role == "attention" else f"custom_quant_type_{role}"
        assert hasattr(home, name), name
        setattr(home, name, value)
    for case in cases:
        line = {"tree": tree, "case": case, "layers": layers, **run(case, layers), **counted()}
        print(json.dumps(line), flush=True)


def main():
    cases, *runs = [part.split() for part in " ".join(sys.argv[1:]).split(" / ")]
    gc.freeze()
    for tree, *values in runs:
        assert in_a_fork(on_tree, tree, dict(value.split("=", 1) for value in values), cases) == 0


if __name__ == "__main__":
    main()
