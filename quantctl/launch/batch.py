"""A Slurm job's batch script while its run goes: what its signals ask for, and putting the job back into the queue."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from quantctl import output
from quantctl.errors import FINE
from quantctl.launch import slurm
from quantctl.runs.privacy import as_private_as_tree_in_use
from quantctl.runs.process import STOP


class Batch:
    """A Slurm job's batch script, from now on: SIGUSR1 means save, end and requeue; SIGTERM save and end."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.asked: list[int] = []
        self.child: subprocess.Popen[bytes] | None = None
        for number in (signal.SIGUSR1, signal.SIGTERM):
            signal.signal(number, self._ask)

    def _ask(self, number: int, _: object) -> None:
        self.asked.append(number)
        self._pass_on()

    def _pass_on(self) -> None:
        if self.child is None:
            return
        try:
            (self.run_dir / STOP).touch()
        except OSError:
            # a full disk, or a file system that is away: srun and `quantctl exec` take a SIGTERM as the same wish
            self.child.terminate()

    def run(self, command: Sequence[str]) -> int:
        """The exit status; a wish that came before there was anything to end ends it before it starts."""
        if self.asked:
            output.say("asked to stop before anything was started")
            return FINE
        as_private_as_tree_in_use()
        self.run_dir.mkdir(parents=True, exist_ok=True)
        self.child = subprocess.Popen(command)
        if self.asked:
            self._pass_on()
        status = self.child.wait()
        return status if status >= 0 else 128 - status

    def requeue(self, saves: bool) -> None:
        """Once the run has ended well, if that is wished."""
        if signal.SIGUSR1 not in self.asked:
            return
        if not saves:
            output.say("stopped by SIGUSR1; no --save, so there is nothing that a requeued job could continue from")
            return
        job = slurm.own_name(os.environ)
        saved = ", checkpoint saved" if self.child else ""
        output.say(f"stopped by SIGUSR1{saved}: job {job} is requeued")
        slurm.requeue(job)
