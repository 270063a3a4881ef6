"""How long the commands take, as whole processes, against `python -c "import click, libcst"` in the same run.

    python tests/benchmarks/command_line.py [ROUNDS]

All commands are run once a round, in turn, so that a machine that drifts drifts for all of them. Prints the median, the
spread and the median of the round-by-round ratios, beside what each is meant to stay below.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median

from quantctl.tree.tree import find_tree

BASE = [sys.executable, "-c", "import click, libcst"]
STAGE = (
    "import sys; from pathlib import Path; from quantctl.runs.stage import stage; from quantctl.tree.tree import Tree; "
    "stage(Tree(Path(sys.argv[1]), '--megatron'), {'linear': 'mxfp8'})"
)


def _seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def _quantctl(tree: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "quantctl.cli", "--megatron", str(tree), *arguments]


def _rows(folder: Path) -> dict[str, tuple[Callable[[int], float], str]]:
    """Name -> (seconds of one round, its limit)."""
    stock = find_tree(None).root
    patched, fresh = folder / "patched", folder / "fresh"
    shutil.copytree(stock / "megatron", patched / "megatron")
    subprocess.run(_quantctl(patched, "patch"), check=True, capture_output=True)

    def patch(_: int) -> float:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(stock / "megatron", fresh / "megatron")
        return _seconds(_quantctl(fresh, "patch"))

    def stage_new(_: int) -> float:
        shutil.rmtree(folder / "cache", ignore_errors=True)
        return _seconds([sys.executable, "-c", STAGE, str(patched)])

    def set_three(round_: int) -> float:
        values = ("mxfp8", "mxfp4") if round_ % 2 else ("mxfp4", "mxfp8")
        return _seconds(_quantctl(patched, "set", "--linear", values[0], "--qk", values[1], "--pv", values[0]))

    return {
        "import click, libcst": (lambda _: _seconds(BASE), "1"),
        "check": (lambda _: _seconds(_quantctl(patched, "check")), "1.5"),
        "set, three selectors": (set_three, "3"),
        "patch a stock tree": (patch, "5"),
        "stage a new tree": (stage_new, "1 s"),
        "stage a known tree": (lambda _: _seconds([sys.executable, "-c", STAGE, str(patched)]), "1 s"),
    }


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 11
    with tempfile.TemporaryDirectory(prefix="quantctl-bench-") as name:
        folder = Path(name)
        os.environ |= {"XDG_STATE_HOME": str(folder / "state"), "XDG_CACHE_HOME": str(folder / "cache")}
        rows = _rows(folder)
        times: dict[str, list[float]] = {row: [] for row in rows}
        for round_ in range(rounds + 1):
            for row, (run, _) in rows.items():
                seconds = run(round_)
                if round_:  # the first round warms the file cache and the bytecode
                    times[row].append(seconds)
    base = times[next(iter(rows))]
    versions = f"click {version('click')}, libcst {version('libcst')}"
    print(f"Python {platform.python_version()}, {versions}, {os.cpu_count()} cores")
    print(f"{'':<24}{'median ms':>10}{'min':>8}{'max':>8}{'ratio':>8}{'limit':>8}")
    for row, (_, limit) in rows.items():
        ratio = median(mine / theirs for mine, theirs in zip(times[row], base, strict=True))
        low, high = min(times[row]) * 1e3, max(times[row]) * 1e3
        print(f"{row:<24}{median(times[row]) * 1e3:>10.0f}{low:>8.0f}{high:>8.0f}{ratio:>8.2f}{limit:>8}")


if __name__ == "__main__":
    main()
