"""Transformer Engine's linear layers against Megatron's local ones, bit for bit: a line of JSON a case.

    python te_layers.py TREE WORLD

TREE is patched. Each of WORLD ranks (gloo) is a fork; on a GPU there is one. Both layers of a case get the same
weights, input and output gradient, under mxfp8. A line names the case and the rank, and what of both is not equal:
output, bias (what is handed back), input, weight and its gradient...; for a case of one layer alone, what it differs in
from what it should give.
"""

import contextlib
import json
import os
import sys
import tempfile

import te_models  # installs the bed
import torch
import torch.distributed as dist

SPEC = "mxfp8"
HIDDEN, OUT, TOKENS = 64, 96, (32, 2)
COMMON = te_models.COMMON | {"hidden_size": HIDDEN, "normalization": "RMSNorm"}


def configuration(world, **changes):
    from megatron.core.transformer import TransformerConfig

    return TransformerConfig(**COMMON | {"tensor_model_parallel_size": world} | changes)


def arguments(config, bias, returned):
    return {"config": config, "init_method": torch.nn.init.zeros_, "bias": bias, "skip_bias_add": returned}


def column(te, config, bias, returned):
    from megatron.core.extensions.transformer_engine import TEColumnParallelLinear
    from megatron.core.tensor_parallel import ColumnParallelLinear

    kind = TEColumnParallelLinear if te else ColumnParallelLinear
    return kind(HIDDEN, OUT, gather_output=False, is_expert=False, **arguments(config, bias, returned))


def row(te, config, bias, returned):
    from megatron.core.extensions.transformer_engine import TERowParallelLinear
    from megatron.core.tensor_parallel import RowParallelLinear

    kind = TERowParallelLinear if te else RowParallelLinear
    return kind(HIDDEN, OUT, input_is_parallel=True, is_expert=False, **arguments(config, bias, returned))


def fused_norm(te, config, bias, returned):
    """A norm and a column-parallel layer; the norm is Transformer Engine's on both sides."""
    from megatron.core.extensions.transformer_engine import TELayerNormColumnParallelLinear, TENorm

    if te:
        more = {"gather_output": False, "is_expert": False, **arguments(config, bias, returned)}
        return TELayerNormColumnParallelLinear(HIDDEN, OUT, **more)
    linear = column(False, config, bias, returned)
    linear.norm = TENorm(config, HIDDEN)
    linear.register_forward_pre_hook(lambda layer, inputs: layer.norm(inputs[0]))
    return linear


CASES = {
    f"{kind.__name__}{', ' if words else ''}{words}": (kind, bias, returned, changes)
    for kind in (column, row, fused_norm)
    for words, bias, returned, changes in (
        ("", False, False, {}),
        ("bias", True, False, {}),
        ("returned bias", True, True, {}),
        ("bf16", True, False, {"bf16": True, "params_dtype": torch.bfloat16}),
        ("fused", True, False, {"gradient_accumulation_fusion": True}),
        ("frozen", False, False, {}),
        *((("layernorm", True, False, {"normalization": "LayerNorm"}),) if kind is fused_norm else ()),
        *((("zero-centred", False, False, {"layernorm_zero_centered_gamma": True}),) if kind is fused_norm else ()),
    )
}


def filled(layer, generator, frozen):
    """Weights and biases of the same numbers whatever the parameters are called."""
    norms = {"norm.weight": "layer_norm_weight", "norm.bias": "layer_norm_bias"}
    parameters = {norms.get(name, name): parameter for name, parameter in layer.named_parameters()}
    with torch.no_grad():
        for name in sorted(parameters):
            parameters[name].copy_(torch.randn(parameters[name].shape, generator=generator))
            parameters[name].main_grad = torch.zeros_like(parameters[name], dtype=torch.float32)
    parameters["weight"].requires_grad_(not frozen)
    return parameters


def computed(kind, te, rank, words, config, bias, returned):
    layer = kind(te, config, bias, returned)
    parameters = filled(layer.to(te_models.DEVICE), torch.Generator().manual_seed(3 + rank), "frozen" in words)
    generator = torch.Generator().manual_seed(5 + rank)
    shape = list(TOKENS)
    if config.sequence_parallel and kind is not row:
        shape[0] //= config.tensor_model_parallel_size
    width = HIDDEN // config.tensor_model_parallel_size if kind is row else HIDDEN
    x = torch.randn(*shape, width, generator=generator).to(te_models.DEVICE, config.params_dtype).requires_grad_()
    output, handed_back = layer(x)
    gradient = torch.randn(output.shape, generator=generator).to(output)
    output.backward(gradient)
    fused = config.gradient_accumulation_fusion
    gradients = {name: p.main_grad if fused and name == "weight" else p.grad for name, p in parameters.items()}
    assert all(gradient is None or gradient.any() for gradient in gradients.values())
    return {"output": output, "bias": handed_back, "input": x.grad, **{f"d {n}": g for n, g in gradients.items()}}


def unequal(ours, theirs):
    def equal(a, b):
        return (a is None and b is None) or (a is not None and b is not None and torch.equal(a, b))

    assert ours.keys() == theirs.keys(), (ours.keys(), theirs.keys())
    return [name for name in ours if not equal(ours[name], theirs[name])]


def grouped(config, together):
    """Experts in one layer, one of them without tokens, against each one alone, and biases handed back or applied."""
    from megatron.core.extensions.transformer_engine import TEColumnParallelGroupedLinear

    generator = torch.Generator().manual_seed(3)
    layer = TEColumnParallelGroupedLinear(
        3, HIDDEN, OUT, config=config, init_method=torch.nn.init.zeros_, bias=True, skip_bias_add=False, is_expert=True
    )
    parameters = filled_grouped(layer.to(te_models.DEVICE), generator)
    x = torch.randn(32, HIDDEN, generator=generator).to(te_models.DEVICE).requires_grad_()
    splits = [20, 0, 12]
    output, _ = layer(x, splits)
    gradient = torch.randn(output.shape, generator=generator).to(output)
    output.backward(gradient)
    found = {"output": output, "input": x.grad}
    wanted = {"output": [], "input": []}
    for number, part, grad in zip(range(3), x.detach().split(splits), gradient.split(splits), strict=True):
        single = column(False, configuration(1), True, False).to(te_models.DEVICE)
        with torch.no_grad():
            single.weight.copy_(parameters[f"weight{number}"])
            single.bias.copy_(parameters[f"bias{number}"])
        own = part.clone().requires_grad_()
        out, _ = single(own)
        out.backward(grad)
        wanted["output"].append(out)
        wanted["input"].append(own.grad)
        for name in ("weight", "bias"):
            parameter = parameters[f"{name}{number}"]
            fused = name == "weight" and not together
            found[f"d {name}{number}"] = parameter.main_grad if fused else parameter.grad
            wanted[f"d {name}{number}"] = getattr(single, name).grad
    wanted |= {name: torch.cat(wanted[name]) for name in ("output", "input")}
    return unequal(found, wanted)


def filled_grouped(layer, generator):
    parameters = dict(layer.named_parameters())
    with torch.no_grad():
        for name in sorted(parameters):
            parameters[name].copy_(torch.randn(parameters[name].shape, generator=generator))
            parameters[name].main_grad = torch.zeros_like(parameters[name], dtype=torch.float32)
    return parameters


def on_rank(world, rank, store):
    from quantctl.kernels.measure import coverage

    te_models.start(world, rank, dist.FileStore(store, world))
    te_models.select({"linear": SPEC})
    coverage.give_up()  # no layer is part of a model, and looking for models takes longer than all else
    parallel = (False, True) if world > 1 else (False,)
    for words, (kind, bias, returned, changes) in CASES.items():
        for sequence_parallel in parallel:
            config = configuration(world, sequence_parallel=sequence_parallel, **changes)
            both = [computed(kind, te, rank, words, config, bias, returned) for te in (True, False)]
            case = words + (", sequence parallel" if sequence_parallel else "")
            say({"case": case, "rank": rank, "unequal": unequal(*both), "calls": calls()})
    if world == 1:
        say({"case": "grouped", "rank": 0, "unequal": grouped(configuration(1), True)})
        config = configuration(1, gradient_accumulation_fusion=True)
        say({"case": "grouped, fused", "rank": 0, "unequal": grouped(config, False)})


def calls():
    """The products of the case."""
    from quantctl.kernels.measure import hits

    found = hits.snapshot()
    hits.forget()
    return found


def say(line):
    os.write(1, (json.dumps(line) + "\n").encode())  # one write, so that the lines of ranks do not mix


def main():
    tree, world = sys.argv[1], int(sys.argv[2])
    sys.path.insert(0, tree)
    # once, for all ranks
    import quantctl.kernels.transformer_engine  # noqa: F401

    if te_models.DEVICE == "cuda":
        with tempfile.TemporaryDirectory() as folder:
            on_rank(1, 0, os.path.join(folder, "store"))
        return
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as children:
        for rank in range(world):
            child = os.fork()
            if child == 0:
                te_models.end_with(on_rank, world, rank, os.path.join(folder, "store"))
            children.callback(wait, child)


def wait(child):
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


if __name__ == "__main__":
    main()
