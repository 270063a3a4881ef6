"""Megatron's SequentialMLP on the CPU, its experts together and in a loop: a line of JSON a case.

    python experts.py CASE ...

Each case gives, for `together` and for `loop`, a hash of every output and gradient, and the calls that were counted.
The tree is the one on PYTHONPATH, its selectors as they are. In `loop` the patched layer is told that its experts
cannot be computed together.
"""

import hashlib
import importlib
import inspect
import json
import sys
from unittest import mock

import local_layers
import torch

EXPERTS, HIDDEN = 4, 64
COUNTS = [
    [7, 0, 33, 24],
    [0, 64, 0, 0],
    [32, 0, 32, 0],
]
"""Tokens of each expert, a micro batch a row."""
CONFIGS = {
    "bias": {"add_bias_linear": True},
    "not gated": {"gated_linear_unit": False, "activation_func": torch.nn.functional.gelu},
    "fused activation": {"bias_activation_fusion": True},
    "clamped": {"activation_func_clamp_value": 0.25},
    "weights applied first": {"moe_apply_probs_on_input": True, "moe_router_topk": 1, "moe_router_pre_softmax": True},
    "fused weight gradients": {"gradient_accumulation_fusion": True},
    "bf16": {"params_dtype": torch.bfloat16, "bf16": True},
}
CASES = ("plain", *CONFIGS, "frozen", "main_grad", "hook", "gathered", "tokens without gradient", "no tokens")


def build(case):
    from megatron.core import tensor_parallel
    from megatron.core.transformer import TransformerConfig
    from megatron.core.transformer.mlp import MLPSubmodules
    from megatron.core.transformer.moe.experts import SequentialMLP

    torch.manual_seed(3)
    config = local_layers.COMMON | {"num_layers": 1, "num_moe_experts": EXPERTS, "moe_ffn_hidden_size": 128}
    layers = MLPSubmodules(
        linear_fc1=tensor_parallel.ColumnParallelLinear, linear_fc2=tensor_parallel.RowParallelLinear
    )
    # 0.13 and later are told their process groups
    groups = {
        name: getattr(importlib.import_module("megatron.core.process_groups_config"), kind).use_mpu_process_groups()
        for name, kind in (("model_comm_pgs", "ModelCommProcessGroups"), ("pg_collection", "ProcessGroupCollection"))
        if name in inspect.signature(SequentialMLP).parameters
    }
    return SequentialMLP(EXPERTS, TransformerConfig(**config | CONFIGS.get(case, {})), layers, **groups)


def prepare(case, experts):
    """What other code of a training does to parameters and layers."""
    parameters = dict(experts.named_parameters())
    if case == "bias":
        for name, parameter in parameters.items():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter)
        for expert in experts.local_experts:  # as with expert parallelism; otherwise the stock loop stops at the biases
            expert.linear_fc1.explicit_expert_comm = expert.linear_fc2.explicit_expert_comm = True
    elif case == "frozen":
        experts.local_experts[1].requires_grad_(False)
    elif case == "hook":
        experts.local_experts[2].linear_fc1.register_forward_pre_hook(lambda layer, arguments: (2 * arguments[0],))
    elif case == "gathered":
        # as DDP's, which waits for the parameters of the module it is called with
        def wait(module, *_):
            for parameter in module.parameters(recurse=False):
                parameter.waited_for = True

        wait.__module__ = "megatron.core.distributed.distributed_data_parallel"
        for module in experts.modules():
            module.register_forward_pre_hook(wait)
    elif case in ("main_grad", "fused weight gradients"):
        for parameter in parameters.values():
            parameter.main_grad, parameter.grad_added_to_main_grad = torch.zeros_like(parameter), False
            parameter.register_post_accumulate_grad_hook(into_main_grad)


def into_main_grad(parameter):
    """As Megatron's data parallelism takes each parameter's gradient."""
    if not parameter.grad_added_to_main_grad:
        parameter.main_grad.add_(parameter.grad)
    parameter.grad = None


def train(case, experts):
    """Outputs and gradients of the micro batches."""
    takes_probs = "permuted_probs" in inspect.signature(experts.forward).parameters
    dtype = next(experts.parameters()).dtype
    generator = torch.Generator().manual_seed(5)
    values = {}
    for index, counts in enumerate([[0] * EXPERTS] if case == "no tokens" else COUNTS):
        hidden = torch.randn(sum(counts), HIDDEN, generator=generator).to(dtype)
        hidden.requires_grad_(case != "tokens without gradient")
        probs = torch.rand(sum(counts), generator=generator).requires_grad_()
        results = experts(hidden, torch.tensor(counts), *((probs,) if takes_probs else ()))
        wanted = [torch.randn(sum(counts), HIDDEN, generator=generator).to(dtype) for _ in results]
        products = zip(results, wanted, strict=True)
        sum((result * grad).sum() for result, grad in products if result is not None).backward()
        values |= {f"output {index}": results[0], f"bias {index}": results[1], f"hidden {index}": hidden.grad}
        values[f"probs {index}"] = probs.grad
    if case == "gathered":
        assert all(hasattr(parameter, "waited_for") for parameter in experts.parameters())
    for name, parameter in experts.named_parameters():
        values[name] = getattr(parameter, "main_grad", parameter.grad)
    return {name: None if value is None else digest(value) for name, value in values.items()}


def digest(value):
    return hashlib.sha256((value.detach().float() + 0.0).numpy().tobytes()).hexdigest()[:16]


def run(case):
    from quantctl.kernels import grouped_experts  # the name that patched trees import

    results = {}
    for way in ("together", "loop"):
        before = local_layers.hits()
        experts = build(case)
        prepare(case, experts)
        checkpoint = sorted(experts.sharded_state_dict()) if case == "plain" else []
        try:
            if way == "loop":
                with mock.patch.object(grouped_experts, "forward", return_value=None):
                    values = train(case, experts)
            else:
                values = train(case, experts)
        except Exception as error:
            values = {"error": f"{type(error).__name__}: {error}"}
        results[way] = {"values": values, "hits": local_layers.since(before), "checkpoint": checkpoint}
    return results


def main():
    local_layers.start()
    for case in sys.argv[1:]:
        print(json.dumps({"case": case, **run(case)}), flush=True)


main()
