"""Statistics of a training's products, every so many steps: `quantctl exec --stats every=N`.

    QUANTCTL_STATS=every=100[,sites=linear+qk][,layers=1+16]

While it is set and there is a run directory, each chosen product's operands are measured (statistics.py) in the first
micro batch of every N-th step, and written to RUN_DIR/stats/rank<R>.jsonl and as TensorBoard scalars beside it once the
optimizer has stepped. Unset, ON is false and the products' only cost is looking at it. One rank of each tensor- and
data-parallel group records: it stands for its replicas, and for the other shards.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import threading
import warnings
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from quantctl.disk.files import no_link
from quantctl.kernels.measure import steps
from quantctl.kernels.measure.statistics import Measured, for_json, measure
from quantctl.kernels.measure.wanted import VARIABLE, Wanted, parse_wanted
from quantctl.spec import FormatSpec, ProductSpecs, canonical

ON = bool(os.environ.get(VARIABLE) and os.environ.get("QUANTCTL_RUN_DIR"))
_DEPTH = 16
"""Frames that are looked through for the module that called a product."""


@dataclass(frozen=True)
class Place:
    """Which product of the model this is."""

    site: str
    layer: int | None
    """Megatron's number, from 1; None outside of the layers."""
    module: str
    """Name within its layer, such as self_attention.linear_qkv."""


_Key = tuple[Place, str, str]
_lock = threading.Lock()  # backward products come from threads of autograd's own
_pending: dict[_Key, tuple[Measured, str, int]] = {}
_names: weakref.WeakKeyDictionary[torch.nn.Module, str] = weakref.WeakKeyDictionary()
_writer: Any = None


def _wanted() -> Wanted:
    return parse_wanted(os.environ[VARIABLE])


@lru_cache(maxsize=1)
def _records() -> bool:
    """Whether this rank is the one that records."""
    parallel = sys.modules.get("megatron.core.parallel_state")
    if parallel is None or not parallel.model_parallel_is_initialized():
        return int(os.environ.get("RANK", "0")) == 0
    return parallel.get_data_parallel_rank() == 0 and parallel.get_tensor_model_parallel_rank() == 0


def _modules() -> Iterator[torch.nn.Module]:
    """The modules that called, innermost first."""
    frame = sys._getframe(2)
    for _ in range(_DEPTH):
        if frame is None:
            return
        owner = frame.f_locals.get("self")
        if isinstance(owner, torch.nn.Module):
            yield owner
        frame = frame.f_back  # type: ignore[assignment]


def place(site: str, layer_of_product: torch.nn.Module | None = None) -> Place | None:
    """Where the product of `site` that is being computed stands in the model; None if it is not to be recorded now.

    Found on the stack of the caller, so only a forward can ask; it keeps the answer for its backward. layer_of_product:
    the module that the product belongs to, where that is not the one that called.
    """
    wanted = _wanted()
    if site not in wanted.sites or steps.current() % wanted.every or not _records():
        return None
    innermost, layer, names = layer_of_product, None, []
    for module in _modules():
        innermost = innermost or module
        number = getattr(module, "layer_number", None)
        if type(module).__name__.endswith("TransformerLayer") or (layer is None and isinstance(number, int)):
            layer = number
        names.append(module)
    if wanted.layers is not None and layer not in wanted.layers:
        return None
    if innermost is not None and not innermost.training:  # an evaluation between two steps
        return None
    return Place(site, layer, _name(innermost, names))


def places(site: str, layers: Sequence[torch.nn.Module] | None, count: int) -> tuple[Place | None, ...] | None:
    """`place` of `count` products that are computed together, by their layers, else by their numbers behind the name
    of the module that called. None if nothing is to be recorded now.
    """
    if layers is not None:
        each = tuple(place(site, layer) for layer in layers)
    else:
        whole = place(site)
        each = tuple(whole and replace(whole, module=f"{whole.module}[{number}]") for number in range(count))
    return each if any(each) else None


def observe_groups(
    where: tuple[Place | None, ...],
    product: str,
    specs: ProductSpecs,
    ends: Tensor,
    *operands: tuple[Tensor | Sequence[Tensor], int] | None,
) -> None:
    """`observe` for products that are computed together, each of the rows up to its one of `ends`; waits for them.

    operands: the rows of all, or a tensor of each, and the axis. One without rows has no statistics.
    """
    bounds = [] if _captured() else [0, *ends.tolist()]
    for number, (start, end) in enumerate(pairwise(bounds)):
        if end > start:
            of_it = [one and (_part(one[0], number, start, end), one[1]) for one in operands]
            observe(where[number], product, specs, *of_it)


def _part(whole: Tensor | Sequence[Tensor], number: int, start: int, end: int) -> Tensor:
    return whole[start:end] if isinstance(whole, Tensor) else whole[number]


def _captured() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def _name(module: torch.nn.Module | None, callers: list[torch.nn.Module]) -> str:
    """The module's name within its layer, else within the outermost module that called it."""
    if module is None:
        return ""
    if module not in _names:
        outer = next((m for m in callers if type(m).__name__.endswith("TransformerLayer")), callers[-1])
        for name, inner in outer.named_modules():
            _names.setdefault(inner, name)
    return _names.get(module, type(module).__name__)


def observe(where: Place | None, product: str, specs: ProductSpecs, *operands: tuple[Tensor, int] | None) -> None:
    """Measure a product's two operands (tensor, axis; None for one that is measured elsewhere), each in its own format,
    once a step. where: what `place` said. What is not quantized has no statistics, and nothing is measured while a CUDA
    graph is captured: the values are those of its replays.
    """
    if where is None or _captured():
        return
    slots = ((name, own.spec) for (whose, name), own in specs.items() if whose == product)
    for (name, spec), operand in zip(slots, operands, strict=True):
        key = (where, product, name)
        with _lock:
            if operand is None or spec.is_none or key in _pending:
                continue
        try:
            measured = measure(operand[0], spec, operand[1])
        except torch.cuda.OutOfMemoryError:
            warnings.warn(f"statistics: no memory to measure {where.site} {product} {name}", stacklevel=2)
            return
        with _lock:
            _pending[key] = (measured, _text(spec), steps.current())


@lru_cache(maxsize=64)
def _text(spec: FormatSpec) -> str:
    return canonical(spec.text)


def _stepped(*_: Any) -> None:
    if _pending:
        write()


def write() -> None:
    """Write what was measured: waits for the device."""
    with _lock:
        measured = dict(_pending)
        _pending.clear()
    folder = Path(os.environ["QUANTCTL_RUN_DIR"]) / "stats"
    target = folder / f"rank{int(os.environ.get('RANK', '0'))}.jsonl"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(target, "a", opener=no_link) as file:
            for (where, product, operand), (result, spec, iteration) in measured.items():
                figures = result.read()
                row = {"iteration": iteration, **vars(where), "product": product, "operand": operand, "spec": spec}
                file.write(json.dumps(row | for_json(figures)) + "\n")
                _scalars(folder, where, f"{product} {operand}", iteration, figures)
        if _writer is not None:
            _writer.flush()
    except OSError as error:  # a full disk: a training is worth more than its statistics
        print(f"quantctl: cannot write statistics to {target}: {error.strerror or error}", file=sys.stderr)


def _scalars(folder: Path, where: Place, operand: str, iteration: int, figures: dict[str, Any]) -> None:
    global _writer
    if _writer is None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        _writer = SummaryWriter(log_dir=str(folder))
    layer = "" if where.layer is None else f"layer {where.layer}/"
    for name in ("amax", "underflow", "saturated", "sqnr"):
        _writer.add_scalar(f"{name}/{where.site}/{layer}{where.module} {operand}", figures[name], iteration)


def _write_at_exit() -> None:
    if _pending:
        write()


if ON:
    register_optimizer_step_post_hook(_stepped)
    atexit.register(_write_at_exit)
