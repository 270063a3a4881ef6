"""Products of groups of rows: torch's grouped GEMM, or its GEMM in a loop over groups whose sizes the host knows.

torch.nn.functional.grouped_mm (torch 2.10) computes bf16 on GPUs of compute capability 9 and 10 without a look at the
sizes; elsewhere it waits for the device and loops itself, so there the loop here, which does not wait, comes first. It
wants every row to begin at a multiple of 16 bytes. On a CPU it is that loop in C++, with the same bits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantctl.kernels.operator import uncaptured
from quantctl.kernels.products.gradient_mode import product_dtype
from quantctl.kernels.products.groups import Groups
from quantctl.kernels.tables import is_fake

ALIGNMENT = 16
"""Bytes."""
CAPABILITIES = (9, 10)
"""Compute capabilities (major) with a grouped GEMM."""


def _is_served(groups: Groups, *matrices: Tensor) -> bool:
    """Whether the grouped GEMM is there, and better than the loop."""
    if not hasattr(torch.nn.functional, "grouped_mm") or not groups.rows:
        return False
    if any(size * matrix.element_size() % ALIGNMENT for matrix in matrices for size in matrix.shape[-2:]):
        return False
    device = matrices[0].device
    if device.type == "cuda" and groups.counts is not None:
        return matrices[0].dtype == torch.bfloat16 and torch.cuda.get_device_capability(device)[0] in CAPABILITIES
    return device.type in ("cpu", "cuda")


def _as_autocast_has_them(*operands: Tensor) -> list[Tensor]:
    """torch's grouped GEMM is none of the products that autocast converts operands for."""
    return [operand.to(product_dtype(operand)) for operand in operands]


def rows_by_matrices(x: Tensor, matrices: Tensor, groups: Groups) -> Tensor:
    """x [rows, k], matrices [groups, k, n] -> [rows, n]: each group's rows by its matrix."""
    if torch.compiler.is_compiling() or is_fake(x):
        return _rows_operator(x, matrices, groups.ends)
    x, matrices = _as_autocast_has_them(x, matrices)
    if _is_served(groups, matrices):
        return torch.nn.functional.grouped_mm(x, matrices, offs=groups.ends)
    return torch.cat([part.matmul(matrix) for part, matrix in zip(x.split(groups.sizes()), matrices, strict=True)])


def weights_of_groups(grad: Tensor, x: Tensor, groups: Groups) -> Tensor:
    """dY [rows, out], X [rows, in] -> [groups, out, in]: dY^T X of each group's rows; 0 where there are none."""
    if torch.compiler.is_compiling() or is_fake(x):
        return _weights_operator(grad, x, groups.ends)
    grad, x = _as_autocast_has_them(grad, x)
    if not _is_served(groups, grad.new_empty(0, grad.shape[1], x.shape[1])):
        parts = zip(grad.split(groups.sizes()), x.split(groups.sizes()), strict=True)
        return torch.stack([dy.t().matmul(part) for dy, part in parts])
    product = torch.nn.functional.grouped_mm(grad.t(), x, offs=groups.ends)
    # a group without rows is left unwritten on some devices (pytorch issue 172439)
    if groups.counts is None:
        return product.masked_fill_((groups.ends == groups.starts()).view(-1, 1, 1), 0.0)
    for group, count in enumerate(groups.counts):
        if not count:
            product[group].zero_()
    return product


# nodes of a torch.compile graph: torch traces its grouped GEMM for bf16 alone, and lays operands out as it cannot take


@uncaptured("quantctl::rows_by_matrices", "(Tensor x, Tensor matrices, Tensor ends) -> Tensor")
def _rows_operator(x: Tensor, matrices: Tensor, ends: Tensor) -> Tensor:
    return rows_by_matrices(x.contiguous(), matrices, Groups(x.shape[0], ends, None))


@_rows_operator.register_fake
def _(x: Tensor, matrices: Tensor, ends: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], matrices.shape[2])


@uncaptured("quantctl::weights_of_groups", "(Tensor grad, Tensor x, Tensor ends) -> Tensor")
def _weights_operator(grad: Tensor, x: Tensor, ends: Tensor) -> Tensor:
    return weights_of_groups(grad.contiguous(), x.contiguous(), Groups(x.shape[0], ends, None))


@_weights_operator.register_fake
def _(grad: Tensor, x: Tensor, ends: Tensor) -> Tensor:
    return x.new_empty(ends.shape[0], grad.shape[1], x.shape[1])
