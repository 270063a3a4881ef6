"""A CPU in the place of a CUDA device, for Megatron-LM's own trainer: put this folder on PYTHONPATH.

In the ranks that torchrun starts, what asks for CUDA gets the CPU: devices in any call of torch, streams and events
that have nothing to wait for, NCCL's groups as gloo's. Numbers are those of the CPU; nothing is compiled.
"""

import collections
import contextlib
import functools
import os
import types
import typing


def _is_cuda(torch, value):
    if isinstance(value, torch.device):
        return value.type == "cuda"
    return isinstance(value, str) and value.partition(":")[0] == "cuda"


def _install_device(torch):
    cpu = torch.device("cpu")

    class OnCpu(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            kwargs = dict(kwargs or {})
            if function is torch.Tensor.type and len(args) == 1 and not kwargs:
                return function(*args).replace("torch.", "torch.cuda.")
            # a whole number names a device only where nothing else can stand
            if _is_cuda(torch, kwargs.get("device")) or isinstance(kwargs.get("device"), int):
                kwargs["device"] = cpu
            moved = function is torch.Tensor.to and len(args) > 1 and isinstance(args[1], int)
            args = (args[0], cpu, *args[2:]) if moved else args
            return function(*(cpu if _is_cuda(torch, one) else one for one in args), **kwargs)

    OnCpu().__enter__()
    torch.Tensor.cuda = lambda self, *_, **__: self
    torch.nn.Module.cuda = lambda self, *_, **__: self
    torch.Tensor.pin_memory = lambda self, *_, **__: self
    for name in ("Float", "Double", "Half", "BFloat16", "Int", "Long", "Byte"):
        setattr(torch.cuda, f"{name}Tensor", getattr(torch, f"{name}Tensor"))


class _Done:
    """A stream or an event: all that was asked of it has happened."""

    def __init__(self, *_, **__):
        self.cuda_stream = 0

    def __getattr__(self, name):
        return lambda *_, **__: 0.0


def _returning(value):
    """A function of its own: torch keeps a table of its functions, each of which stands there once."""
    return lambda *_, **__: value


def _install_cuda(torch):
    cuda = torch.cuda
    properties = types.SimpleNamespace(name="a CPU", major=8, minor=0, multi_processor_count=1, total_memory=2**34)
    values = {
        None: ("set_device", "synchronize", "empty_cache", "init", "reset_peak_memory_stats", "ipc_collect"),
        0: ("memory_allocated", "max_memory_allocated", "memory_reserved", "max_memory_reserved"),
    }
    for value, names in values.items():
        for name in names:
            setattr(cuda, name, _returning(value))
    cuda.nvtx.range_push, cuda.nvtx.range_pop = _returning(None), _returning(None)
    cuda.is_available, cuda.is_initialized, cuda.is_bf16_supported = (_returning(True) for _ in range(3))
    cuda.is_current_stream_capturing = _returning(False)
    cuda.device_count = _returning(1)
    cuda.get_device_capability = _returning((8, 0))
    cuda.get_device_name = _returning("a CPU")
    cuda.get_device_properties = _returning(properties)
    cuda.memory_stats = lambda *_: collections.defaultdict(int)
    cuda.mem_get_info = _returning((2**33, 2**34))
    cuda.default_generators = (torch.default_generator,)
    cuda.Event = cuda.Stream = _Done
    cuda.current_stream, cuda.default_stream = (lambda *_: _Done()), (lambda *_: _Done())
    cuda.stream, cuda.device = (lambda *_: contextlib.nullcontext()), (lambda *_: contextlib.nullcontext())
    # torch's own functions of random states and of the current device ask for no more
    torch._C._cuda_getDevice = _returning(0)


def _install_groups(torch):
    """Groups of gloo, which knows no options of NCCL and no devices."""
    distributed = torch.distributed

    def through(function, *dropped, **changed):
        @functools.wraps(function)
        def call(*args, **kwargs):
            kept = {name: value for name, value in kwargs.items() if name not in dropped}
            for name, value in changed.items():
                if isinstance(kept.get(name), str):
                    kept[name] = value
            return function(*args, **kept)

        return call

    distributed.init_process_group = through(distributed.init_process_group, "device_id", "pg_options", backend="gloo")
    distributed.new_group = through(distributed.new_group, "device_id", "pg_options", backend="gloo")
    distributed.barrier = through(distributed.barrier, "device_ids")


def _refuse(*_, **__):
    raise RuntimeError("nothing is compiled for CUDA here")


if "LOCAL_RANK" in os.environ:
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    if not hasattr(typing, "override"):  # Megatron-LM's main is written for Python 3.12
        typing.override = lambda method: method
    import torch
    import torch.distributed
    import torch.overrides
    import torch.utils.cpp_extension

    torch.utils.cpp_extension.load_inline = _refuse
    torch.utils.cpp_extension.CUDA_HOME = os.path.dirname(os.path.abspath(__file__))
    _install_device(torch)
    _install_cuda(torch)
    _install_groups(torch)
