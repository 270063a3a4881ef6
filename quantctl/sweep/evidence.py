"""The published comparison: every mode and some variants, three seeds, on a CPU, by one command.

    python -m quantctl.sweep.evidence             run what is missing, compare with the published figures
    python -m quantctl.sweep.evidence --publish   the same, and make the result the published one (docs/evidence)

The runs lie in runs/evidence and are resumed there. A figure is reproduced if it lies within two standard deviations of
the published one, or is the same number: on the same versions and kind of processor it is.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

from rich.console import Console

from quantctl.errors import DIFFERS, FINE, QuantctlError, exit_with
from quantctl.modes import SCRIPT_MODES
from quantctl.report import heat
from quantctl.report.charts import Interval, forest
from quantctl.report.compare import Spread
from quantctl.report.pictures import as_png
from quantctl.report.write import write
from quantctl.sweep.plan import Task, tasks
from quantctl.sweep.runner import Slot, State, run
from quantctl.sweep.show import watching

MODEL, DATASET = "llama32-1b", "wikipedia"
SEEDS = (1, 2, 3, 4, 5)
ITERATIONS = 480
VARIANTS = (
    "linear=mxfp8:scale=floor",
    "linear=mxfp8:scale=even",
    "linear=mxfp8:scale=ceil",
    "linear=mxfp4:round=stochastic",
    "linear=hifp8:scale=tensor",
)
RECORDED = ("FA_linear_mxfp8", "FA_linear_mxfp4", "FA_linear_hifp8")
"""Of these modes the first seed's run records what the format does to its products."""
STATISTICS = "every=40"
DRAWN = ("linear fprop input", "linear dgrad gradient", "linear wgrad gradient")
"""The operands whose SQNR is drawn."""
FOLDER = Path("runs") / "evidence"
PUBLISHED = Path("docs") / "evidence"
GAP, SQNR = "gap.png", "sqnr.png"
SHOWN = ("bf16", "FA_mxfp8", "linear_mxfp8", "linear_mxfp4", "linear=hifp8:scale=tensor")
"""The modes of the first page."""
DOCUMENTS: dict[Path, tuple[str, ...]] = {
    Path("README.md"): SHOWN,
    Path("README.zh.md"): SHOWN,
    Path("docs") / "evidence.md": (),
}
"""They show the published figures, of these modes or of all: each has a table with a row that begins with `bf16`."""


def _machine() -> dict[str, str | int]:
    """What the figures were measured on."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return {"processor": model, "cores": os.cpu_count() or 1, "date": date.today().isoformat()}


def _rows(report: dict[str, Any]) -> list[str]:
    """What each mode costs."""
    return [
        f"| `{mode['mode']}` | {_number(mode['final_loss'])} | {_gap(mode)} | {mode['time_ratio']:.2f}x "
        f"| {mode['peak_memory_bytes'] / 1e6:.0f} MB |"
        for mode in report["modes"]
    ]


def _number(value: dict[str, float], form: str = ".4f") -> str:
    return f"{value['mean']:{form}} ± {value['sd']:.4f}"


def _gap(mode: dict[str, Any]) -> str:
    return "reference" if mode["mode"] == "bf16" else _number(mode["gap"], "+.4f")


def _operands(report: dict[str, Any]) -> list[str]:
    """What the recorded formats do to each operand."""
    statistics = {mode["mode"]: mode["statistics"] for mode in report["modes"]}
    recorded = [statistics[mode] for mode in RECORDED]
    return [
        "| "
        + " | ".join(
            [operand, *(f"{one[operand]['sqnr']:.1f} dB, {one[operand]['underflow']:.2%}" for one in recorded)]
        )
        + " |"
        for operand in recorded[0]
    ]


_TABLES: dict[str, Callable[[dict[str, Any]], list[str]]] = {"| `bf16` |": _rows, "| linear dgrad ": _operands}
"""How a table's first row begins -> what makes its rows."""


def updated(document: str, report: dict[str, Any], shown: Collection[str] = ()) -> str:
    """The document with the rows of its tables replaced, those of the modes `shown` or of all.

    Raises QuantctlError if it has no such table.
    """
    if shown:
        report = report | {"modes": [mode for mode in report["modes"] if mode["mode"] in shown]}
    lines = document.splitlines(keepends=True)
    found = [
        (number, beginning) for number, line in enumerate(lines) for beginning in _TABLES if line.startswith(beginning)
    ]
    if not found:
        raise QuantctlError("the document has no table of the published figures", "add a row | `bf16` | ... |")
    first = {beginning: number for number, beginning in reversed(found)}
    for beginning, start in sorted(first.items(), key=lambda item: -item[1]):
        end = start
        while end < len(lines) and lines[end].startswith("|"):
            end += 1
        lines[start:end] = [f"{row}\n" for row in _TABLES[beginning](report)]
    return "".join(lines)


def _is_recorded(task: Task) -> bool:
    return task.mode in RECORDED and task.seed == SEEDS[0]


def draw_gaps(folder: Path) -> None:
    """The picture of the gaps that the folder's report.json holds."""
    report = json.loads((folder / "report.json").read_text())
    losses = {(run["mode"], run["seed"]): run["final_loss"] for run in report["runs"] if not run["marks"]}
    found = [
        Interval(
            mode["mode"],
            Spread(mode["gap"]["mean"], mode["gap"]["sd"]),
            [losses[mode["mode"], seed] - losses[report["reference"], seed] for seed in mode["seeds"]],
        )
        for mode in report["modes"]
        if mode["mode"] != report["reference"]
    ]
    as_png(forest(found, report["reference"]), folder / GAP)


def _draw_statistics(runs: Sequence[Path]) -> None:
    """The recorded formats side by side."""
    every = [row for run in runs for row in heat.read(run)]
    heat.png([row for row in every if heat.operand(row) in DRAWN], heat.QUANTITIES[0], PUBLISHED / SQNR)


def compare(new: dict[str, Any], published: dict[str, Any]) -> list[str]:
    """What was not reproduced: a line a mode whose gap lies outside of two standard deviations of the published one."""
    before = {row["mode"]: row["gap"] for row in published["modes"]}
    found = []
    for row in new["modes"]:
        if row["mode"] not in before:
            found.append(f"{row['mode']}: not among the published modes")
            continue
        mine, theirs = row["gap"], before.pop(row["mode"])
        spread = math.hypot(mine["sd"] or 0.0, theirs["sd"] or 0.0)
        if abs(mine["mean"] - theirs["mean"]) > 2 * spread:
            found.append(
                f"{row['mode']}: gap {mine['mean']:+.4f}, published {theirs['mean']:+.4f} ± {theirs['sd']:.4f}"
            )
    return found + [f"{mode}: published, and not among these runs" for mode in before]


def main(argv: list[str] | None = None) -> int:
    """Exit status 1 when a run failed or a figure was not reproduced."""
    parser = argparse.ArgumentParser(prog="python -m quantctl.sweep.evidence", description="The published comparison.")
    parser.add_argument("--publish", action="store_true", help=f"write the result to {PUBLISHED}")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    options = parser.parse_args(argv)
    os.environ.pop("MEGATRON_LM_PATH", None)
    subprocess.run([sys.executable, "-m", "quantctl.data.corpus"], check=True, stdout=subprocess.DEVNULL)
    settings = {"TRAINING_CONFIG": "smoke", "TRAIN_ITERS": str(ITERATIONS), "PYTHON": sys.executable}
    planned = [
        replace(task, settings=settings | {"STATS": STATISTICS}) if _is_recorded(task) else task
        for task in tasks([MODEL], DATASET, (*SCRIPT_MODES, *VARIANTS), SEEDS, FOLDER, settings)
    ]
    with watching(Console(stderr=True)) as watch:
        jobs = run(planned, [Slot()] * options.jobs, watch)
    write([FOLDER / MODEL], FOLDER / "report", f"{MODEL}, smoke config: what the formats cost")
    if failed := [job.task.name for job in jobs if job.state is State.FAILED]:
        raise QuantctlError(f"{len(failed)} runs failed: {', '.join(failed)}", "the same command runs them again")
    report = FOLDER / "report" / "report.json"
    if options.publish:
        PUBLISHED.mkdir(parents=True, exist_ok=True)
        shutil.copy(report, PUBLISHED / report.name)
        draw_gaps(PUBLISHED)
        _draw_statistics([task.run_dir for task in planned if _is_recorded(task)])
        (PUBLISHED / "machine.json").write_text(json.dumps(_machine(), indent=2) + "\n")
        for document, shown in DOCUMENTS.items():
            document.write_text(updated(document.read_text(), json.loads(report.read_text()), shown))
        print(f"published in {PUBLISHED}")
        return FINE
    differing = compare(json.loads(report.read_text()), json.loads((PUBLISHED / "report.json").read_text()))
    print("\n".join(differing) or "every published gap was reproduced")
    return DIFFERS if differing else FINE


if __name__ == "__main__":
    exit_with(main)
