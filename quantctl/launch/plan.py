"""One launch, in full: what `quantctl launch` starts on this node, and how it says the same to another."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from quantctl.launch.rendezvous import Rendezvous

EMBEDDED = ("-m", "quantctl.pretrain")
"""The trainer where no checkout brings its own."""
_ON_EVERY_NODE = ("LINT", "FORCE", "MASTER_ADDR", "MASTER_PORT")
"""Variables that decide how a launch goes on, beside those of the run itself."""


def python() -> str:
    """The Python that trains: PYTHON, else that of this environment, under the name that venvs share."""
    beside = Path(sys.executable).with_name("python")
    return os.environ.get("PYTHON") or str(beside if beside.exists() else sys.executable)


def quantctl() -> str:
    return os.environ.get("QUANTCTL") or str(Path(sys.executable).with_name("quantctl"))


@dataclass(frozen=True)
class Plan:
    """What is started, on whatever node."""

    run_dir: str
    """Where the run leaves its files; the nodes share it."""
    processes: int
    """On each node."""
    platform: str
    """cuda, npu or cpu."""
    selectors: tuple[str, ...]
    """--mode and the like, as words."""
    variables: tuple[str, ...]
    """NAME=VALUE of the run."""
    trainer: tuple[str, ...]
    """The program and its flags."""
    name: str | None = None
    """What lint compares with the formats."""
    stats: str | None = None
    """every=N."""
    sourced: Mapping[str, str] = field(default_factory=dict)
    """What a platform's setup file changed in this process's environment: a printed command has to say it."""
    instead: str | None = None
    """A command that trains on a machine without GPUs."""

    @property
    def saves(self) -> bool:
        return "--save" in self.trainer

    def command(self, meet: Rendezvous) -> list[str]:
        """On one node: `quantctl exec` around torchrun around the trainer."""
        place = ["--nodes", str(meet.nodes), "--node-rank", str(meet.node_rank)] if meet.nodes > 1 else []
        stats = ["--stats", self.stats] if self.stats else []
        # the embedded trainer alone needs no torchrun; Megatron-LM's own, also behind an adaptor, wants its variables
        alone = meet.nodes == 1 and self.processes == 1 and self.trainer[:2] == EMBEDDED
        starter = [] if alone else meet.torchrun(self.processes)
        through = [quantctl(), "exec", "--run-dir", self.run_dir, *self.selectors, *stats, *place, "--"]
        return [*(["env", *self.variables] if self.variables else []), *through, python(), *starter, *self.trainer]

    def launch(self) -> list[str]:
        """The same as words of `quantctl launch`, for srun to start on each node; the environment adds nothing."""
        asked = [f"{name}={os.environ[name]}" for name in _ON_EVERY_NODE if os.environ.get(name)]
        words = ["--run-dir", self.run_dir, *self.selectors, "--processes", str(self.processes)]
        words += ["--platform", self.platform] if self.platform != "cuda" else []
        words += ["--name", self.name] if self.name else []
        words += ["--stats", self.stats] if self.stats else []
        words += [word for variable in (*self.variables, *asked) for word in ("--env", variable)]
        return [python(), "-m", "quantctl.cli", "launch", *words, "--", *self.trainer]


def shown(command: Sequence[str]) -> str:
    """A flag with its values a line, quoted: the whole can be pasted into a shell."""
    text = shlex.quote(command[0])
    for word in command[1:]:
        breaks = (len(word) > 2 and word.startswith("--")) or word == "-m" or word in (python(), quantctl())
        breaks = breaks or word.endswith("/pretrain_gpt.py")
        text += (" \\\n    " if breaks else " ") + shlex.quote(word)
    return text
