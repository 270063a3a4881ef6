"""The published comparison by one command: every row of sizes.py on a CPU.

    python -m quantctl.sweep.evidence                 run what is missing, compare with the published figures
    python -m quantctl.sweep.evidence --sample 3      the same of three rows only, those of the first page
    python -m quantctl.sweep.evidence --size small    of one size
    python -m quantctl.sweep.evidence --publish       make the result the published one (docs/evidence)

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
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

from rich.console import Console

from quantctl.errors import DIFFERS, FINE, QuantctlError, exit_with
from quantctl.report.write import write
from quantctl.sweep import publish
from quantctl.sweep.plan import Task, tasks
from quantctl.sweep.publish import PUBLISHED
from quantctl.sweep.runner import Slot, State, run
from quantctl.sweep.show import watching
from quantctl.sweep.sizes import FOLDER, SIZES, SMALL, Size

MODEL, DATASET = "llama32-1b", "wikipedia"
STATISTICS = "every=40"


def machine() -> dict[str, str | int]:
    """What the figures were measured on."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return {"processor": model, "cores": os.cpu_count() or 1, "date": date.today().isoformat()}


def _is_recorded(task: Task, size: Size) -> bool:
    return task.mode in size.recorded and task.seed == size.seeds[0]


def planned(size: Size, modes: Sequence[str] | None = None) -> list[Task]:
    """All runs of a size, or those of some of its rows; its corpus is built where it is missing."""
    settings = {
        "TRAINING_CONFIG": "smoke",
        "TRAIN_ITERS": str(size.iterations),
        "PYTHON": sys.executable,
        **size.data(),
    }
    every = tasks([MODEL], DATASET, modes or size.modes, size.seeds, FOLDER / size.name, settings, size.flags)
    return [
        replace(task, settings=settings | {"STATS": STATISTICS}) if _is_recorded(task, size) else task for task in every
    ]


def compare(new: dict[str, Any], published: dict[str, Any]) -> list[str]:
    """What was not reproduced: a line a mode whose gap lies outside of two standard deviations of the published one."""
    before = {row["mode"]: row["gap"] for row in published["modes"]}
    found = []
    for row in new["modes"]:
        if row["mode"] not in before:
            found.append(f"{row['mode']}: not among the published modes")
            continue
        mine, theirs = row["gap"], before[row["mode"]]
        spread = math.hypot(mine["sd"] or 0.0, theirs["sd"] or 0.0)
        if abs(mine["mean"] - theirs["mean"]) > 2 * spread:
            found.append(
                f"{row['mode']}: gap {mine['mean']:+.4f}, published {theirs['mean']:+.4f} ± {theirs['sd']:.4f}"
            )
    return found


def missing(new: dict[str, Any], published: dict[str, Any]) -> list[str]:
    """Rows that are published and were not run."""
    have = {row["mode"] for row in new["modes"]}
    return [
        f"{row['mode']}: published, and not among these runs" for row in published["modes"] if row["mode"] not in have
    ]


def _train(todo: Sequence[Task], jobs: int) -> None:
    with watching(Console(stderr=True)) as watch:
        found = run(todo, [Slot()] * jobs, watch)
    if failed := [job.task.name for job in found if job.state is State.FAILED]:
        raise QuantctlError(f"{len(failed)} runs failed: {', '.join(failed)}", "the same command runs them again")


def _report(size: Size, todo: Sequence[Task]) -> Path:
    folder = FOLDER / f"{size.name}-report"
    runs = [Path(os.path.relpath(task.run_dir)) for task in todo]  # what is published names no folder of a machine
    write(runs, folder, f"{MODEL}, {size.what}: what the formats cost")
    return folder / "report.json"


def _publish(size: Size, report: Path, todo: Sequence[Task]) -> None:
    PUBLISHED.mkdir(parents=True, exist_ok=True)
    shutil.copy(report, PUBLISHED / f"{size.name}.json")
    publish.draw_gaps(PUBLISHED, size.name)
    if size is SMALL:
        publish.draw_statistics([task.run_dir for task in todo if _is_recorded(task, size)])
    (PUBLISHED / "machine.json").write_text(json.dumps(machine(), indent=2) + "\n")


def main(argv: list[str] | None = None) -> int:
    """Exit status 1 when a figure was not reproduced, 2 when a run failed."""
    parser = argparse.ArgumentParser(prog="python -m quantctl.sweep.evidence", description="The published comparison.")
    parser.add_argument("--publish", action="store_true", help=f"write the result to {PUBLISHED}")
    parser.add_argument("--size", choices=SIZES, action="append", help="one size only")
    parser.add_argument("--sample", type=int, metavar="ROWS", help="so many rows of the first page only")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="runs at a time")
    options = parser.parse_args(argv)
    os.environ.pop("MEGATRON_LM_PATH", None)
    sample = publish.SHOWN[: options.sample] if options.sample else None
    sizes = [SMALL] if sample else [SIZES[name] for name in options.size or SIZES]
    differing: list[str] = []
    compared = False
    for size in sizes:
        todo = planned(size, sample)
        _train(todo, options.jobs)
        report = _report(size, todo)
        if options.publish:
            _publish(size, report, todo)
            continue
        before = PUBLISHED / f"{size.name}.json"
        if not before.exists():
            print(f"{before} does not exist: nothing to compare {report} with; --publish makes it")
            continue
        new, published = (json.loads(path.read_text()) for path in (report, before))
        compared = True
        differing += compare(new, published) + ([] if sample else missing(new, published))
    if options.publish:
        found = publish.tables()
        for document in publish.DOCUMENTS:
            document.write_text(publish.updated(document.read_text(), found))
        print(f"published in {PUBLISHED}")
        return FINE
    if compared:
        print("\n".join(differing) or "every published gap was reproduced")
    return DIFFERS if differing else FINE


if __name__ == "__main__":
    exit_with(main)
