"""`quantctl.convert`: the linear layers of any torch model in a format, in place, and what became of each."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

from quantctl.api.layers import specs_of
from quantctl.api.tensors import literal_of, text_of
from quantctl.errors import QuantctlError
from quantctl.kernels.measure import hits
from quantctl.kernels.products.linear import quantized_linear
from quantctl.output import columns, shortened
from quantctl.spec import NONE, literal

_HEADS = ("lm_head", "output_layer", "embed_out")
"""What output layers are called where a model does not tell which layer is its own."""
_ROUTERS = ("router", "gate")
"""What the layers are called that choose experts: they stay as they are, as in Megatron."""


_NOT_CHOSEN = "not chosen"


class QuantizedLinear(nn.Linear):
    """A torch.nn.Linear whose three products are computed in a format. Same parameters, state dict and hooks."""

    spec: str
    """Canonical."""
    site: str
    """linear or lm_head."""

    def forward(self, input: Tensor) -> Tensor:
        return quantized_linear(input, self.weight, self.bias, self.spec, self.site)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.site}={self.spec}"


@dataclass(frozen=True)
class Layer:
    """One linear layer of a converted model."""

    name: str
    site: str
    """linear or lm_head."""
    spec: str
    """What it computes in now, canonical."""
    weights: int
    """Elements of its weight."""
    reason: str = ""
    """Why it stayed as it was."""


@dataclass(frozen=True)
class Conversion:
    """What `convert` did."""

    layers: tuple[Layer, ...]
    """Every linear layer, in the model's order."""
    _before: hits.Calls = field(repr=False, compare=False, default_factory=dict)

    @property
    def converted(self) -> list[str]:
        """The names of the layers that compute in a format."""
        return [layer.name for layer in self.layers if layer.spec != NONE]

    def calls(self) -> hits.Calls:
        """Quantized products of this process since the conversion: {site: {spec: {fprop, dgrad, wgrad: count}}}."""
        found: hits.Calls = {}
        for site, specs in hits.snapshot().items():
            for spec, products in specs.items():
                before = self._before.get(site, {}).get(spec, {})
                since = {product: count - before.get(product, 0) for product, count in products.items()}
                if any(since.values()):
                    found.setdefault(site, {})[spec] = since
        return found

    def __str__(self) -> str:
        counted: dict[tuple[str, str, str], list[int]] = {}
        for layer in self.layers:
            counted.setdefault((layer.site, layer.spec, layer.reason), []).append(layer.weights)
        rows = [["site", "format", "layers", "weights", ""]]
        rows += [
            [site, spec, str(len(sizes)), f"{sum(sizes):,}", reason] for (site, spec, reason), sizes in counted.items()
        ]
        return columns(rows)


def _is_head(model: nn.Module, name: str, layer: nn.Linear) -> bool:
    """Whether a layer is the model's output layer: the model says so, it is tied to an embedding, or its name does."""
    told = getattr(model, "get_output_embeddings", None)
    head = told() if callable(told) else None
    if head is not None:
        return head is layer
    tied = any(isinstance(other, nn.Embedding) and other.weight is layer.weight for other in model.modules())
    return tied or name.rpartition(".")[2] in _HEADS


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _patterns(given: str | Iterable[str], names: Iterable[str], what: str) -> tuple[str, ...]:
    patterns = (given,) if isinstance(given, str) else tuple(given) if isinstance(given, Iterable) else (given,)
    names = list(names)
    if wrong := [pattern for pattern in patterns if not isinstance(pattern, str)]:
        message = f"{what}: {shortened(repr(wrong[0]))} is no name of a layer"
        raise QuantctlError(message, "give names as texts, such as 'model.layers.*'")
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
            raise QuantctlError(f"{what}={pattern!r} is the name of no linear layer", f"there are: {shown}")
    return patterns


def _why_not(name: str, module: nn.Linear, only: Collection[str], skip: Collection[str]) -> str:
    """Why a layer stays as it is; empty for one that follows the formats."""
    if type(module) not in (nn.Linear, QuantizedLinear):
        return f"is a {type(module).__name__}"
    if _matches(name, skip) or (only and not _matches(name, only)):
        return _NOT_CHOSEN
    return "chooses experts" if not only and name.rpartition(".")[2] in _ROUTERS else ""


def convert(
    model: nn.Module,
    linear: str = NONE,
    *,
    lm_head: str = NONE,
    only: str | Iterable[str] = (),
    skip: str | Iterable[str] = (),
) -> Conversion:
    """Let the linear layers of a model compute in a format, in place: the same parameters, other products.

    model: any torch.nn.Module; its torch.nn.Linear layers count, those of other classes stay as they are and are named.
    linear, lm_head: the formats of the layers, and of the output layer, which is apart as in Megatron: whole literals,
    or for linear a recipe's name; their rules speak of the model's own names and of the layers of its one
    nn.ModuleList, but not of phases. only, skip: names of layers as the model has them (named_modules), with * and ?;
    without `only` the layers that choose experts (called router or gate) stay as they are. "none" turns layers back.

    Returns what became of each layer, and counts what they compute. Raises QuantctlError, with nothing changed, for an
    unknown format, a name that no layer has, a rule that fits none, and a model without linear layers.
    """
    if not isinstance(model, nn.Module):
        raise QuantctlError(
            f"the model is of type {type(model).__name__}, not a torch.nn.Module", "give the module itself"
        )
    said = {"linear": literal(literal_of(linear), "linear"), "lm_head": literal(text_of(lm_head), "lm_head")}
    found = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    if not found:
        raise QuantctlError(f"{type(model).__name__} has no torch.nn.Linear layer", "nothing was converted")
    if lazy := [name for name, layer in found.items() if isinstance(layer, LazyModuleMixin)]:
        raise QuantctlError(f"{lazy[0] or 'the model'} has no weights yet: it is lazy", "run the model once before")
    only, skip = _patterns(only, found, "only"), _patterns(skip, found, "skip")
    sites = {name: "lm_head" if _is_head(model, name, module) else "linear" for name, module in found.items()}
    reasons = {name: _why_not(name, module, only, skip) for name, module in found.items()}
    specs: dict[str, str] = {}
    for site, wanted in said.items():
        specs |= specs_of(wanted, model, [name for name in found if sites[name] == site and not reasons[name]])
    layers = []
    for name, module in found.items():
        stays = module.spec if reasons[name] == _NOT_CHOSEN and isinstance(module, QuantizedLinear) else NONE
        layers.append(Layer(name, sites[name], specs.get(name, stays), module.weight.numel(), reasons[name]))
    for one in layers:
        layer: Any = found[one.name]
        ours = isinstance(layer, QuantizedLinear)
        if one.spec != NONE:
            layer.__class__ = QuantizedLinear
            layer.spec, layer.site = one.spec, one.site
        elif ours:
            layer.__class__ = nn.Linear
            del layer.spec, layer.site
    return Conversion(tuple(layers), hits.snapshot())
