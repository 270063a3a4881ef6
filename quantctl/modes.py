"""The named combinations of selectors: `bf16`, `FA_x`, `linear_x`, `FA_linear_x`, and `x` alone."""

from __future__ import annotations

from quantctl.errors import QuantctlError
from quantctl.spec import FORMATS, NONE, SITES

SCRIPT_FORMATS = ("mxfp8", "mxfp4", "hifp8")
"""The formats that the generated scripts compare; every other format has modes, too, but no scripts."""

# pattern -> the sites that take format x; FA quantizes QK only, PV has its own selector
_PATTERNS = {
    "FA_{}": ("qk",),
    "linear_{}": ("linear",),
    "FA_linear_{}": ("linear", "qk"),
    "{}": ("linear", "qk", "pv"),
}


def _combination(sites: tuple[str, ...], format_: str) -> dict[str, str]:
    return {site: format_ if site in sites else NONE for site in SITES}


MODES: dict[str, dict[str, str]] = {"bf16": _combination((), NONE)} | {
    pattern.format(name): _combination(sites, name) for pattern, sites in _PATTERNS.items() for name in FORMATS
}
"""Mode name -> value of every selector."""

SCRIPT_MODES: tuple[str, ...] = (
    "bf16",
    *(pattern.format(name) for pattern in _PATTERNS if pattern != "{}" for name in SCRIPT_FORMATS),
)
"""The ten modes that the generated scripts cover."""


def mode_selectors(mode: str) -> dict[str, str]:
    """The value of every selector in `mode`."""
    if mode not in MODES:
        raise QuantctlError(f"unknown mode {mode!r}", f"choose from: {', '.join(MODES)}")
    return dict(MODES[mode])
