"""Selector `attention` of a patched tree at work, on the CPU: prints a line of JSON a case.

    python fused_attention.py CASE ...     CASE: a name of MODELS or CALLS

A model's line tells its losses, the scores that are kept for the backward, and for each attention call how far the
tree's own choice and the unfused flow are from float64, in units of the bound (attention_bound.py). A call's line tells
what the choice did with it, and whether it ended as the unfused flow does, in every bit.

The tree is the one on PYTHONPATH; its constants say what is chosen. Code that asks for the CUDA device gets the CPU.
"""

import contextlib
import io
import json
import sys

import torch
from attention_bound import ROUNDOFF, exact
from local_layers import MLA, SEQUENCE, build, hits, start, step

MODELS = {
    "one-layer": {"num_query_groups": 2, "num_layers": 1},
    "gqa": {"num_query_groups": 2},
    "mla": MLA,
    "layer-scaling": {"num_query_groups": 1, "apply_query_key_layer_scaling": True},
    "bf16": {"num_query_groups": 2, "bf16": True, "params_dtype": torch.bfloat16},
}


def tree():
    from megatron.core.transformer import dot_product_attention

    return dot_product_attention


@contextlib.contextmanager
def saved_scores():
    """The list collects the shapes of tensors that are kept for the backward and hold a value a query and key."""
    shapes = []

    def pack(tensor):
        if tensor.shape[-2:] == (SEQUENCE, SEQUENCE):
            shapes.append(list(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield shapes


@contextlib.contextmanager
def attention_calls(model):
    """The list collects [module, arguments, keyword arguments, gradient of the result] of each call."""
    calls = []

    def record(*call):
        *made, result = call
        calls.append([*made, None])
        result.register_hook(lambda gradient, made=calls[-1]: made.__setitem__(3, gradient))

    modules = [layer.self_attention.core_attention for layer in model.decoder.layers]
    hooks = [module.register_forward_hook(record, with_kwargs=True) for module in modules]
    yield calls
    for hook in hooks:
        hook.remove()


@contextlib.contextmanager
def choosing(impl):
    chosen, tree().custom_attention_impl = tree().custom_attention_impl, impl
    yield
    tree().custom_attention_impl = chosen


def compute(impl, module, operands, rest, keywords, d_out):
    """Context and gradients of one call under `impl`."""
    leaves = [x.detach().clone().requires_grad_() for x in operands]
    with choosing(impl):
        out = module(*leaves, *rest, **keywords)
    return out.view(d_out.shape), *torch.autograd.grad(out, leaves, d_out.flatten(2))


def reference(module, q, k, v, d_out):
    """Of a call with these operands, in float64, with quantized Q and K as the tree says."""
    from quantctl.kernels.formats.quantize import quantize_dequantize
    from quantctl.spec import parse

    spec = parse(tree().custom_quant_type_qk, "qk")
    scores_of = tuple(quantize_dequantize(x.detach(), spec, -1) for x in (q, k))
    if spec.bwd == "dequantized":
        q, k = scores_of
    # what a layer's number was taken out of the scale for, the softmax puts in again
    scale = module.softmax_scale * (module.scale_mask_softmax.scale or 1.0)
    return exact(q, k, v, d_out, scale, scores_of)


def distances(module, arguments, keywords, _):
    """Of the tree's choice and of the unfused flow from float64: the largest of each result, in bounds."""
    operands, rest = arguments[:3], arguments[3:]
    q, k, v = (x.detach() for x in operands)
    d_out = torch.randn(*q.shape[:3], v.shape[3], generator=torch.Generator().manual_seed(3)).to(q.dtype)
    expected = reference(module, q, k, v, d_out)
    return {
        impl: max(expected.excess(compute(impl, module, operands, rest, keywords, d_out)))
        for impl in ("unfused", tree().custom_attention_impl)
    }


def loss_bound(loss, module, arguments, keywords, gradient):
    """How far two losses of a model of one layer may be apart, first-order, in fp32.

    Both contexts are within their bound, and the loss follows with the context's gradient. Behind the attention both
    runs round anew, up to 1000 times on the longest way of sums (64 + 64 + 128 + 64 features, 96 logits, 64 tokens).
    """
    q, k, v = arguments[:3]
    d_out = gradient.view(*q.shape[:3], v.shape[3])
    moved = (d_out.abs() * reference(module, q, k, v, d_out).bounds[0]).sum().item()
    return 2 * (moved + 1000 * ROUNDOFF[torch.float32] * loss)


def model(case):
    def run():
        built = build("mla" if case == "mla" else case, **MODELS[case])
        with saved_scores() as scores, attention_calls(built) as calls:
            return step(built), scores, calls

    before = hits()
    loss, scores, calls = run()
    result = {"loss": loss, "hits": difference(hits(), before), "scores": scores}
    if tree().custom_quant_type_pv == "none":
        result["distances"] = [distances(*call) for call in calls]
    if case == "one-layer":
        with choosing("unfused"):
            result["unfused_loss"] = run()[0]
        result["loss_bound"] = loss_bound(loss, *calls[0])
    return result


def difference(after, before):
    """The calls counted since then, {site: {spec: {product: n}}}."""
    new = {}
    for site, specs in after.items():
        for spec, products in specs.items():
            for product, n in products.items():
                if n > (earlier := before.get(site, {}).get(spec, {}).get(product, 0)):
                    new.setdefault(site, {}).setdefault(spec, {})[product] = n - earlier
    return new


def attention(mask_type="causal", training=True, window=None, **changes):
    """A DotProductAttention of four heads of 16 and two groups, and the operands of a call."""
    from megatron.core.transformer import TransformerConfig
    from megatron.core.transformer.enums import AttnMaskType

    common = {"num_layers": 1, "hidden_size": 64, "num_attention_heads": 4, "num_query_groups": 2}
    config = TransformerConfig(**common, attention_dropout=0.0, masked_softmax_fusion=False, **changes)
    if window is not None:
        config.window_size = window
    module = tree().DotProductAttention(config, 1, AttnMaskType[mask_type], "self").train(training)
    generator = torch.Generator().manual_seed(5)
    return module, [torch.randn(SEQUENCE, 2, heads, 16, generator=generator) for heads in (4, 2, 2)]


def future(length=SEQUENCE):
    return torch.ones(1, 1, length, length, dtype=torch.bool).triu(1)


def documents():
    """The mask of --reset-attention-mask: two documents that do not see each other."""
    mask = future()
    mask[..., SEQUENCE // 2 :, : SEQUENCE // 2] = True
    return mask


def call_named(name):
    """(module, operands, mask, keyword arguments) of a call."""
    changes, mask, keywords = {}, future(), {}
    if name == "sinks":
        changes = {"softmax_type": "learnable", "init_method": torch.nn.init.normal_}
    elif name == "window":
        changes = {"window": (8, 0)}
    elif name == "padding":
        changes = {"mask_type": "padding"}
    elif name == "no mask":
        mask = None
    elif name == "evaluation":
        changes = {"training": False}
    elif name == "documents":
        mask = documents()
    elif name == "weights as a mask":
        mask = mask.float()
    module, operands = attention(**changes)
    if name in ("dropout", "evaluation"):
        module.attention_dropout.p = 0.1
    elif name == "context parallelism":
        module.config.context_parallel_size = 2
    elif name == "cache":
        operands[0] = operands[0][-1:]
        mask = None
    elif name == "bias":
        keywords = {"attention_bias": torch.zeros(1)}
    elif name == "packed":
        from megatron.core.packed_seq_params import PackedSeqParams

        keywords = {"packed_seq_params": PackedSeqParams()}
    elif name == "float64":
        operands = [x.double() for x in operands]
    return module, operands, mask, keywords


FUSED = ("causal mask", "no mask", "evaluation")
UNFUSED = (
    *("sinks", "window", "padding", "documents", "weights as a mask", "dropout", "context parallelism", "cache"),
    *("bias", "packed", "float64"),
)
CALLS = FUSED + UNFUSED


def call(name):
    module, operands, mask, keywords = call_named(name)

    def outcome():
        torch.manual_seed(1)
        try:
            return module(*operands, mask, **keywords)
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    before, said = hits(), io.StringIO()
    with contextlib.redirect_stderr(said):
        results = [outcome(), outcome()]
    counted = difference(hits(), before).get("attention", {})
    with choosing("unfused"):
        stock = outcome()
    same = [
        type(result) is type(stock) and bool(result == stock if isinstance(stock, str) else torch.equal(result, stock))
        for result in results
    ]
    errors = [result for result in results if isinstance(result, str)]
    return {"counted": counted, "said": said.getvalue(), "same": all(same), "errors": errors}


def main():
    start()
    for case in sys.argv[1:]:
        print(json.dumps({"case": case, **(model if case in MODELS else call)(case)}), flush=True)


main()
