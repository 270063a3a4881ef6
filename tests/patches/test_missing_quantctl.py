"""A patched tree on a machine without quantctl: `none` trains, anything else stops at a line that says what to do.

The inserted import carries the advice as a comment, because a traceback shows the line that raised: it costs no code on
the way of a run that has quantctl.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

STEP = Path(__file__).resolve().parents[1] / "support" / "gpt_step.py"
WITHOUT = "import sys, runpy; sys.modules['quantctl'] = None; sys.argv[:] = sys.argv[1:]; runpy.run_path(sys.argv[0])"


def step(tree: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT, str(STEP)],
        env={**os.environ, "PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
    )


def test_none_needs_no_quantctl(patched):
    done = step(patched("0.16.1"))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("selector", ["linear", "lm_head", "qk", "pv"])
def test_any_other_value_stops_with_advice(patched, selector):
    done = step(patched("0.16.1", **{selector: "mxfp8"}))
    assert done.returncode != 0
    place, error = done.stderr.rstrip().splitlines()[-3:], done.stderr.rstrip().splitlines()[-1]
    assert re.match(r"ModuleNotFoundError: .*quantctl", error)
    assert any("missing? pip install quantctl, or set 'none'" in line for line in place), done.stderr
