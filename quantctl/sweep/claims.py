"""What others say about formats, and what the published runs say to it.

    python -m quantctl.sweep.claims             claim, theirs, ours, verdict, of docs/evidence
    python -m quantctl.sweep.claims FOLDER      of another folder that holds small.json and large.json

A claim is that one row's gap to bf16 is larger than another's. Ours is the difference of the two rows' final losses,
seed by seed. The rule was written before the runs: where zero lies outside of the mean's 95 % confidence interval
(Student's t over the seeds), the sign decides between `agrees` and `disagrees`; else it is `cannot tell`.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from quantctl.errors import DIFFERS, FINE, QuantctlError, exit_with
from quantctl.report.labels import as_runs_say
from quantctl.sweep.sizes import (
    GRADIENTS,
    HADAMARD,
    LAST_IN_BF16,
    LATE_SWITCH,
    SIZES,
    backward_only,
    forward_only,
)

LEVEL = 0.95
_BOTH = ("dgrad", "wgrad")
QUARTET_2 = "Quartet II, arXiv 2601.22813, its published runs: Llama, 30M parameters, 0.75 B tokens of C4"
NVIDIA = "NVFP4 pretraining, arXiv 2509.25149: 12B parameters, 10 T tokens"
AMD = "MXFP4 training, arXiv 2605.09825"


@dataclass(frozen=True)
class Claim:
    """One row costs more than another."""

    name: str
    says: str
    more: str
    """The row that costs more, by what is claimed."""
    less: str
    source: str
    theirs: tuple[float, float] | None = None
    """Gaps to bf16 in nats that the source measured, of `more` and `less`; None where it gives no such figures."""
    limits: str = ""
    """What runs of this size cannot show of it."""


_SHORT = "a short run shows the noise of early training; the source's effect grows with its length"
_BACKWARD_MXFP4 = backward_only("mxfp4", _BOTH, HADAMARD)
CLAIMS = (
    Claim("forward-mxfp4", "MXFP4 in the forward costs more than in the backward", forward_only("mxfp4"),
          _BACKWARD_MXFP4, QUARTET_2, (0.0582, 0.0069), "the ratio: it depends on outliers, which grow with the model"),
    Claim("forward-nvfp4", "NVFP4 in the forward costs more than in the backward", forward_only("nvfp4"),
          backward_only("nvfp4", _BOTH, GRADIENTS), QUARTET_2, (0.0406, 0.0149),
          "their backward has a Hadamard transform of 128 too"),
    Claim("stochastic-backward", "stochastic rounding of gradients costs more than nearest, in an MXFP4 backward",
          backward_only("mxfp4", _BOTH, HADAMARD, GRADIENTS), _BACKWARD_MXFP4, QUARTET_2, (0.0154, 0.0069),
          "what bias does over 10^5 steps, for which stochastic rounding is meant"),
    Claim("stochastic-nvfp4", "nearest rounding of gradients costs more than stochastic, in NVFP4", "linear=nvfp4",
          f"linear=nvfp4:{GRADIENTS}", NVIDIA, None, _SHORT),
    Claim("hadamard-forward", "a Hadamard transform of 16 helps an MXFP4 forward", forward_only("mxfp4"),
          forward_only("mxfp4", "hadamard=16"), QUARTET_2, (0.0582, 0.0562), "outliers of large models, its reason"),
    Claim("hadamard-wgrad", "a Hadamard transform of 16 helps an MXFP4 wgrad", backward_only("mxfp4", ("wgrad",)),
          backward_only("mxfp4", ("wgrad",), "hadamard=16"), AMD, None, "outliers of large models, its reason"),
    Claim("wgrad-culprit", "wgrad in MXFP4 costs more than fprop", backward_only("mxfp4", ("wgrad",)),
          forward_only("mxfp4"), AMD, None, "instability, which is where the source sees it"),
    Claim("wgrad-dgrad", "wgrad in MXFP4 costs more than dgrad", backward_only("mxfp4", ("wgrad",)),
          backward_only("mxfp4", ("dgrad",)), AMD, None, "instability, which is where the source sees it"),
    Claim("quartet-2", "Transformer Engine's NVFP4 costs more than Quartet II's", "te-nvfp4", "quartet-2", QUARTET_2,
          (0.0548, 0.0479), "differences below the seeds' spread"),
    Claim("last-layers", "NVFP4 costs less with the last layers in bf16", "linear=nvfp4",
          f"linear=nvfp4{LAST_IN_BF16}", NVIDIA, None, "one of four layers is a quarter of the model"),
    Claim("late-switch", "NVFP4 costs less where the forward ends in bf16", "linear=nvfp4",
          f"linear=nvfp4{LATE_SWITCH}", NVIDIA, None, "their switch comes after most of 10 T tokens"),
    Claim("4over6", "block scales to 4 or 6 cost less than to 6, in an NVFP4 forward", forward_only("nvfp4"),
          forward_only("nvfp4", "scale=4over6"), QUARTET_2, (0.0406, 0.0382), "differences below the seeds' spread"),
    Claim("hifp8-scale", "HiFloat8 as it is costs more than with the scales of Ascend's recipe", "linear_hifp8",
          "hif8-ascend", "MindSpeed, te/pytorch/fp8/constants.py", None,
          "how far gradients of a large model lie from one"),
    Claim("scale-floor", "MXFP8 with scales rounded down costs more than with scales rounded up",
          "linear=mxfp8:scale=floor", "linear_mxfp8", "arXiv 2506.08027", None,
          "they see it after billions of tokens"),
    Claim("mxfp8", "MXFP8 costs something", "linear_mxfp8", "bf16", "torchtitan, Qwen3-8B, 200 M tokens",
          (0.0011, 0.0), "a thousandth of a nat, with a few seeds"),
)  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """What the runs of one size say to a claim."""

    claim: Claim
    size: str
    difference: float
    """Mean over the seeds of the loss of `more` minus that of `less`, nats."""
    half: float
    """Half of the confidence interval's width."""
    seeds: int

    @property
    def word(self) -> str:
        if abs(self.difference) <= self.half:
            return "cannot tell"
        return "agrees" if self.difference > 0 else "disagrees"


def student(freedom: int, level: float = LEVEL) -> float:
    """The t beyond which, to both sides, 1 - level of Student's distribution lies: its density, summed by Simpson."""
    factor = math.gamma((freedom + 1) / 2) / math.sqrt(freedom * math.pi) / math.gamma(freedom / 2)

    def inside(end: float, parts: int = 2000) -> float:
        step = end / parts
        density = [factor * (1 + (i * step) ** 2 / freedom) ** (-(freedom + 1) / 2) for i in range(parts + 1)]
        return 2 * step / 3 * (density[0] + density[-1] + 4 * sum(density[1:-1:2]) + 2 * sum(density[2:-1:2]))

    low, high = 0.0, 1000.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if inside(middle) < level else (low, middle)
    return low


def judge(claim: Claim, size: str, losses: Mapping[tuple[str, int], float]) -> Verdict | None:
    """Losses by row, as a report calls it, and seed. None where fewer than two seeds have both rows."""
    more, less = as_runs_say(claim.more), as_runs_say(claim.less)
    seeds = sorted(seed for row, seed in losses if row == more and (less, seed) in losses)
    if len(seeds) < 2:
        return None
    found = [losses[more, seed] - losses[less, seed] for seed in seeds]
    half = student(len(found) - 1) * stdev(found) / math.sqrt(len(found))
    return Verdict(claim, size, fmean(found), half, len(found))


def losses(report: Mapping[str, Any]) -> dict[tuple[str, int], float]:
    """Final loss by row and seed, of a report.json; runs with a mark are left out."""
    return {(run["mode"], run["seed"]): run["final_loss"] for run in report["runs"] if not run["marks"]}


def reports(folder: Path) -> dict[str, dict[str, Any]]:
    """What the folder holds, by size. Raises QuantctlError where there is nothing."""
    paths = {name: folder / f"{name}.json" for name in SIZES}
    found = {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}
    if not found:
        raise QuantctlError(f"{folder} holds none of {', '.join(f'{name}.json' for name in SIZES)}", "make evidence")
    return found


def verdicts(folder: Path) -> list[Verdict]:
    """Of all claims, on each size whose report the folder holds. Raises QuantctlError where there is none."""
    by_size = {name: losses(report) for name, report in reports(folder).items()}
    found = (judge(claim, name, by_size[name]) for claim in CLAIMS for name in by_size)
    return [one for one in found if one is not None]


def theirs(claim: Claim) -> str:
    if claim.theirs is None:
        return "says so"
    more, less = claim.theirs
    return f"{more - less:+.4f}" + (f", {more / less:.1f} times" if less else "")


def row(verdict: Verdict) -> str:
    """One line of the table in docs/evidence.md."""
    ours = f"{verdict.difference:+.4f} ± {verdict.half:.4f}"
    claim = verdict.claim
    cells = (claim.says, claim.source, theirs(claim), verdict.size, ours, verdict.word, claim.limits)
    return f"| {' | '.join(cells)} |"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 1 where the runs disagree with a claim."""
    parser = argparse.ArgumentParser(prog="python -m quantctl.sweep.claims", description="Claims, theirs and ours.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("docs") / "evidence")
    found = verdicts(parser.parse_args(argv).folder)
    for one in found:
        print(f"{one.claim.says} ({one.size}, {one.seeds} seeds)")
        print(f"    theirs  {theirs(one.claim)}  ({one.claim.source})")
        print(f"    ours    {one.difference:+.4f} ± {one.half:.4f}")
        print(f"    {one.word}" + (f"; not seen at this size: {one.claim.limits}" if one.claim.limits else ""))
    for claim in CLAIMS:
        if claim not in [one.claim for one in found]:
            print(f"{claim.says}: no two seeds have both rows")
    return DIFFERS if any(one.word == "disagrees" for one in found) else FINE


if __name__ == "__main__":
    exit_with(main)
