"""Format specs and modes."""

from __future__ import annotations

import doctest
from dataclasses import replace

import pytest

from quantctl.errors import QuantctlError
from quantctl.modes import MODES, SCRIPT_FORMATS, SCRIPT_MODES, mode_selectors
from quantctl.spec import (
    FORMATS,
    SITES,
    canonical,
    conditions,
    formats,
    forms,
    literals,
    operands,
    parse,
    resolution,
)

CANONICAL = {
    # text, site -> canonical
    ("none", "linear"): "none",
    ("bf16", "qk"): "none",
    ("mxfp8", "linear"): "mxfp8",
    ("mxfp8:scale=rceil,elem=e4m3", "linear"): "mxfp8",
    ("mxfp8:elem=e5m2,scale=floor", "linear"): "mxfp8:scale=floor,elem=e5m2",
    ("mxfp8:bwd=quantized", "linear"): "mxfp8",
    ("mxfp8:bwd=quantized", "qk"): "mxfp8:bwd=quantized",
    ("mxfp8:bwd=dequantized", "pv"): "mxfp8",
    ("mxfp8:bwd=dequantized", "lm_head"): "mxfp8:bwd=dequantized",
    (" hifp8:scale=tensor ", "linear"): "hifp8:scale=tensor",
    ("mxfp6:elem=e3m2", "linear"): "mxfp6",
    ("mxfp6:elem=e2m3,bwd=dequantized", "qk"): "mxfp6:elem=e2m3",
    ("nvfp4:round=nearest,bwd=quantized", "linear"): "nvfp4",
    ("nvfp4:bwd=high_precision,round=stochastic", "linear"): "nvfp4:round=stochastic,bwd=high_precision",
    ("mxfp4: round=stochastic , scale=even", "linear"): "mxfp4:scale=even,round=stochastic",
}


@pytest.mark.parametrize(("given", "expected"), CANONICAL.items(), ids=str)
def test_canonical(given, expected):
    assert canonical(*given) == expected
    assert parse(*given) == parse(expected, given[1])


REFUSED = {
    "mxpf8": "unknown format 'mxpf8'",
    "": "unknown format ''",
    "MXFP8": "unknown format 'MXFP8'",
    "mxfp8:": "'' is no option of mxfp8",
    "mxfp8:scale": "'scale' is no option of mxfp8",
    "mxfp8:size=32": "'size=32' is no option of mxfp8",
    "mxfp4:elem=e5m2": "'elem=e5m2' is no option of mxfp4",
    "mxfp8:scale=round": "scale=round",
    "mxfp8:scale=floor,scale=ceil": "scale is given twice",
    "hifp8:scale=floor": "scale=floor",
    "hifp8:round=away": "round=away",
    "mxfp6:elem=e4m3": "elem=e4m3",
    "nvfp4:scale=rceil": "scale=rceil",
    "nvfp4:elem=e2m1": "'elem=e2m1' is no option of nvfp4",
    "none:round=away": "'none' takes no options",
}


@pytest.mark.parametrize(("text", "reason"), REFUSED.items())
def test_refused_with_the_choices(text, reason):
    with pytest.raises(QuantctlError) as refusal:
        parse(text)
    assert reason in refusal.value.message
    assert "choose from: " in refusal.value.hint or refusal.value.hint == "one scale=... only"


def test_older_forks_spec():
    assert parse("mxfp8:elem=e5m2,scale=floor,round=away,bwd=high_precision") == replace(
        parse("mxfp8"), scale="floor", elem="e5m2", round="away", bwd="high_precision"
    )


def test_ten_script_modes_and_the_formats_alone():
    assert (
        *("bf16", "FA_mxfp8", "FA_mxfp4", "FA_hifp8", "linear_mxfp8", "linear_mxfp4", "linear_hifp8"),
        *("FA_linear_mxfp8", "FA_linear_mxfp4", "FA_linear_hifp8"),
    ) == SCRIPT_MODES
    assert set(SCRIPT_FORMATS) < set(FORMATS) < set(MODES)
    assert set(SCRIPT_MODES) < set(MODES)
    assert len(MODES) == 1 + 4 * len(FORMATS)
    assert all(set(values) == set(SITES) for values in MODES.values())


MODE_VALUES = {
    "bf16": ("none", "none", "none", "none"),
    "FA_mxfp4": ("none", "none", "mxfp4", "none"),
    "linear_hifp8": ("hifp8", "none", "none", "none"),
    "FA_linear_mxfp8": ("mxfp8", "none", "mxfp8", "none"),
    "mxfp8": ("mxfp8", "none", "mxfp8", "mxfp8"),
    "FA_linear_nvfp4": ("nvfp4", "none", "nvfp4", "none"),
}


@pytest.mark.parametrize(("mode", "values"), MODE_VALUES.items())
def test_mode_sets_every_selector(mode, values):
    assert mode_selectors(mode) == dict(zip(SITES, values, strict=True))


def test_unknown_mode():
    with pytest.raises(QuantctlError, match="unknown mode 'FA'"):
        mode_selectors("FA")


@pytest.mark.parametrize(
    "module", [conditions, formats, forms, literals, operands, resolution], ids=lambda m: m.__name__
)
def test_examples_in_the_docs(module):
    assert doctest.testmod(module).failed == 0
