"""Real GPTModels of Transformer Engine's layers, on a CPU on the bed of te_cpu: prints a line of JSON a model.

    python te_models.py '[{"tree": TREE, "case": CASE, "layers": "local", SELECTOR: VALUE, ...}, ...]'

Consecutive models of one TREE are trained in one fork, which imports Megatron from there. A CASE is a model of two
layers, see CASES; with `layers` local the local layers' model of the same weights is trained, `config` changes its
configuration, and `call` gives its first core attention an argument that only Transformer Engine takes, or names a
module that is to bypass what quantctl inserts; `load` and `save` name checkpoints. A line holds the losses in
hexadecimal, a digest of the trained parameters in an order that both kinds of layers share, the names of the state, and
what quantctl counted since the model before.
"""

import contextlib
import dataclasses
import gc
import hashlib
import inspect
import itertools
import json
import os
import re
import sys
import traceback
import typing
import warnings

import torch
import torch.distributed as dist
import typing_extensions
from te_cpu import bed

warnings.filterwarnings("ignore")
if not hasattr(typing, "override"):  # 0.17 and later say that they need Python 3.12, for this name alone
    typing.override = typing_extensions.override
DEVICE = os.environ.get("QUANTCTL_TEST_DEVICE", "cpu")
"""On `cuda` Transformer Engine itself stands, and no bed."""
if DEVICE == "cpu":
    bed.install()

SEQUENCE, VOCABULARY, STEPS = 32, 96, 2
SETTINGS = ("case", "layers", "config", "call", "load", "save")
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
    "moe_ffn_hidden_size": 128,
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


BEHIND_CHECKS = {"delay_wgrad_compute"}
"""What a configuration takes in company that no CPU has."""
NORMS = {
    "self_attention.linear_qkv": "input_layernorm",
    "self_attention.linear_q_up_proj": "self_attention.q_layernorm",
    "self_attention.linear_kv_up_proj": "self_attention.kv_layernorm",
    "mlp.linear_fc1": "pre_mlp_layernorm",
}
"""Linear layers with a norm in them, and what the norm is called where it stands alone."""


def start(world=1, rank=0, store=None):
    from megatron.core import parallel_state, tensor_parallel

    if DEVICE == "cuda":
        torch.cuda.set_device(rank)
    backend = "nccl" if DEVICE == "cuda" else "gloo"
    dist.init_process_group(backend, store=store or dist.HashStore(), rank=rank, world_size=world)
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
    if values.get("bf16"):
        values["params_dtype"] = torch.bfloat16
    if "attention_backend" in known and DEVICE == "cpu":
        from megatron.core.transformer.enums import AttnBackend

        values["attention_backend"] = AttnBackend.unfused
    return kind(**{name: value for name, value in values.items() if name in known})


def specification(config, layers, fused_mlp=False):
    from megatron.core.models.gpt import gpt_layer_specs as specs

    function = getattr(specs, f"get_gpt_layer_{'local' if layers == 'local' else 'with_transformer_engine'}_spec")
    submodules = getattr(specs, function.__name__.replace("_spec", "_submodules"), function)
    wanted = {
        "num_experts": config.num_moe_experts,
        "moe_grouped_gemm": config.moe_grouped_gemm,
        "qk_layernorm": config.qk_layernorm,
        "multi_latent_attention": getattr(config, "multi_latent_attention", False),
        "normalization": config.normalization,
        "use_te_op_fuser": fused_mlp,
    }
    known = inspect.signature(submodules).parameters
    return function(**{name: value for name, value in wanted.items() if name in known})


def build(case, layers="transformer_engine", fused_mlp=False, **changes):
    from megatron.core.models.gpt import GPTModel

    torch.manual_seed(7)
    config = configuration(case, layers, **{k: v for k, v in changes.items() if k not in BEHIND_CHECKS})
    for name in BEHIND_CHECKS & changes.keys():
        setattr(config, name, changes[name])
    if isinstance(precision := getattr(config, "quant_recipe", None), dict):
        from megatron.core.quantization.quant_config import RecipeConfig

        config.quant_recipe = RecipeConfig.from_config_dict(precision)
    spec = specification(config, layers, fused_mlp)
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
    ).to(DEVICE)


def local_name(name):
    """What the local layers' model calls a parameter."""
    for norm, own in NORMS.items():
        name = name.replace(f"{norm}.layer_norm_", f"{own}.")
    return re.sub(r"experts\.(linear_fc\d)\.(weight|bias)(\d+)", r"experts.local_experts.\3.\1.\2", name)


def copy_into_local(model, local):
    own = dict(local.named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            own.pop(local_name(name)).copy_(parameter)
    assert not own, sorted(own)


def loss_of(model, number):
    generator = torch.Generator().manual_seed(11 + number)
    tokens = torch.randint(0, VOCABULARY, (2, SEQUENCE + 1), generator=generator)
    positions = torch.arange(SEQUENCE).repeat(2, 1)
    mask = torch.ones(1, 1, SEQUENCE, SEQUENCE, dtype=torch.bool).triu(1)
    inputs = (tensor.to(DEVICE) for tensor in (tokens[:, :-1].contiguous(), positions, mask))
    return model(*inputs, labels=tokens[:, 1:].contiguous().to(DEVICE)).mean()


def digest(model):
    values = {local_name(name): parameter for name, parameter in model.named_parameters()}
    data = b"".join((values[name].detach().float().cpu() + 0.0).numpy().tobytes() for name in sorted(values))
    return hashlib.sha256(data).hexdigest()[:16]


def train(model):
    """A few steps of SGD."""
    losses = []
    for number in range(STEPS):
        model.zero_grad()
        loss = loss_of(model, number)
        loss.backward()
        losses.append(loss.item().hex())
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.sub_(0.1 * parameter.grad)
    return {"losses": losses, "parameters": digest(model), "state": sorted(model.state_dict())}


def counted():
    """What quantctl counts, from now on anew."""
    hits = sys.modules.get("quantctl.kernels.measure.hits")
    if hits is None:
        return {"quantctl": any(name.partition(".")[0] == "quantctl" for name in sys.modules)}
    coverage = sys.modules["quantctl.kernels.measure.coverage"]
    found = {"quantctl": True, "hits": hits.snapshot(), "modules": hits.by_module(), "coverage": coverage.report()}
    hits.forget()
    for table in (hits._expected, coverage._products, coverage._found, coverage._ran):
        table.clear()
    coverage._bypassed.clear()
    coverage._begun = False
    return found


def attend(model, argument):
    from megatron.core.transformer.enums import AttnMaskType

    attention = model.decoder.layers[0].self_attention.core_attention
    given = {"attn_mask_type": AttnMaskType.causal, "attention_mask": None}
    given |= (
        {"attn_mask_type": AttnMaskType[argument]} if argument in AttnMaskType.__members__ else {argument: object()}
    )
    attention(*(torch.randn(SEQUENCE, 2, heads, 16) for heads in (4, 2, 2)), **given)


def bypass(model, name):
    """Every layer's module of that name computes as te.pytorch.Linear does, whatever Megatron's file says."""
    from transformer_engine.pytorch import Linear

    for layer in model.decoder.layers:
        module = layer.get_submodule(name)
        module.forward = lambda x, own=module: (Linear.forward(own, x), None)


def run(case, layers="transformer_engine", config=None, call=None, load=None, save=None):
    try:
        model = build(case, layers, **(config or {}))
        if call and "linear" in call:
            bypass(model, call)
        elif call:
            return attend(model, call)
        if layers == "local":
            copy_into_local(build(case, **(config or {})), model)
        if load:
            model.load_state_dict(torch.load(load, weights_only=False))
        found = train(model)
        if save:
            torch.save(model.state_dict(), save)
        return found
    except Exception as error:
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}


def end_with(function, *arguments):
    """Runs it as the last thing that this fork does."""
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


def in_a_fork(function, *arguments):
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        end_with(function, *arguments)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def select(values):
    """Set the tree's selectors, those that are not named to what a fresh tree says."""
    from megatron.core.tensor_parallel import layers
    from megatron.core.transformer import dot_product_attention

    for role in ("linear", "lm_head", "qk", "pv", "attention"):
        home = layers if role in ("linear", "lm_head") else dot_product_attention
        name = "custom_attention_impl" if role == "attention" else f"custom_quant_type_{role}"
        if hasattr(home, name) or role in values:
            assert hasattr(home, name), name
            setattr(home, name, values.get(role, "unfused" if role == "attention" else "none"))


def on_tree(tree, models):
    sys.path.insert(0, tree)
    start()
    for model in models:
        settings = {name: model[name] for name in SETTINGS if name in model}
        select({name: value for name, value in model.items() if name not in ("tree", *settings)})
        print(json.dumps({**model, **(run(**settings) or {}), **counted()}), flush=True)
        gc.collect()  # a model that is alive is looked at when the next one computes


def main():
    models = json.loads(sys.argv[1])
    gc.freeze()
    if DEVICE == "cuda":  # which is not to be forked: one tree a process
        on_tree(models[0]["tree"], models)
        return
    for tree, of_it in itertools.groupby(models, key=lambda model: model["tree"]):
        in_a_fork(on_tree, tree, list(of_it))


if __name__ == "__main__":
    main()
