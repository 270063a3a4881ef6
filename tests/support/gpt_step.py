"""Training steps of a real GPTModel on the CPU, each on a model of its own: prints a line of JSON a step.

    python gpt_step.py [--tied] [--freeze] [--bias] [--fused] [--foreign-head] [--wide-logits] [--bf16] [--recompute]
                       [--saved] [/ NEXT STEP'S FLAGS] ...

The tree is the one on PYTHONPATH. Losses are printed in hexadecimal and gradients hashed: equal is equal in every bit.
With --fused every weight gradient is accumulated into main_grad by the module fused_weight_gradient_mlp_cuda beside
this file, and the line tells how many of its operands were the plain ones and how many the quantized ones. With
--wide-logits (Megatron-LM's main) the output layer's GEMM is Transformer Engine's, bf16 to fp32; torch stands for it.
With --recompute the layers' activations are recomputed in the backward. With --saved the line tells how many bytes the
forward saves for the backward, weights apart.
"""

import argparse
import contextlib
import functools
import hashlib
import inspect
import json
import sys
import typing
import warnings
from types import MethodType

import torch
import torch.distributed as dist
import typing_extensions

if not hasattr(typing, "override"):  # Python before 3.12; megatron-core imports it from 0.17 on
    typing.override = typing_extensions.override
warnings.filterwarnings("ignore")

FLAGS = ("tied", "freeze", "bias", "fused", "foreign-head", "wide-logits", "bf16", "recompute", "saved")
RECOMPUTE = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}


def rotary_on_cpu(self, max_seq_len, offset=0, packed_seq=False, cp_group=None):
    freqs = self.get_freqs_non_repeated(max_seq_len, offset)
    return torch.cat((freqs, freqs), dim=-1)[:, None, None, :]


def initialize():
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel.random import get_cuda_rng_tracker

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    parallel_state.initialize_model_parallel()
    get_cuda_rng_tracker().fork = lambda *_: contextlib.nullcontext()
    # recomputation puts the device's generator back to where it was; nothing draws from it here
    torch.cuda.random.get_rng_state = lambda *_, **__: torch.get_rng_state()
    buffer = parallel_state.get_global_memory_buffer().buffer
    for dtype in (torch.float32, torch.bfloat16):
        buffer["mpu", dtype] = torch.empty(2 * 4 * 32 * 32, dtype=dtype)


def build(options):
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.transformer import TransformerConfig

    torch.manual_seed(7)
    # 0.10 and 0.11 read the normalization from the configuration alone
    takes_norm = "normalization" in inspect.signature(get_gpt_layer_local_spec).parameters
    rms_norm = {"normalization": "RMSNorm"} if takes_norm else {}
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
        gradient_accumulation_fusion=options.fused,
        bf16=options.wide_logits or options.bf16,
        params_dtype=torch.bfloat16 if options.wide_logits or options.bf16 else torch.float32,
        **(RECOMPUTE if options.recompute else {}),
    )
    model = GPTModel(
        config=config,
        transformer_layer_spec=get_gpt_layer_local_spec(**rms_norm),
        vocab_size=96,
        max_sequence_length=32,
        share_embeddings_and_output_weights=options.tied,
        position_embedding_type="rope",
        **({"logit_dtype": torch.float32} if options.wide_logits else {}),
    )
    model.rotary_pos_emb.forward = MethodType(rotary_on_cpu, model.rotary_pos_emb)
    if options.freeze:
        model.decoder.layers[1].mlp.linear_fc1.weight.requires_grad_(False)
    if options.fused:
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2 and "embedding" not in name:
                parameter.main_grad = torch.zeros_like(parameter)
    if options.foreign_head:
        model.output_layer = torch.nn.Linear(64, 96)
        model.setup_embeddings_and_output_layer()
    return model


@contextlib.contextmanager
def wgrad_operands():
    """The list collects (input, grad_output) of each weight gradient as they are before any selector acts: the inputs
    of the products in the forward, the last one first, and the gradients in the backward."""
    from megatron.core.tensor_parallel import layers

    inputs, collected = [], []
    product = layers.linear_with_grad_accumulation_and_async_allreduce
    prepare = layers.prepare_input_tensors_for_wgrad_compute

    @functools.wraps(product)
    def record_input(*arguments, **named):
        x = named["input"] if "input" in named else arguments[0]
        inputs.append(x.detach().reshape(-1, x.size(-1)))
        return product(*arguments, **named)

    def record_gradient(grad_output, total_input):
        grad_output, total_input = prepare(grad_output, total_input)
        collected.append((inputs.pop(), grad_output))
        return grad_output, total_input

    layers.linear_with_grad_accumulation_and_async_allreduce = record_input
    layers.prepare_input_tensors_for_wgrad_compute = record_gradient
    yield collected
    layers.linear_with_grad_accumulation_and_async_allreduce = product
    layers.prepare_input_tensors_for_wgrad_compute = prepare


@contextlib.contextmanager
def saved_for_backward(model):
    """The dictionary collects the bytes of each storage that the forward saves, the parameters' apart, by address."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor  # stays alive, and with it its address

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield saved


@contextlib.contextmanager
def wide_gemm_operands(model):
    """Puts torch in the place of Transformer Engine's GEMM. The lists collect (input, weight) of the output layer as
    they are before any selector acts, and as the GEMM received them."""
    from megatron.core.extensions import transformer_engine

    plain, received = [], []

    def general_gemm(weight, total_input, out_dtype, layout, bias):
        assert (layout, bias) == ("TN", None)
        received.append((total_input, weight))
        return (total_input.to(out_dtype) @ weight.to(out_dtype).t(),)

    def record(layer, arguments):
        plain.append((arguments[0].reshape(-1, arguments[0].size(-1)), layer.weight))

    hook = model.output_layer.register_forward_pre_hook(record)
    transformer_engine.te_general_gemm = general_gemm
    yield plain, received
    transformer_engine.te_general_gemm = None
    hook.remove()


def compare(plain, received, axis):
    """How many of the operands that a GEMM received are the plain ones, and how many those quantized along `axis` by
    the selectors' specs. The first pair is the output layer's, in a backward pass too."""
    from megatron.core.tensor_parallel import layers

    counts = {"operands": 2 * len(plain), "plain": 0, "quantized": 0}
    for index, (ours, theirs) in enumerate(zip(plain, received, strict=True)):
        site = "lm_head" if index == 0 else "linear"
        text = getattr(layers, f"custom_quant_type_{site}", "none")
        for operand, given in zip(ours, theirs, strict=True):
            counts["plain"] += torch.equal(operand, given)
            if text != "none":
                from quantctl.kernels.formats.quantize import quantize_dequantize
                from quantctl.spec import parse

                counts["quantized"] += torch.equal(quantize_dequantize(operand, parse(text, site), axis), given)
    return counts


def gradients(model):
    """Name to a hash of .grad, or of main_grad where the fused GEMM wrote there; the sign of a zero does not count."""
    values = {
        name: getattr(parameter, "main_grad", None) if parameter.grad is None else parameter.grad
        for name, parameter in model.named_parameters()
    }
    return {
        name: hashlib.sha256((value.float() + 0.0).numpy().tobytes()).hexdigest()
        for name, value in values.items()
        if value is not None
    }


def difference(after, before):
    """Counts of `after` less those of `before`, where anything is left."""
    left = {}
    for site, specs in after.items():
        for spec, products in specs.items():
            counts = {
                product: n - before.get(site, {}).get(spec, {}).get(product, 0) for product, n in products.items()
            }
            if any(counts.values()):
                left.setdefault(site, {})[spec] = counts
    return left


def hits():
    kernels = sys.modules.get("quantctl.kernels.measure.hits")
    return kernels.snapshot() if kernels else {}


def loss_of(model, tokens, options):
    """Mean cross entropy of tokens [2, 33]."""
    positions = torch.arange(32).repeat(2, 1)
    mask = torch.ones(1, 1, 32, 32, dtype=torch.bool).triu(1)
    inputs, labels = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    if not options.wide_logits:
        return model(inputs, positions, mask, labels=labels).mean()
    # Megatron's own loss writes into fp32 logits in place, which autograd forbids for what the wide GEMM returns
    return torch.nn.functional.cross_entropy(model(inputs, positions, mask).transpose(1, 2), labels)


def step(options):
    before = hits()
    model = build(options)
    tokens = torch.randint(0, 96, (2, 33))
    with contextlib.ExitStack() as stack:
        plain = stack.enter_context(wgrad_operands()) if options.fused else None
        with contextlib.ExitStack() as forward:
            wide = forward.enter_context(wide_gemm_operands(model)) if options.wide_logits else None
            saved = forward.enter_context(saved_for_backward(model)) if options.saved else None
            loss = loss_of(model, tokens, options)
        loss.backward()
    result = {
        "loss": loss.item().hex(),
        "gradients": gradients(model),
        "tree": sys.modules["megatron.core"].__file__,
        "quantctl_imported": any(name.partition(".")[0] == "quantctl" for name in sys.modules),
        "hits": difference(hits(), before),
    }
    if options.fused:
        import fused_weight_gradient_mlp_cuda as fused

        result["fused"] = compare(plain, fused.received, 0)
        fused.received.clear()
    if options.wide_logits:
        result["wide"] = compare(*wide, -1)
    if options.saved:
        result["saved"] = sum(saved.values())
    return result


def main():
    parser = argparse.ArgumentParser()
    for flag in FLAGS:
        parser.add_argument(f"--{flag}", action="store_true")
    initialize()
    for flags in " ".join(sys.argv[1:]).split("/"):
        print(json.dumps(step(parser.parse_args(flags.split()))), flush=True)


main()
