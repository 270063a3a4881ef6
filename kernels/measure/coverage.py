"""Which modules of a model computed their products in the selectors' formats: the counts of hits.py, one by one.

A product does not know whose it is, so the modules are asked: at the first quantized product of a process every linear
layer and core attention of Megatron's, local or Transformer Engine's, gets a hook that acts once. In the module's next
forward it looks whether a product of its site was counted meanwhile, and removes itself. So a step costs nothing once
every module has run, recomputation and pipelines are one more forward, and a module that never runs (an expert without
a place in the batch, a branch that is not taken) is never judged. Inside torch.compile nothing is judged either.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

EXTENSION = "megatron.core.extensions.transformer_engine"
"""Where Megatron's Transformer Engine layers are."""
_LINEAR = {
    "megatron.core.tensor_parallel.layers": ("ColumnParallelLinear", "RowParallelLinear"),
    EXTENSION: ("TELinear", "TELayerNormColumnParallelLinear", "TEGroupedLinear"),
}
_ATTENTION = {
    "megatron.core.transformer.dot_product_attention": ("DotProductAttention",),
    EXTENSION: ("TEDotProductAttention",),
}
_WRAPPERS = ("module.", "_orig_mod.")
"""Of DistributedDataParallel, Float16Module and torch.compile, in front of a module's name."""

_products: dict[str, int] = {}
"""Forward products so far, by site."""
_STANDS_IN = "quantctl_stands_in"
_begun = False
_waiting: dict[int, _Once] = {}
_found: dict[str, int] = {}
_ran: dict[str, list[str]] = {}
_bypassed: dict[str, list[str]] = {}


def counted(site: str) -> None:
    """A forward product of `site` was computed in a format."""
    _products[site] = _products.get(site, 0) + 1
    if not _begun:
        begin()


class _Once:
    """The two hooks of one module, until it has run once."""

    def __init__(self, module: Any, name: str, sites: tuple[str, ...]) -> None:
        self.name, self.sites = name, sites
        self.before: dict[str, int] | None = None
        self.handles = (module.register_forward_pre_hook(self.enter), module.register_forward_hook(self.leave))

    def enter(self, *_: Any) -> None:
        if not _is_compiling():
            self.before = dict(_products)

    def leave(self, module: Any, *_: Any) -> None:
        if self.before is None or _is_compiling():  # its forward had begun before the hooks were there
            return
        before = self.before
        self.judge(module, {site for site in self.sites if _products.get(site, 0) > before.get(site, 0)})

    def judge(self, module: Any, quantized: Iterable[str]) -> None:
        for handle in self.handles:
            handle.remove()
        _waiting.pop(id(module), None)
        for site in self.sites:
            _ran.setdefault(site, []).append(self.name)
            if site not in quantized:
                _bypassed.setdefault(site, []).append(self.name)


def _is_compiling() -> bool:
    import torch

    return torch.compiler.is_compiling()


def _classes(places: Mapping[str, tuple[str, ...]]) -> tuple[type, ...]:
    """Those that are loaded; without Transformer Engine its names are bound to no classes."""
    found = (getattr(sys.modules.get(place), name, None) for place, names in places.items() for name in names)
    return tuple(kind for kind in found if isinstance(kind, type))


def stands_in(module: Any) -> None:
    """The module computes in the place of another one, which is looked at itself."""
    vars(module)[_STANDS_IN] = True


def _roots() -> list[Any]:
    """The modules that are part of no other one."""
    import torch

    alive = [found for found in gc.get_objects() if issubclass(type(found), torch.nn.Module)]
    modules = [module for module in alive if "_modules" in vars(module) and _STANDS_IN not in vars(module)]
    parts = {id(part) for module in modules for part in vars(module)["_modules"].values()}
    return [module for module in modules if id(module) not in parts]


def _sites(module: Any, linear: tuple[type, ...], attention: tuple[type, ...]) -> tuple[str, ...]:
    if issubclass(type(module), linear):
        return ("lm_head",) if getattr(module, "is_lm_head", False) else ("linear",)
    return ("qk", "pv") if issubclass(type(module), attention) else ()


def _unwrapped(name: str) -> str:
    while name.startswith(_WRAPPERS):
        name = name.partition(".")[2]
    return name


def places_in(model: Any) -> Iterator[tuple[str, Any, tuple[str, ...]]]:
    """Name, module and sites, of what computes products in a model of Megatron's layers."""
    linear, attention = _classes(_LINEAR), _classes(_ATTENTION)
    for name, module in model.named_modules() if linear or attention else ():
        if sites := _sites(module, linear, attention):
            yield _unwrapped(name), module, sites


def begin() -> None:
    """Watch the modules that there are now. Called by the first product unless somebody has called it before."""
    global _begun
    _begun = True
    for name, module, sites in (place for root in _roots() for place in places_in(root)):
        if id(module) not in _waiting:
            _waiting[id(module)] = _Once(module, name, sites)
            for site in sites:
                _found[site] = _found.get(site, 0) + 1


def give_up() -> None:
    """Products come out of a compiled graph, where no module runs: nothing is to be judged."""
    global _begun
    _begun = True


def together(modules: Iterable[Any]) -> None:
    """These linear layers were computed, quantized, by a product that stands for all of them."""
    if _waiting:
        for module in modules:
            if once := _waiting.get(id(module)):
                once.judge(module, once.sites)


def is_ours(hook: Any) -> bool:
    """Whether it is a hook of this module, which changes nothing that passes."""
    return isinstance(getattr(hook, "__self__", None), _Once)


def report() -> dict[str, dict[str, Any]]:
    """By site: how many modules there were, how many of them ran, and the names of those that ran unquantized."""
    return {
        site: {"modules": number, "ran": len(_ran.get(site, ())), "bypassed": sorted(_bypassed.get(site, ()))}
        for site, number in sorted(_found.items())
    }


def forget() -> None:
    """For a forked child: its modules run for itself, if at all."""
    give_up()
    for known in (_products, _found, _ran, _bypassed):
        known.clear()
