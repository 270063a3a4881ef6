"""Stands for transformer_engine_torch, the compiled half of Transformer Engine, on a CPU: arithmetic by torch.

Written from what the Python half calls. Tensors are row-major there and column-major in the GEMM's letters, so
generic_gemm(A, transa, B, transb) is op(B) @ op(A). What is not here may be looked at (defaults, annotations, members
of enums that only name things) and raises when it is called.
"""

import enum
import types

import torch

DTYPES = {
    "kByte": (0, torch.uint8),
    "kInt32": (2, torch.int32),
    "kFloat32": (4, torch.float32),
    "kFloat16": (5, torch.float16),
    "kBFloat16": (6, torch.bfloat16),
    "kFloat8E4M3": (7, None),
    "kFloat8E5M2": (8, None),
    "kFloat4E2M1": (10, None),
}
DType = enum.IntEnum("DType", {name: number for name, (number, _) in DTYPES.items()})
_TORCH = {number: dtype for number, dtype in DTYPES.values() if dtype is not None}


_NUMBERS = {}
"""What the members of enums are that only name things."""


class Missing:
    """A name that is not here."""

    def __init__(self, name):
        self._name = name

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Missing(f"{self._name}.{name}")

    def __call__(self, *_, **__):
        raise NotImplementedError(f"{self._name} does not stand on a CPU: tests/support/te_cpu/compiled.py lacks it")

    def __int__(self):
        return _NUMBERS.setdefault(self._name, len(_NUMBERS))

    def __or__(self, _):
        return self

    __ror__ = __or__

    def __eq__(self, other):
        return isinstance(other, Missing) and other._name == self._name

    def __hash__(self):
        return hash(self._name)


class _OpenEnum(enum.EnumMeta):
    """Older releases ask for members that newer ones have dropped."""

    def __getattr__(cls, name):
        if name.startswith("NVTE_"):
            return Missing(f"{cls.__name__}.{name}")
        raise AttributeError(name)


class NVTE_Fused_Attn_Backend(enum.IntEnum, metaclass=_OpenEnum):
    NVTE_No_Backend = -1
    NVTE_F16_arbitrary_seqlen = 1
    NVTE_FP8 = 2


def get_num_cublas_streams():
    return 1


def get_cudnn_version():
    return 0


def rmsnorm_fwd(x, weight, eps, out, quantizer, dtype, _margin, zero_centered):
    assert quantizer is None
    wide = x.float()
    scale = torch.rsqrt(wide.square().mean(-1) + eps)
    y = (wide * scale[:, None] * _gamma(weight, zero_centered)).to(_dtype(dtype))
    return _into(out, y), None, scale


def rmsnorm_bwd(grad, x, scale, weight, _margin, zero_centered):
    normal = x.float() * scale[:, None]
    inner = grad.float() * _gamma(weight, zero_centered)
    dx = scale[:, None] * (inner - normal * (inner * normal).mean(-1, keepdim=True))
    return dx.to(x.dtype), (grad.float() * normal).sum(0).to(weight.dtype)


def layernorm_fwd(x, weight, bias, eps, out, quantizer, dtype, _margin, zero_centered):
    assert quantizer is None
    mean = x.float().mean(-1)
    centered = x.float() - mean[:, None]
    scale = torch.rsqrt(centered.square().mean(-1) + eps)
    y = (centered * scale[:, None] * _gamma(weight, zero_centered) + bias.float()).to(_dtype(dtype))
    return _into(out, y), mean, scale


def layernorm_bwd(grad, x, mean, scale, weight, _margin, zero_centered):
    normal = (x.float() - mean[:, None]) * scale[:, None]
    inner = grad.float() * _gamma(weight, zero_centered)
    dx = inner - inner.mean(-1, keepdim=True) - normal * (inner * normal).mean(-1, keepdim=True)
    sums = (grad.float() * normal).sum(0), grad.float().sum(0)
    return (scale[:, None] * dx).to(x.dtype), *(total.to(weight.dtype) for total in sums)


def generic_gemm(A, transa, B, transb, D, quantizer, out_dtype, bias, _bias_type, gelu, _gelu_in, grad, *more, **named):
    assert not any((quantizer, gelu, named.get("comm_overlap"), named.get("alpha", 1.0) != 1.0))
    accumulate = more[2]  # behind the workspace and its size
    a, b = A.reshape(-1, A.shape[-1]), B.reshape(-1, B.shape[-1])
    product = (b.t() if transb else b) @ (a.t() if transa else a)
    bias_grad = b.sum(0).to(bias.dtype) if bias is not None and grad else None
    if bias is not None and not grad:
        product = product + bias
    if out_dtype is not None:
        product = product.to(_dtype(out_dtype))
    if not transb and B.dim() > 2:
        product = product.reshape(*B.shape[:-1], product.shape[-1])
    if D is not None:
        product = D.add_(product.view(D.shape)) if accumulate else D.copy_(product.view(D.shape))
    return product, bias_grad, None, None


def te_general_grouped_gemm(A, transa, B, transb, D, _dtype, m_splits, bias, _bias_type, single, _gelu_in, grad, *more):
    accumulate = more[2]
    outputs = torch.split(D[0], [int(size) for size in m_splits]) if single else D
    for number, (a, b, out) in enumerate(zip(A, B, outputs, strict=True)):
        own = bias[number] if bias is not None and len(bias) > number and bias[number] is not None else None
        own = None if own is None or own.numel() == 0 else own
        if b.numel() == 0:  # an expert without tokens
            if not accumulate:
                out.zero_()
            if grad and own is not None:
                own.zero_()
            continue
        arguments = (a, transa, b, transb, out, None, None, own, None, False, None, grad)
        _, bias_grad, _, _ = generic_gemm(*arguments, None, 0, accumulate)
        if bias_grad is not None:
            own.copy_(bias_grad)
    return bias


def _dtype(dtype):
    return dtype if isinstance(dtype, torch.dtype) else _TORCH[int(dtype)]


def _gamma(weight, zero_centered):
    return weight.float() + 1 if zero_centered else weight.float()


def _into(out, y):
    return y if out is None else out.copy_(y)


FUNCTIONS = (
    get_num_cublas_streams,
    get_cudnn_version,
    rmsnorm_fwd,
    rmsnorm_bwd,
    layernorm_fwd,
    layernorm_bwd,
    generic_gemm,
    te_general_grouped_gemm,
)


class Compiled(types.ModuleType):
    """The module itself. What is here is in its dictionary, because the wheel imports * from it."""

    def __init__(self):
        super().__init__("transformer_engine_torch")
        parts = (DType, NVTE_Fused_Attn_Backend, *FUNCTIONS)
        vars(self).update({part.__name__: part for part in parts})
        self._num_cublas_streams = get_num_cublas_streams()  # 2.4's name of it

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Missing(name)
