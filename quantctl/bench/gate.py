"""`python -m quantctl.bench.gate`: whether the kernels of a GPU are right, then how fast they are, in a few minutes.

    [--quick] [--device cuda|cpu] [--output FOLDER] [--minutes N]

Needs torch, Triton and quantctl's own light dependencies; docs/bench.md says how they travel to a machine without
network. Every stage is a process of its own, so that one that breaks its device leaves the others running. After each
row FOLDER/gate.json holds all that is known, and FOLDER/gate.md the tables. On a CPU bits are judged in Triton's
interpreter. Exit status 1 if a kernel of ours failed or gave other bits.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from quantctl.bench import equality, machine, markdown
from quantctl.bench.result import EQUAL, SCHEMA
from quantctl.disk.files import write_new
from quantctl.errors import DIFFERS, REFUSED, QuantctlError

STAGES: tuple[tuple[str, tuple[str, ...]], ...] = (
    *(("equality", (part,)) for part in equality.PARTS),
    ("qdq", ()),
    ("linear", ()),
    ("attention", ()),
    ("grouped", ()),
    ("step", ()),
)
"""Benchmark and what its rows are asked for, most telling first."""
MODULE = "quantctl.bench.gate"
ROW = "row: "
"""What a line with a row begins with."""


def _child(name: str, asked: Sequence[str], setting: machine.Setting) -> None:
    """One stage: a line on stdout for each row."""
    extra: list[Any] = list(asked)
    if name == "step":
        try:
            from quantctl.tree.tree import find_tree
        except ImportError as error:
            raise QuantctlError("a training step needs all of quantctl", "pip install 'quantctl[megatron]'") from error
        extra = [find_tree(None)]
    for row in importlib.import_module(f"quantctl.bench.{name}").rows(setting, lambda _: None, *extra):
        print(ROW + json.dumps(row.document()), flush=True)


def _environment(name: str, setting: machine.Setting) -> dict[str, str]:
    # NumPy, in which the interpreter computes, reports what IEEE 754 says about Inf and NaN
    interpreted = {"TRITON_INTERPRET": "1", "QUANTCTL_KERNELS": "triton", "PYTHONWARNINGS": "ignore::RuntimeWarning"}
    return dict(os.environ) | (interpreted if name == "equality" and not setting.full else {})


def _failure(name: str, reason: str, excused: bool = False) -> dict[str, Any]:
    failed = {"reason": reason, "excused": excused}
    return {"bench": name, "case": "all", "subject": name, "peer": False, "facts": {}, "failure": failed}


def _rows(name: str, asked: Sequence[str], setting: machine.Setting, seconds: float) -> Iterator[dict[str, Any]]:
    """Of one stage, each as it comes; a stage that breaks or takes too long ends in a row that says so."""
    if seconds <= 0:
        yield _failure(name, "no time was left", excused=True)
        return
    command = [sys.executable, "-m", MODULE, "--stage", name, *asked, "--device", setting.device.type]
    command += ["--quick"] if setting.quick else []
    child = subprocess.Popen(command, env=_environment(name, setting), stdout=subprocess.PIPE, text=True)
    timer = threading.Timer(seconds, child.kill)
    timer.start()
    try:
        assert child.stdout is not None
        for line in child.stdout:
            if line.startswith(ROW):
                yield json.loads(line.removeprefix(ROW))
        status = child.wait()
    finally:
        timed_out = timer.finished.is_set()
        timer.cancel()
        child.kill()
    if timed_out:
        yield _failure(name, f"stopped after {seconds:.0f} seconds", excused=True)
    elif status == REFUSED and name == "step":
        yield _failure(name, "no Megatron tree, or not all of quantctl, is here to train with", excused=True)
    elif status:
        yield _failure(name, f"its process ended with exit status {status}")


def _is_finding(row: dict[str, Any]) -> bool:
    failure = row.get("failure")
    broken = failure is not None and not failure["excused"]
    return not row["peer"] and (broken or row["facts"].get(EQUAL) is False)


def run(setting: machine.Setting, output: Path, minutes: float) -> int:
    """All stages. The exit status."""
    output.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + minutes * 60
    document = {"schema": SCHEMA, **machine.describe(setting), "quick": setting.quick}
    found: list[dict[str, Any]] = []
    for name, asked in STAGES:
        print(f"{' '.join((name, *asked))} ...", file=sys.stderr, flush=True)
        for row in _rows(name, asked, setting, end - time.monotonic()):
            found.append(row)
            whole = document | {"rows": found}
            write_new(output / "gate.json", (json.dumps(whole, indent=1) + "\n").encode())
            write_new(output / "gate.md", markdown.tables(whole).encode())
            if _is_finding(row):
                print(f"  {row['case']}, {row['subject']}: {row['failure'] or 'other bits'}", file=sys.stderr)
    findings = sum(map(_is_finding, found))
    print(f"{len(found)} rows, {findings} findings: {output / 'gate.json'}", file=sys.stderr)
    return DIFFERS if findings else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 2 where there is no such device."""
    parser = argparse.ArgumentParser(prog="python -m quantctl.bench.gate", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer cases and repeats")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--output", type=Path, default=Path("runs/gate"))
    parser.add_argument(
        "--minutes", type=float, default=30.0, help="after which no more is begun, and what runs is ended"
    )
    parser.add_argument("--stage", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    setting = machine.Setting(machine.choose_device(args.device), args.quick)
    if args.stage:
        _child(args.stage[0], args.stage[1:], setting)
        return 0
    return run(setting, args.output, args.minutes)


if __name__ == "__main__":
    from quantctl.errors import exit_with

    exit_with(main)
