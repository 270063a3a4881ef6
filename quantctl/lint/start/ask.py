"""A tree's own answer to commands: its parser and checks in a child process, with a time limit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from quantctl.lint.arguments import is_unknown
from quantctl.lint.case import Case
from quantctl.lint.program import GPT

CHILD = Path(__file__).with_name("child.py")
LONGEST = 120
"""Seconds for all commands together."""


def ask(cases: Sequence[Case], root: Path) -> tuple[list[str | None], str]:
    """For each command the sentence with which the tree refuses it (empty: it takes it), None where it was not asked;
    and why nothing was asked, where that is so."""
    asked = [case for case in cases if _complete(case)]
    if not asked:
        return [None] * len(cases), "no command is known in every word and in its ranks"
    given = [
        {
            "world": (case.command.nodes or 1) * (case.command.processes or 1),
            "flags": list(case.command.words),
            "environment": {name: value for name, value in case.command.environment.items() if not is_unknown(value)},
        }
        for case in asked
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    try:
        done = subprocess.run([sys.executable, CHILD, root], input=json.dumps(given), text=True, capture_output=True,
                              timeout=LONGEST, check=False, env=environment)  # fmt: skip
    except subprocess.TimeoutExpired:
        return [None] * len(cases), f"the tree's parser took more than {LONGEST} s"
    if done.returncode:
        return [None] * len(cases), f"the tree's parser cannot run here: {done.stderr.strip().rpartition(chr(10))[2]}"
    said = iter(json.loads(done.stdout.splitlines()[-1]))
    return [next(said) if _complete(case) else None for case in cases], ""


def _complete(case: Case) -> bool:
    """Whether the tree's parser reads the same words as lint: all are known, and the program is pretrain_gpt.py."""
    words = case.command.words
    sized = case.command.processes is not None and case.command.nodes is not None
    return case.command.program == GPT and sized and not any(is_unknown(word) for word in words)
