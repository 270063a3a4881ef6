"""`python -m quantctl.bench.measured (FILE | -m MODULE) ARGS`: run a trainer, then say how much memory it took.

Works for every trainer that steps a torch optimizer (Megatron's, Apex's and Transformer Engine's are such), in the
process that is the rank. RUN_DIR/memory/rank<RANK>.json then holds, in bytes,

    peak      the most that was allocated at once; on a CPU the process's largest resident size
    after     what was allocated behind an optimizer step: weights, gradients, optimizer; null on a CPU, where memory
              that was freed may stay with the process
"""

from __future__ import annotations

import atexit
import json
import os
import resource
import runpy
import sys
from pathlib import Path
from typing import Any

FOLDER = "memory"


class Memory:
    """Registers itself with torch; writes when the process ends."""

    def __init__(self, run_dir: Path) -> None:
        import torch
        from torch.optim.optimizer import register_optimizer_step_post_hook

        self.cuda = torch.cuda
        self.path = run_dir / FOLDER / f"rank{os.environ.get('RANK', '0')}.json"
        self.after: int | None = None
        register_optimizer_step_post_hook(self._note)
        atexit.register(self.write)

    def _note(self, *_: Any) -> None:
        if self.cuda.is_initialized():
            self.after = self.cuda.memory_allocated()

    def write(self) -> None:
        if self.cuda.is_initialized():
            kind, peak = "cuda", self.cuda.max_memory_allocated()
        else:
            kind, peak = "cpu", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts KiB
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps({"device": kind, "peak": peak, "after": self.after}) + "\n")


def read(run_dir: Path) -> dict[str, Any]:
    """What rank 0 left; empty if it ended before it could."""
    path = run_dir / FOLDER / "rank0.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def main() -> None:
    program = sys.argv[1:]
    Memory(Path(os.environ["QUANTCTL_RUN_DIR"]))
    if program[0] == "-m":
        sys.argv = program[1:]
        runpy.run_module(program[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = program
        sys.path[0] = str(Path(program[0]).resolve().parent)
        runpy.run_path(program[0], run_name="__main__")


if __name__ == "__main__":
    main()
