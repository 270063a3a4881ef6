"""A column-parallel and a row-parallel linear layer of Megatron on 1, 2 and 4 ranks: files of what each rank computed.

    python tensor_parallel.py FOLDER

The tree is the one on PYTHONPATH, patched. FOLDER gets <world>-<rank>.pt: by case and product the operands and the
result of the GEMM, and the outputs and gradients. Ranks are forked, so that Megatron is imported once.
"""

import multiprocessing
import sys
from pathlib import Path

import local_layers
import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

from quantctl.spec.recipes import RECIPES

HIDDEN, FFN, TOKENS = 128, 256, (32, 2)
CASES = {
    "mxfp4": ("mxfp4", False),
    "mxfp4 straight-through": ("mxfp4:bwd=dequantized", False),
    "mxfp4 with sequence parallelism": ("mxfp4", True),
    "mxfp8": ("mxfp8", False),
    "hifp8": ("hifp8", False),
    "32x32": ("mxfp8:weight.block=32x32,wgrad.hadamard=32", False),
    "deepseek-v3": (RECIPES["deepseek-v3"].linear, False),
    "te-nvfp4": (RECIPES["te-nvfp4"].linear, False),
    "te-current": (RECIPES["te-current"].linear, False),
}
"""Name -> selector, sequence parallelism."""
PRODUCTS = ("fprop 1", "fprop 2", "dgrad 2", "wgrad 2", "dgrad 1", "wgrad 1")
"""In the order of a step; 1 is the column-parallel layer."""


class Products(TorchDispatchMode):
    """Collects the operands and results of all matrix products."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        if function is torch.ops.aten.mm.default:
            self.found.append(tuple(t.detach().clone() for t in (*arguments, result)))
        return result


def whole():
    """X, both weights, and the output's gradient in small integers."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(*TOKENS, HIDDEN, generator=generator)
    weights = [torch.randn(size, generator=generator) for size in ((FFN, HIDDEN), (HIDDEN, FFN))]
    return x, *weights, torch.randint(-4, 5, (*TOKENS, HIDDEN), generator=generator).float()


def step(world, rank, spec, sequence_parallel):
    from megatron.core.tensor_parallel import layers
    from megatron.core.transformer import TransformerConfig

    layers.custom_quant_type_linear = spec
    config = TransformerConfig(
        **local_layers.COMMON | {"tensor_model_parallel_size": world, "sequence_parallel": sequence_parallel}
    )
    common = {"config": config, "init_method": torch.nn.init.zeros_, "bias": False, "skip_bias_add": False}
    column = layers.ColumnParallelLinear(HIDDEN, FFN, gather_output=False, **common)
    row = layers.RowParallelLinear(FFN, HIDDEN, input_is_parallel=True, **common)
    x, first, second, grad = whole()
    if sequence_parallel:
        x, grad = x.chunk(world)[rank], grad.chunk(world)[rank]
    x = x.clone().requires_grad_()
    with torch.no_grad():
        column.weight.copy_(first.chunk(world)[rank])
        row.weight.copy_(second.chunk(world, dim=1)[rank])
    with Products() as products:
        hidden, _ = column(x)
        output, _ = row(hidden)
        output.backward(grad)
    return {
        **dict(zip(PRODUCTS, products.found, strict=True)),
        "values": {"Y": output.detach(), "dX": x.grad, "dW 1": column.weight.grad, "dW 2": row.weight.grad},
    }


def rank_main(folder, world, rank):
    local_layers.start(world, rank, dist.FileStore(str(folder / f"store{world}"), world))
    results = {
        name: step(world, rank, spec, sequence) for name, (spec, sequence) in CASES.items() if world > 1 or not sequence
    }
    torch.save(results, folder / f"{world}-{rank}.pt")
    dist.destroy_process_group()


def main():
    folder = Path(sys.argv[1])
    import megatron.core.models.gpt  # noqa: F401, all that a rank would import

    import quantctl.kernels.products.linear  # noqa: F401

    fork = multiprocessing.get_context("fork")
    for world in (1, 2, 4):
        ranks = [fork.Process(target=rank_main, args=(folder, world, rank)) for rank in range(world)]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join()
        if any(process.exitcode for process in ranks):
            sys.exit(f"{world} ranks: {[process.exitcode for process in ranks]}")


if __name__ == "__main__":
    main()
