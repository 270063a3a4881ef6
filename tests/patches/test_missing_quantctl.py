"""A patched tree on a machine without quantctl: `none` trains, anything else stops at a line that says what to do.

The inserted import carries the advice as a comment, because a traceback shows the line that raised: it costs no code on
the way of a run that has quantctl.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from warm_python import python

from quantctl.tree.selectors import SELECTORS

STEP = Path(__file__).resolve().parents[1] / "support" / "gpt_step.py"
WITHOUT = """
import runpy, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "quantctl":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
runpy.run_path(sys.argv.pop(1))
"""


def step(tree: Path) -> subprocess.CompletedProcess[str]:
    return python("-c", WITHOUT, str(STEP), env={**os.environ, "PYTHONPATH": str(tree)})


def test_none_needs_no_quantctl(patched):
    done = step(patched("0.16.1"))
    assert done.returncode == 0, done.stderr


VALUES = {"linear": "mxfp8", "lm_head": "mxfp8", "qk": "mxfp8", "pv": "mxfp8", "attention": "auto"}


@pytest.mark.parametrize(("selector", "value"), VALUES.items(), ids=VALUES)
def test_any_other_value_stops_with_advice(patched, selector, value):
    done = step(patched("0.16.1", **{selector: value}))
    assert done.returncode != 0
    lines = [text.removeprefix("[rank0]:").strip() for text in done.stderr.splitlines()]
    # without the interpreter's underlines and the frame of the finder that stands in for an empty environment
    shown = [line for line in lines if line.strip("^~") and not line.startswith('File "<string>"')]
    assert shown[-1] == "ModuleNotFoundError: No module named 'quantctl'"
    nothing = SELECTORS[selector].default
    assert shown[-2].endswith(f"# missing? pip install quantctl, or set {nothing!r}"), done.stderr
