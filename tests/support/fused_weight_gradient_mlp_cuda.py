"""Apex's extension of this name for a CPU: the same contract, computed by torch, and it remembers what it was given."""

from torch import Tensor

received: list[tuple[Tensor, Tensor]] = []
"""(total_input [tokens, in], grad_output [tokens, out]) of every call."""


def wgrad_gemm_accum_fp32(total_input: Tensor, grad_output: Tensor, main_grad: Tensor) -> None:
    """main_grad [out, in] += grad_output^T total_input."""
    received.append((total_input.clone(), grad_output.clone()))
    main_grad += grad_output.t() @ total_input
