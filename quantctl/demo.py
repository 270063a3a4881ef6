"""The main job in a few minutes on a CPU: three generated scripts train the same model on the same text in three modes.

    python -m quantctl.demo

Runs the bf16, linear_mxfp8 and FA_linear_mxfp4 scripts of llama32-1b in their smoke config at one seed, two at a time.
Prints final losses, the gap to bf16 and the products that ran; leaves run directories and a picture of the curves.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import fmean, median

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from quantctl.runlog import Point, read_log

MODEL, DATASET = "llama32-1b", "wikipedia"
MODES = ("bf16", "linear_mxfp8", "FA_linear_mxfp4")
SIDE_BY_SIDE = 2
TAIL = 0.25
"""Share of a run, at its end, over which the final loss is averaged."""
COLOURS = ("#444444", "#1f77b4", "#d62728")


@dataclass
class Run:
    """One script, its run directory, and its process once it has started."""

    mode: str
    directory: Path
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    seconds: float = 0.0
    """Wall time of the whole script."""

    @property
    def points(self) -> list[Point]:
        return read_log(self.directory / "log.txt")

    @property
    def done(self) -> bool:
        finished = self.process is not None and self.process.poll() is not None
        if finished and not self.seconds:
            self.seconds = time.monotonic() - self.started
        return finished

    def start(self, script: Path) -> None:
        self.directory.mkdir(parents=True)
        self.started = time.monotonic()
        environment = {key: value for key, value in os.environ.items() if key != "MEGATRON_LM_PATH"}
        environment |= {
            "TRAINING_CONFIG": "smoke",
            "RUN_DIR": str(self.directory),
            "OMP_NUM_THREADS": "1",
            "PYTHON": sys.executable,
        }
        with (self.directory / "script.txt").open("wb") as output:
            self.process = subprocess.Popen(
                ["bash", str(script)], env=environment, stdout=output, stderr=subprocess.STDOUT
            )


def _script(mode: str) -> Path:
    import quantctl.script

    folder = Path(quantctl.script.__path__[0])
    return folder / MODEL / f"pretrain_{MODEL}_{DATASET}_{mode}.sh"


def _advance(run: Run, progress: Progress, task: TaskID) -> None:
    if points := run.points:
        last = points[-1]
        progress.update(task, completed=last.iteration, total=last.total, loss=f"loss {last.loss:.3f}")


def train(runs: Sequence[Run], console: Console) -> None:
    """Run all scripts, SIDE_BY_SIDE at a time, and show how far they are."""
    bar = (TextColumn("{task.description:<16}"), BarColumn(), TextColumn("{task.completed:.0f}/{task.total:.0f}"))
    with Progress(*bar, TextColumn("{task.fields[loss]}"), TimeElapsedColumn(), console=console) as progress:
        tasks = {run.mode: progress.add_task(run.mode, total=1, loss="", start=False) for run in runs}
        while not all(run.done for run in runs):
            active = sum(run.process is not None and not run.done for run in runs)
            for run in runs:
                if run.process is None and active < SIDE_BY_SIDE:
                    run.start(_script(run.mode))
                    progress.start_task(tasks[run.mode])
                    active += 1
                _advance(run, progress, tasks[run.mode])
                if run.done:
                    progress.stop_task(tasks[run.mode])
            time.sleep(0.3)
        for run in runs:
            _advance(run, progress, tasks[run.mode])


def _tail_loss(points: Sequence[Point]) -> float:
    return fmean(point.loss for point in points[-max(1, round(len(points) * TAIL)) :])


def _products(directory: Path) -> str:
    calls = json.loads((directory / "proof.json").read_text())["calls"]
    shown = [
        f"{site} in {spec}: " + ", ".join(f"{product} {count:,}" for product, count in sorted(products.items()))
        for site, specs in calls.items()
        for spec, products in specs.items()
    ]
    return "; ".join(shown) or "nothing quantized"


def comparison(runs: Sequence[Run]) -> Table:
    """First and final loss, gap to the first run and time of each run."""
    table = Table(title=f"{MODEL}, smoke config, same seed and data order", box=box.SIMPLE_HEAD)
    for name in ("mode", "first loss", "final loss", "gap to bf16", "ms/iter", "time"):
        table.add_column(name, justify="left" if name == "mode" else "right", no_wrap=True)
    reference = _tail_loss(runs[0].points)
    for run in runs:
        points = run.points
        final = _tail_loss(points)
        table.add_row(
            run.mode,
            f"{points[0].loss:.3f}",
            f"{final:.4f}",
            "-" if run is runs[0] else f"{final - reference:+.4f}",
            f"{median(point.milliseconds for point in points[1:]):.0f}",
            f"{run.seconds:.0f} s",
        )
    return table


def draw(runs: Sequence[Run], path: Path) -> None:
    """The loss curves, and below them each curve's distance from the first one."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(2, 1, figsize=(8, 6), sharex=True, height_ratios=(3, 1.4))
    reference = {point.iteration: point.loss for point in runs[0].points}
    for run, colour in zip(runs, COLOURS, strict=True):
        iterations = [point.iteration for point in run.points]
        losses = [point.loss for point in run.points]
        above.plot(iterations, losses, color=colour, label=run.mode, linewidth=1.6)
        gaps = [loss - reference.get(i, float("nan")) for i, loss in zip(iterations, losses, strict=True)]
        below.plot(iterations, gaps, color=colour, linewidth=1.4)
    above.set_ylabel("lm loss (nats/token)")
    above.set_title(f"{MODEL} smoke: the number format is the only difference")
    above.legend(frameon=False)
    below.set_ylabel("gap to bf16")
    below.set_xlabel("iteration")
    for axes in (above, below):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def main() -> int:
    """Exit status 1 when a run failed or was not proven."""
    console = Console()
    folder = Path("runs") / f"demo-{datetime.now():%Y%m%d-%H%M%S}"
    environment = {key: value for key, value in os.environ.items() if key != "MEGATRON_LM_PATH"}
    subprocess.run([sys.executable, "-m", "quantctl.cli", "check"], env=environment, check=True)
    subprocess.run([sys.executable, "-m", "quantctl.corpus"], check=True, stdout=subprocess.DEVNULL)
    runs = [Run(mode, (folder / mode).resolve()) for mode in MODES]
    console.print(f"\nTraining on English prose from Python's own documentation; run directories in {folder}/")
    train(runs, console)
    failed = [run for run in runs if run.process is None or run.process.returncode != 0]
    for run in failed:
        output = (run.directory / "script.txt").read_text().splitlines()
        console.print(f"[bold red]{run.mode} failed[/]; the end of {run.directory}/script.txt:")
        console.print("\n".join(output[-15:]), markup=False)
    if failed:
        return 1
    picture = folder / "loss.png"
    draw(runs, picture)
    console.print(comparison(runs))
    console.print("Products that ran, counted in each run (proof.json):")
    for run in runs:
        console.print(f"  {run.mode:<16} {_products(run.directory)}", soft_wrap=True, highlight=False)
    console.print(f"Curves: {picture}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
