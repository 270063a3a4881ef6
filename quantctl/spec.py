"""Format specs: `format[:key=value[,key=value...]]`, the whole numerics of a matrix product in one literal.

    >>> parse("mxfp8:scale=floor", "linear")
    FormatSpec(format='mxfp8', scale='floor', elem='e4m3', round='nearest', bwd='quantized')

The tables below are the only place that knows which formats and options exist. This module imports
nothing but the standard library: commands, generated scripts and training ranks all share it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache

from quantctl.errors import QuantctlError, near, quoted, suggestion, unknown

SITES = ("linear", "lm_head", "qk", "pv")
NONE = "none"
ALIASES = {"bf16": NONE, "hif8": "hifp8"}
"""Other names of formats, which forks and papers use."""


def names_of(format_: str) -> tuple[str, ...]:
    """What a format is called, its own name first."""
    return (format_, *(alias for alias, name in ALIASES.items() if name == format_))


ATTENTION_IMPLEMENTATIONS = ("unfused", "fused", "auto")
"""How attention can be computed; the first is Megatron's own flow."""

_ROUND = ("nearest", "stochastic", "away")
_BWD = ("quantized", "dequantized", "high_precision")
_MX_SCALE = ("rceil", "floor", "even", "ceil")

# format -> option -> allowed values, the default first
FORMATS: dict[str, dict[str, tuple[str, ...]]] = {
    "mxfp8": {"scale": _MX_SCALE, "elem": ("e4m3", "e5m2"), "round": _ROUND, "bwd": _BWD},
    "mxfp6": {"scale": _MX_SCALE, "elem": ("e3m2", "e2m3"), "round": _ROUND, "bwd": _BWD},
    "mxfp4": {"scale": _MX_SCALE, "round": _ROUND, "bwd": _BWD},
    "nvfp4": {"round": _ROUND, "bwd": _BWD},
    # HiFloat8's own nearest rule breaks ties away from zero, so `away` would name the same thing twice
    "hifp8": {"scale": ("none", "tensor"), "round": ("nearest", "stochastic"), "bwd": _BWD},
}

# the attention products keep gradients unquantized unless asked (straight-through)
SITE_DEFAULTS: dict[str, dict[str, str]] = {
    "qk": {"bwd": "dequantized"},
    "pv": {"bwd": "dequantized"},
}


@dataclass(frozen=True)
class FormatSpec:
    """A parsed spec. Options that a format does not have are None; `none` has no options at all."""

    format: str
    scale: str | None = None
    """Scale rule: mx formats rceil, floor, even, ceil; hifp8 none, tensor."""
    elem: str | None = None
    """Element type: mxfp8 e4m3, e5m2; mxfp6 e3m2, e2m3."""
    round: str | None = None
    """nearest is the format's own rule (half away from zero for hifp8, RNE for all others)."""
    bwd: str | None = None
    """What the gradient products see: quantized, dequantized or high_precision operands."""

    @property
    def is_none(self) -> bool:
        return self.format == NONE

    def options(self) -> dict[str, str]:
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "format"}
        return {key: value for key, value in values.items() if value is not None}


def _defaults(format_: str, site: str) -> dict[str, str]:
    return {key: values[0] for key, values in FORMATS[format_].items()} | SITE_DEFAULTS.get(site, {})


def _refuse(text: str, what: str, value: str, choices: Sequence[str]) -> QuantctlError:
    hint = f"{suggestion(value, choices)}; quantctl list formats"
    return QuantctlError(f"{quoted(text)} is not a format spec: {what}", hint)


@lru_cache(maxsize=256)
def parse(text: str, site: str = "linear") -> FormatSpec:
    """The spec that `text` means at `site` (the site decides the default of `bwd`).

    Raises QuantctlError that names the wrong part and lists what is allowed.
    """
    if site not in SITES:
        raise unknown("site", site, SITES)
    name, colon, rest = text.strip().partition(":")
    name = ALIASES.get(name, name)
    if name == NONE and not colon:
        return FormatSpec(NONE)
    if name not in FORMATS:
        known = (NONE, *ALIASES, *FORMATS)
        if name == NONE:
            raise _refuse(text, f"{text.partition(':')[0]!r} takes no options", "", known)
        raise _refuse(text, f"unknown format {quoted(name)}", name, known)
    options = _defaults(name, site)
    given: set[str] = set()
    for item in rest.split(",") if colon else ():
        key, equals, value = item.strip().partition("=")
        if not equals or key not in FORMATS[name]:
            keys = [f"{k}=..." for k in FORMATS[name]]
            meant = "".join(f"{k}=..." for k in near(key, FORMATS[name])[:1])
            raise _refuse(text, f"{quoted(item.strip())} is no option of {name}", meant, keys)
        if value not in FORMATS[name][key]:
            raise _refuse(text, f"{key}={value[:60]}", "", [f"{key}={v}" for v in FORMATS[name][key]])
        if key in given:
            raise QuantctlError(f"{quoted(text)} is not a format spec: {key} is given twice", f"one {key}=... only")
        given.add(key)
        options[key] = value
    return FormatSpec(name, **options)


def canonical(text: str, site: str = "linear") -> str:
    """The shortest literal with the same meaning at `site`: defaults left out, options in table order."""
    spec = parse(text, site)
    if spec.is_none:
        return NONE
    defaults = _defaults(spec.format, site)
    changed = [f"{key}={value}" for key, value in spec.options().items() if defaults[key] != value]
    return spec.format + (":" + ",".join(changed) if changed else "")


def choice(name: str, value: str, choices: Sequence[str]) -> str:
    """`value` if it is one of the choices. Raises QuantctlError that lists them."""
    if value not in choices:
        raise QuantctlError(f"{name}: {quoted(value)} is unknown", suggestion(value, choices))
    return value
