"""Real training steps on stock and patched trees."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from warm_python import python

from quantctl.tree.state import plan, read_state

STEP = Path(__file__).resolve().parents[1] / "support" / "gpt_step.py"


@pytest.fixture(scope="session")
def run_steps() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run tests/support/gpt_step.py on a tree, one process for all steps: run_steps(tree, ("--bias",), ())."""

    def run(tree: Path, *steps: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
        arguments = [argument for step in steps for argument in ("/", *step)][1:]
        return python(STEP, *arguments, env={**os.environ, "PYTHONPATH": str(tree)})

    return run


@pytest.fixture(scope="session")
def train(run_steps: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[..., list[dict]]:
    """The same, and what each step computed: [{"loss": ..., "gradients": ..., "hits": ..., ...}, ...]."""

    def run(tree: Path, *steps: tuple[str, ...]) -> list[dict]:
        done = run_steps(tree, *steps)
        assert done.returncode == 0, done.stderr
        results = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        assert len(results) == len(steps)
        assert all(result.pop("tree").startswith(str(tree)) for result in results)
        return results

    return run


@pytest.fixture
def patched(
    megatron_tree: Callable[[str], Path], tmp_path: Path, request: pytest.FixtureRequest
) -> Callable[..., Path]:
    """Function from a release and selectors to a tree of the test's own with every patch that fits it."""

    def make(release: str, **values: str) -> Path:
        tree = tmp_path / "-".join([release, *values.values()]).replace(":", "-")
        shutil.copytree(megatron_tree(release), tree, ignore=shutil.ignore_patterns(".git"))
        for file, raw in plan(read_state(tree), values).items():
            (tree / file).write_bytes(raw)
        return tree

    return make
