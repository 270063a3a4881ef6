"""Format specs: `format[:key=value[,key=value...]]`, one format for all operands of a site.

    >>> parse("mxfp8:scale=floor", "linear").scale
    'floor'

The tables below are the only place that knows which formats and options exist.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache

from quantctl.errors import QuantctlError, near, quoted, suggestion, unknown
from quantctl.spec.needs import SIZES, fitting

SITES = ("linear", "lm_head", "qk", "pv")
NONE = "none"
SEPARATOR = ";"
"""In front of each rule of a literal."""
LONGEST = 4000
"""Characters of a literal."""
ALIASES = {"bf16": NONE, "hif8": "hifp8", "hif4": "hifp4"}
"""Other names of formats, which forks and papers use."""


def names_of(format_: str) -> tuple[str, ...]:
    """What a format is called, its own name first."""
    return (format_, *(alias for alias, name in ALIASES.items() if name == format_))


ATTENTION_IMPLEMENTATIONS = ("unfused", "fused", "auto")
"""How attention can be computed; the first is Megatron's own flow."""

_ROUND = ("nearest", "stochastic", "away")
_BWD = ("quantized", "dequantized", "high_precision")
_MX_SCALE = ("rceil", "floor", "even", "ceil")

_MX_BLOCK = {"block": ("1x32", "32x32"), "headroom": (NONE, "3/4")}
_HADAMARD = {
    "hadamard": (NONE, *SIZES),
    "signs": (NONE, "fixed", "random"),
    "hadamard_out": ("operand", "fp32"),
}

# format -> option -> allowed values, the default first
FORMATS: dict[str, dict[str, tuple[str, ...]]] = {
    "mxfp8": {"scale": _MX_SCALE, "elem": ("e4m3", "e5m2"), "round": _ROUND, **_MX_BLOCK, **_HADAMARD, "bwd": _BWD},
    "mxfp6": {"scale": _MX_SCALE, "elem": ("e3m2", "e2m3"), "round": _ROUND, **_MX_BLOCK, **_HADAMARD, "bwd": _BWD},
    "mxfp4": {"scale": _MX_SCALE, "round": _ROUND, **_MX_BLOCK, **_HADAMARD, "bwd": _BWD},
    "nvfp4": {
        "scale": ("divide", "multiply", "4over6", "4over6_mse"),
        "round": _ROUND,
        "block": ("1x16", "16x16"),
        "extent": ("tensor", "row"),
        "headroom": (NONE, "16/17"),
        **_HADAMARD,
        "bwd": _BWD,
    },
    "fp8": {
        "scale": ("fp32", "pow2"),
        "elem": ("e4m3", "e5m2"),
        "round": _ROUND,
        "block": ("tensor", "row", "1x128", "128x128"),
        **_HADAMARD,
        "bwd": _BWD,
    },
    "int8": {"round": _ROUND, "block": ("row", "tensor", "32x32"), **_HADAMARD, "bwd": _BWD},
    # HiFloat's own nearest rule breaks ties away from zero, so `away` would name the same thing twice
    "hifp8": {
        "scale": (NONE, "tensor", "fp32"),
        "round": ("nearest", "stochastic"),
        "target": ("15", "224"),
        **_HADAMARD,
        "bwd": _BWD,
    },
    "hifp4": {"round": ("nearest", "stochastic"), **_HADAMARD, "bwd": _BWD},
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
    """Scale rule: mx formats rceil, floor, even, ceil; nvfp4 divide, multiply, 4over6, 4over6_mse; fp8 fp32, pow2;
    hifp8 none, tensor, fp32."""
    elem: str | None = None
    """Element type: mxfp8 and fp8 e4m3, e5m2; mxfp6 e3m2, e2m3."""
    round: str | None = None
    """nearest is the format's own rule (half away from zero for hifp8 and hifp4, RNE for all others)."""
    block: str | None = None
    """Elements that share a scale: 1xN along the reduced axis, NxN, a row (all of the reduced axis), the tensor."""
    extent: str | None = None
    """What has one second scale, beside the blocks': the tensor, or a row."""
    target: str | None = None
    """What the largest magnitude becomes under hifp8's scale=fp32."""
    headroom: str | None = None
    """What values are multiplied by before they are rounded stochastically, so that none is clipped."""
    hadamard: str | None = None
    """Size of the Hadamard transform along the reduced axis before all else."""
    signs: str | None = None
    """What it is randomized by: none, Transformer Engine's fixed signs, or new ones for each product and step."""
    hadamard_out: str | None = None
    """What its result is rounded to before it is quantized: the operand's dtype, or fp32."""
    bwd: str | None = None
    """What the gradient products see: quantized, dequantized or high_precision operands."""

    @property
    def is_none(self) -> bool:
        return self.format == NONE

    @property
    def is_random(self) -> bool:
        """Whether two quantizations of one tensor may differ."""
        return self.round == "stochastic" or self.signs == "random"

    @property
    def transform(self) -> tuple[str, str]:
        """Size and signs of the Hadamard transform, which both operands of a product have to have."""
        return self.hadamard or NONE, self.signs or NONE

    @property
    def text(self) -> str:
        """A literal that says every option."""
        return f"{self.format}:" + ",".join(f"{key}={value}" for key, value in self.options().items())

    def options(self) -> dict[str, str]:
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "format"}
        return {key: value for key, value in values.items() if value is not None}


def defaults_of(format_: str, site: str) -> dict[str, str]:
    """The options that a format has at `site` where nothing else is said."""
    return {key: values[0] for key, values in FORMATS[format_].items()} | SITE_DEFAULTS.get(site, {})


def refuse(text: str, what: str, value: str, choices: Sequence[str]) -> QuantctlError:
    """The error for a spec of which `value` is none of the choices."""
    hint = f"{suggestion(value, choices)}; quantctl list formats"
    return QuantctlError(f"{quoted(text)} is not a format spec: {what}", hint)


def format_named(text: str, name: str) -> str:
    """The format called `name`, which may be an alias or none. Raises QuantctlError that quotes the spec `text`."""
    name = ALIASES.get(name, name)
    if name != NONE and name not in FORMATS:
        raise refuse(text, f"unknown format {quoted(name)}", name, (NONE, *ALIASES, *FORMATS))
    return name


def check(text: str, site: str) -> None:
    """Raises QuantctlError for a site that is none, and for a text that nobody can have meant."""
    if site not in SITES:
        raise unknown("site", site, SITES)
    if len(text) > LONGEST:
        raise QuantctlError(
            f"{quoted(text)}: {len(text):,} characters", f"a literal has at most {LONGEST:,}; name modules by globs"
        )


def split(text: str) -> tuple[str, list[str]]:
    """Name and options of a spec, as they are written."""
    name, colon, rest = text.strip().partition(":")
    return name, [item.strip() for item in rest.split(",")] if colon else []


def spec_of(text: str, name: str, items: Sequence[str], site: str) -> FormatSpec:
    """The spec of a format and its options; errors quote the whole `text`."""
    format_ = format_named(text, name)
    if format_ == NONE:
        if items:
            raise refuse(text, f"{quoted(name)} takes no options", "", (NONE, *ALIASES, *FORMATS))
        return FormatSpec(NONE)
    options = defaults_of(format_, site)
    given: set[str] = set()
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or key not in FORMATS[format_]:
            keys = [f"{k}=..." for k in FORMATS[format_]]
            meant = "".join(f"{k}=..." for k in near(key, FORMATS[format_])[:1])
            raise refuse(text, f"{quoted(item)} is no option of {format_}", meant, keys)
        if value not in FORMATS[format_][key]:
            raise refuse(text, f"{key}={value[:60]}", "", [f"{key}={v}" for v in FORMATS[format_][key]])
        if key in given:
            raise QuantctlError(f"{quoted(text)} is not a format spec: {key} is given twice", f"one {key}=... only")
        given.add(key)
        options[key] = value
    return FormatSpec(format_, **options)


@lru_cache(maxsize=256)
def parse(text: str, site: str = "linear") -> FormatSpec:
    """The spec that `text` means for every operand of `site`, which decides the default of `bwd`.

    Raises QuantctlError that names the wrong part and lists what is allowed, and for a text that says operands or
    products apart (`operands.products` reads those) or holds rules (`literals.literal` does).
    """
    check(text, site)
    if SEPARATOR in text:
        raise QuantctlError(
            f"{quoted(text)} holds rules, and one format is meant here",
            f"give the format that is meant, such as {quoted(text.partition(SEPARATOR)[0].strip())}",
        )
    name, items = split(text)
    for item in items:
        if "." in item.partition("=")[0]:
            raise QuantctlError(
                f"{quoted(text)} speaks of single operands or products ({quoted(item)}), and one format is meant here",
                f"give the format of the operand that is meant, such as {quoted(name)}",
            )
    return fitting(text, spec_of(text, name, items, site))


def written(format_: str, options: Mapping[str, str], scoped: Iterable[str] = ()) -> str:
    """A spec as text."""
    words = [f"{key}={value}" for key, value in options.items()] + [*scoped]
    return format_ + (":" + ",".join(words) if words else "")


def text_of(spec: FormatSpec, site: str) -> str:
    """A spec of one format, the options left out that are its defaults."""
    if spec.is_none:
        return NONE
    usual = defaults_of(spec.format, site)
    return written(spec.format, {key: value for key, value in spec.options().items() if usual[key] != value})


def canonical(text: str, site: str = "linear") -> str:
    """A whole literal in its one form: aliases, defaults and blanks gone, options in the order of the tables.

    Raises QuantctlError that names the part that is wrong.
    """
    if SEPARATOR not in text and "." not in text:
        return text_of(parse(text, site), site)
    from quantctl.spec.literals import literal  # which commands that meet none do not wait for

    return str(literal(text, site))


def choice(name: str, value: str, choices: Sequence[str]) -> str:
    """`value` if it is one of the choices. Raises QuantctlError that lists them."""
    if value not in choices:
        raise QuantctlError(f"{name}: {quoted(value)} is unknown", suggestion(value, choices))
    return value
