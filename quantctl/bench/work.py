"""What each case has to move and to compute, counted from shapes: the numerators of GB/s and TFLOP/s."""

from __future__ import annotations

from typing import NamedTuple

from quantctl.spec import NONE, FormatSpec, parse


def directions(spec: FormatSpec, axes: int) -> int:
    """How many results differ: without blocks, or with square ones, and without draws both directions are one."""
    from quantctl.kernels.formats.quantize import is_same_along_all_axes

    return 1 if is_same_along_all_axes(spec) else axes


def qdq_bytes(elements: int, spec: FormatSpec, axes: int, size: int = 2, *, whole: bool = False) -> tuple[int, int]:
    """Bytes read and bytes written by quantize-dequantize along so many axes in one pass.

    The sum is that of kernels/triton/qdq.bytes_moved. size: bytes an element, in and out. A scale of the tensor or of
    rows is one more read, but where rows are held as a whole.
    """
    from quantctl.kernels.formats.tensor_scale import extent_of

    reads = 1 + (extent_of(spec) != NONE and not whole)
    return reads * elements * size, directions(spec, axes) * elements * size


class LinearShape(NamedTuple):
    """Y [tokens, out] = X [tokens, in] W^T."""

    tokens: int
    inputs: int
    outputs: int

    def __str__(self) -> str:
        return f"{self.tokens} x {self.inputs} x {self.outputs}"

    @property
    def flops(self) -> int:
        """Forward, dgrad and wgrad: a multiplication and an addition each."""
        return 6 * self.tokens * self.inputs * self.outputs

    def qdq_bytes(self, spec: str) -> int:
        """bwd=quantized without reuse.

        dY in both directions at once, W in one for fprop and one for dgrad, X in one for fprop while it is packed in
        the other, which wgrad unpacks.
        """
        import torch

        from quantctl.kernels.products.packed import Layout, nbytes

        parsed = parse(spec)
        packed = nbytes(Layout(parsed, 0, self.tokens, self.inputs, torch.bfloat16))
        unpacked = 2 * self.tokens * self.inputs
        inputs = sum(qdq_bytes(self.tokens * self.inputs, parsed, 1)) + 2 * packed + unpacked
        gradients = sum(qdq_bytes(self.tokens * self.outputs, parsed, 2))
        return inputs + gradients + 2 * sum(qdq_bytes(self.inputs * self.outputs, parsed, 1))


class AttentionShape(NamedTuple):
    """Causal self-attention of one sample."""

    sequence: int
    heads: int
    groups: int
    head_dim: int

    def __str__(self) -> str:
        return f"s {self.sequence}, {self.heads} heads, {self.groups} groups, d {self.head_dim}, causal"

    @property
    def flops(self) -> int:
        """Two products forward and five backward (flash attention computes the scores again), half of each masked."""
        return 7 * self.sequence**2 * self.head_dim * self.heads

    @property
    def input_bytes(self) -> int:
        """Q, K, V and dO in bf16."""
        return 2 * self.sequence * self.head_dim * 2 * (self.heads + self.groups)

    def qk_qdq_bytes(self, spec: str) -> int:
        """Q and K, each quantized once along the head dimension."""
        elements = self.sequence * self.head_dim * (self.heads + self.groups)
        return sum(qdq_bytes(elements, parse(spec), 1))


class GroupedShape(NamedTuple):
    """The experts of one MoE layer: fc1 (gate and up in one), SwiGLU, fc2."""

    tokens: int
    experts: int
    hidden: int = 2048
    intermediate: int = 1408
    top: int = 6

    def __str__(self) -> str:
        return f"{self.tokens} tokens x {self.experts} experts, {self.hidden} -> {self.intermediate}, top {self.top}"

    @property
    def rows(self) -> int:
        """Tokens times the experts that each goes to."""
        return self.tokens * self.top

    @property
    def weight_elements(self) -> int:
        """Of both products of all experts."""
        return self.experts * 3 * self.hidden * self.intermediate

    @property
    def flops(self) -> int:
        """Forward; the backward is twice that."""
        return 2 * self.rows * 3 * self.hidden * self.intermediate

    def qdq_bytes(self, spec: str, *, reuse: bool) -> dict[str, int]:
        """Bytes of the quantizations of a forward and of a backward, bwd=quantized.

        X of both products goes in one direction while it is packed in the other, which the backward unpacks; dY of both
        goes in both directions at once. Without reuse the weights go in one direction in the forward and in the other
        in the backward; with it both were made before.
        """
        import torch

        from quantctl.kernels.products.grouped_packed import layout_of
        from quantctl.kernels.products.packed import nbytes

        parsed = parse(spec)
        inputs = self.rows * (self.hidden + self.intermediate)
        outputs = self.rows * (2 * self.intermediate + self.hidden)
        weights = 0 if reuse else sum(qdq_bytes(self.weight_elements, parsed, 1))
        sizes = ((self.rows, columns) for columns in (self.hidden, self.intermediate))
        packed = sum(nbytes(layout_of(size, torch.bfloat16, self.experts, parsed, 0)) for size in sizes)
        return {
            "forward": sum(qdq_bytes(inputs, parsed, 1)) + packed + weights,
            "backward": packed + 2 * inputs + sum(qdq_bytes(outputs, parsed, 2)) + weights,
        }
