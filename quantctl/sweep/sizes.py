"""What the published comparison consists of: two sizes of a model, and the rows that each trains.

Rows are modes, recipes and selectors, as `--mode` takes them. The functions below write the rows that quantize single
products, so that claims.py and the tables here speak of the same words.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from quantctl.modes import SCRIPT_MODES
from quantctl.spec.recipes import RECIPES


def forward_only(format_: str, *options: str) -> str:
    """Linear layers whose fprop alone is quantized."""
    return "linear=" + ",".join((f"{format_}:bwd=high_precision", *options))


def backward_only(format_: str, products: tuple[str, ...] = ("dgrad", "wgrad"), *options: str) -> str:
    """Linear layers whose gradient products alone are quantized, those that are named; options hold in each."""
    said = [f"{product}.{option}" for product in products for option in (f"format={format_}", *options)]
    return "linear=none:" + ",".join(said)


HADAMARD = "hadamard=32"
"""The transform of the public table's backward in MXFP4."""
GRADIENTS = "gradient.round=stochastic"
LAST_IN_BF16 = "; layers -1: none"
LATE_SWITCH = "; from 75%: fprop.format=none"

RULES = ("linear=mxfp8:scale=floor", "linear=mxfp8:scale=even", "linear=mxfp8:scale=ceil")
MXFP4 = (
    "linear=mxfp4:round=stochastic",
    f"linear=mxfp4:{GRADIENTS}",
    f"linear=mxfp4{LAST_IN_BF16}",
    forward_only("mxfp4"),
    forward_only("mxfp4", "hadamard=16"),
    backward_only("mxfp4"),
    backward_only("mxfp4", ("dgrad",)),
    backward_only("mxfp4", ("wgrad",)),
    backward_only("mxfp4", ("wgrad",), "hadamard=16"),
    backward_only("mxfp4", ("dgrad", "wgrad"), HADAMARD),
    backward_only("mxfp4", ("dgrad", "wgrad"), HADAMARD, GRADIENTS),
)
NVFP4 = (
    "linear=nvfp4",
    f"linear=nvfp4:{GRADIENTS}",
    f"linear=nvfp4{LAST_IN_BF16}",
    f"linear=nvfp4{LATE_SWITCH}",
    forward_only("nvfp4"),
    forward_only("nvfp4", "scale=4over6"),
    backward_only("nvfp4", ("dgrad", "wgrad"), GRADIENTS),
)
HIFLOAT8 = ("linear=hifp8:scale=tensor",)
# te-mxfp8 is linear_mxfp8, and experts-mxfp4 wants experts
PUBLISHED_RECIPES = tuple(name for name in RECIPES if name not in ("te-mxfp8", "experts-mxfp4"))


@dataclass(frozen=True)
class Size:
    """One model, and all of its runs."""

    name: str
    what: str
    modes: tuple[str, ...]
    seeds: tuple[int, ...]
    iterations: int
    flags: tuple[str, ...]
    """Megatron's, behind those of the script's smoke config."""
    data: Callable[[], Mapping[str, str]]
    """Builds the corpus where it is missing; the script's settings that choose it."""
    recorded: tuple[str, ...] = ()
    """Of these modes the first seed's run records what the format does to its products."""


def _built(corpus: str) -> Path:
    """The folder of a corpus of quantctl.data, made where it is missing."""
    command = [sys.executable, "-m", f"quantctl.data.{corpus}"]
    return Path(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip())


def _smoke_corpus() -> Mapping[str, str]:
    _built("corpus")
    return {}


def _docstrings() -> Mapping[str, str]:
    folder = _built("docstrings")
    return {"DATA_PATH": str(folder / "docs_text_document"), "TOKENIZER": str(folder / "docs-tokenizer")}


SMALL = Size(
    "small",
    "1.2 million parameters, 491,520 tokens of Python's documentation",
    (*SCRIPT_MODES, *RULES, *MXFP4, *NVFP4, *HIFLOAT8, *PUBLISHED_RECIPES),
    (1, 2, 3, 4, 5),
    480,
    (),
    _smoke_corpus,
    ("FA_linear_mxfp8", "FA_linear_mxfp4", "FA_linear_hifp8"),
)
LARGE = Size(
    "large",
    "4.7 million parameters, 983,040 tokens of the documentation in Python packages",
    (
        "bf16",
        *(f"{sites}_{name}" for name in ("mxfp8", "mxfp4", "hifp8") for sites in ("linear", "FA_linear")),
        forward_only("mxfp4"),
        backward_only("mxfp4", ("dgrad", "wgrad"), HADAMARD),
        "te-nvfp4",
        "mxfp4-sr-rht",
    ),
    (1, 2, 3),
    960,
    ("--hidden-size", "256", "--ffn-hidden-size", "1024", "--num-attention-heads", "8", "--num-query-groups", "2"),
    _docstrings,
)
SIZES = {size.name: size for size in (SMALL, LARGE)}
FOLDER = Path("runs") / "evidence"
"""Of the runs; a size's lie in one of its own beneath it."""
