"""The main job in a few minutes on a CPU: three generated scripts train the same model on the same text in three modes.

    python -m quantctl.sweep.demo

Runs the bf16, linear_mxfp8 and FA_linear_mxfp4 scripts of llama32-1b in their smoke config at one seed, two at a time,
and compares them. It is `quantctl sweep` with everything chosen.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from quantctl.report.write import write
from quantctl.runs import rundir
from quantctl.sweep.plan import tasks
from quantctl.sweep.runner import Slot, State, run
from quantctl.sweep.show import watching

MODEL, DATASET, SEED = "llama32-1b", "wikipedia", 1234
MODES = ("bf16", "linear_mxfp8", "FA_linear_mxfp4")
SIDE_BY_SIDE = 2


def main() -> int:
    """Exit status 1 when a run failed or was not proven."""
    console = Console()
    folder = rundir.fresh(Path("runs"), "demo-")
    os.environ.pop("MEGATRON_LM_PATH", None)
    subprocess.run([sys.executable, "-m", "quantctl.cli", "check"], check=True)
    # built once, before the runs would each build it
    subprocess.run([sys.executable, "-m", "quantctl.data.corpus"], check=True, stdout=subprocess.DEVNULL)
    console.print(
        f"\nTraining on English prose from Python's own documentation; run directories in {folder}/", soft_wrap=True
    )
    settings = {"TRAINING_CONFIG": "smoke", "PYTHON": sys.executable}
    with watching(console) as watch:
        jobs = run(tasks([MODEL], DATASET, MODES, [SEED], folder, settings), [Slot()] * SIDE_BY_SIDE, watch)
    if failed := [job for job in jobs if job.state is State.FAILED]:
        for job in failed:
            console.print(f"[bold red]{job.task.name} failed[/]; the end of {job.task.run_dir}/script.txt:")
            console.print(job.last_words(), markup=False)
        return 1
    write([folder / MODEL], folder / "report", f"{MODEL}, smoke config: what the formats cost")
    return 0


if __name__ == "__main__":
    sys.exit(main())
