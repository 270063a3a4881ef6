"""Transformer Engine's own Python half on a CPU, with compiled.py in the place of what is compiled.

    import bed; bed.install()      # before anything imports transformer_engine

The modules, constructors, parameter names, norms and autograd functions are the real ones of the wheel on the path.
Whatever asks for the CUDA device gets the CPU, and where Transformer Engine asks, there is CUDA.
"""

import contextlib
import os
import sys
import types
import warnings
from importlib.machinery import ModuleSpec
from pathlib import Path
from unittest.mock import MagicMock

import torch
from te_cpu.compiled import Compiled

CPU = torch.device("cpu")
_IS_CUDA = torch.Tensor.is_cuda.__get__
_LIBRARY = "/transformer_engine/"


def _asked_by_library(depth):
    """Whether the caller's file is the wheel's; Megatron has one of that name, which is a file and no folder."""
    return _LIBRARY in Path(sys._getframe(depth + 1).f_code.co_filename).as_posix()


def _on_cpu(device):
    is_cuda = type(device) is int or (isinstance(device, (str, torch.device)) and torch.device(device).type == "cuda")
    return CPU if is_cuda else device


class OnCpu(torch.overrides.TorchFunctionMode):
    """device='cuda' is the CPU; is_cuda is true where Transformer Engine asks."""

    def __torch_function__(self, function, _types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function == _IS_CUDA:
            return _asked_by_library(1) or function(*args)
        if function is torch.Tensor.cuda:
            return args[0]
        if function is torch.device and args and type(args[0]) is int:
            return CPU
        if "device" in kwargs:
            kwargs = {**kwargs, "device": _on_cpu(kwargs["device"])}
        if function is torch.Tensor.to:
            args = tuple(map(_on_cpu, args))
        return function(*args, **kwargs)


def _nothing(*_, **__):
    return None


class _Idle:
    """A stream or an event."""

    def __init__(self, *_, **__):
        pass


def _device_of_one_gpu():
    cuda = torch.cuda
    available = cuda.is_available
    cuda.is_available = lambda: _asked_by_library(1) or available()
    cuda.current_device = lambda: 0
    cuda.device = lambda _: contextlib.nullcontext()
    cuda.get_device_capability = lambda *_: (8, 0)
    cuda.get_device_properties = lambda *_: types.SimpleNamespace(
        name="cpu", major=8, minor=0, total_memory=1 << 34, multi_processor_count=2
    )
    # recomputation puts the device's generator back to where it was; nothing draws from it here
    cuda.random.get_rng_state = cuda.get_rng_state = lambda *_, **__: torch.get_rng_state()
    cuda.is_current_stream_capturing = lambda: False
    cuda.Stream = cuda.Event = _Idle
    cuda.synchronize = cuda.nvtx.range_push = cuda.nvtx.range_pop = _nothing


def _modes_in_backward():
    """autograd's engine calls backward functions outside of every mode."""
    function = torch.autograd.function.BackwardCFunction
    apply = function.apply

    def with_mode(self, *grads):
        with OnCpu():
            return apply(self, *grads)

    function.apply = with_mode


def install():
    sys.modules["transformer_engine_torch"] = Compiled()
    # the export to ONNX, whose packages take longer to import than all the rest
    for name in ("onnx", "onnxscript"):
        sys.modules[name] = MagicMock(__spec__=ModuleSpec(name, None))
    # no library to load, and no fused softmax, which is compiled too
    os.environ |= {"NVTE_PROJECT_BUILDING": "1", "NVTE_MASKED_SOFTMAX_FUSION": "0"}
    _device_of_one_gpu()
    _modes_in_backward()
    OnCpu().__enter__()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is no shared object
        import transformer_engine.common
    transformer_engine.common.load_framework_extension = _nothing
    import transformer_engine.pytorch
