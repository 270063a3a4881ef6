"""Run directories, staged trees and environments that no run should be started in: refused in words, or it works."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hostile import assert_civil, run

VICTIM = "somebody else's"
STARTED = 7
"""Status of the command that exec is to run."""


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _link(path: Path, target: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def _fifo(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)


def _second_name(path: Path, target: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.link(target, path)


def _folder(path: Path) -> None:
    path.mkdir(parents=True)


@pytest.fixture
def ends(quantctl, megatron_tree, tmp_path) -> Callable[..., None]:
    """Function: `exec` in a run directory ends with a status; what is refused is refused soon, a run takes its time."""

    def check(folder: Path, status: int, environment: dict[str, str] | None = None) -> None:
        command = ["--megatron", megatron_tree("0.16.1"), "exec", "--mode", "bf16", "--run-dir", folder]
        command += ["--", "sh", "-c", f"exit {STARTED}"]
        if status == STARTED:
            done = quantctl(*command, cwd=tmp_path, env=environment)
            assert (done.status, "Traceback" in done.err) == (STARTED, False), done.err
        else:
            assert_civil(run(command, tmp_path, environment), status)

    return check


DIRECTORIES: dict[str, tuple[Callable[[Path, Path], None], int]] = {  # makes it, and the status that is right
    "a file": (lambda run, victim: _write(run, "x"), 2),
    "below a file": (lambda run, victim: _write(run.parent, "x"), 2),
    "a dangling link": (lambda run, victim: _link(run, run.parent / "absent"), 2),
    "below a dangling link": (lambda run, victim: _link(run.parent, run.parent.parent / "absent"), 2),
    "a link to itself": (lambda run, victim: _link(run, run), 2),
    "a FIFO": (lambda run, victim: _fifo(run), 2),
    "log: a FIFO": (lambda run, victim: _fifo(run / "log.txt"), 2),
    "log: a folder": (lambda run, victim: _folder(run / "log.txt"), 2),
    "log: a link": (lambda run, victim: _link(run / "log.txt", victim), 2),
    "log: a second name": (lambda run, victim: _second_name(run / "log.txt", victim), 2),
    "log: no text": (lambda run, victim: _write(run / "log.txt", "\0\x01" * 9), STARTED),
    "lock: a link": (lambda run, victim: _link(run / ".lock", victim), 2),
    "lock: a second name": (lambda run, victim: _second_name(run / ".lock", victim), 2),
    "lock: a FIFO": (lambda run, victim: _fifo(run / ".lock"), 2),
    "lock: a folder": (lambda run, victim: _folder(run / ".lock"), 2),
    "lock: of another program": (lambda run, victim: _write(run / ".lock", "pid 7"), 2),
    "lock: JSON of another program": (lambda run, victim: _write(run / ".lock", "[1]"), 2),
    "lock: empty, of an earlier version": (lambda run, victim: _write(run / ".lock", ""), STARTED),
    "manifest: no JSON": (lambda run, victim: _write(run / "manifest.json", "{"), 2),
    "manifest: a list": (lambda run, victim: _write(run / "manifest.json", "[]"), 2),
    "manifest: deep": (lambda run, victim: _write(run / "manifest.json", "[" * 100_000), 2),
    "manifest: odd attempts": (
        lambda run, victim: _write(run / "manifest.json", '{"selectors": {"linear": 1}, "attempts": [3]}'),
        2,
    ),
    "manifest: odd selectors": (
        lambda run, victim: _write(run / "manifest.json", '{"selectors": {"linear": []}, "attempts": []}'),
        2,
    ),
    "manifest: no text": (lambda run, victim: (_folder(run), (run / "manifest.json").write_bytes(b"\xff\xfe"))[0], 2),
    "manifest: a folder": (lambda run, victim: _folder(run / "manifest.json"), 2),
    "manifest: a link": (lambda run, victim: _link(run / "manifest.json", victim), 2),
    "proof: a file": (lambda run, victim: _write(run / "proof", "x"), 2),
    "proof: a link": (lambda run, victim: _link(run / "proof", victim.parent), 2),
    "proof: rubbish": (lambda run, victim: _write(run / "proof" / "import-0-1-0.json", "[["), STARTED),
    "proof: somebody's": (lambda run, victim: _write(run / "proof" / "thesis.tex", VICTIM), STARTED),
    "stop: a folder": (lambda run, victim: _folder(run / "stop"), 2),
}


@pytest.mark.parametrize("case", DIRECTORIES)
def test_run_directories(ends, tmp_path, case):
    make, status = DIRECTORIES[case]
    victim, folder = tmp_path / "home" / "precious", tmp_path / "runs" / "one"
    _write(victim, VICTIM)
    make(folder, victim)
    ends(folder, status)
    assert victim.read_text() == VICTIM
    assert sorted(path.name for path in victim.parent.iterdir()) == ["precious"]
    if (theirs := folder / "proof" / "thesis.tex").parent.is_dir() and "somebody's" in case:
        assert theirs.read_text() == VICTIM


ENVIRONMENTS = {
    "node": ({"QUANTCTL_NODE": "abc"}, STARTED),
    "rank": ({"RANK": "abc"}, 2),
    "rank of many digits": ({"RANK": "1" * 5000}, 2),
    "rank that is a digit of another kind": ({"RANK": "²"}, 2),
    "world size": ({"WORLD_SIZE": "-1"}, 2),
    "run directory of another": ({"QUANTCTL_RUN_DIR": "/proc/1/root"}, STARTED),
    "staged tree of another": ({"QUANTCTL_STAGED_TREE": "/nowhere", "QUANTCTL_SOURCE_TREE": "/"}, STARTED),
    "a stop file forgotten elsewhere": ({"QUANTCTL_STOP_FORGOTTEN": "/nowhere"}, STARTED),
    "no path": ({"PATH": ""}, 2),
    "a cache that is a file": ({"XDG_CACHE_HOME": "FILE"}, 2),
    "an odd python path": ({"PYTHONPATH": ":::/nowhere:\udcff"}, STARTED),
}


@pytest.mark.parametrize("case", ENVIRONMENTS)
def test_environments(ends, tmp_path, case):
    (tmp_path / "file").touch()
    variables, status = ENVIRONMENTS[case]
    environment = {name: value.replace("FILE", str(tmp_path / "file")) for name, value in variables.items()}
    ends(tmp_path / "run", status, environment)


STAGED: dict[str, Callable[[Path], None]] = {
    "a file": lambda root: _write(root / ("a" * 16), "x"),
    "a link": lambda root: _link(root / ("b" * 16), root / "absent"),
    "a link to itself": lambda root: _link(root / ".draft-x", root / ".draft-x"),
    "half removed": lambda root: _write(root / ("c" * 16) / "megatron" / "core" / "x.py", "x"),
    "its mark is a folder": lambda root: _folder(root / ("d" * 16) / ".quantctl-staged.json"),
    "put aside": lambda root: _write(root / ".gone-0123" / "x.py", "x"),
    "a draft that is a file": lambda root: _write(root / ".draft-y", "x"),
}


@pytest.mark.parametrize("case", STAGED)
def test_what_lies_among_the_staged_trees(tmp_path, case):
    root = tmp_path / "cache" / "quantctl" / "staged"
    _write(root / "mine" / "notes", VICTIM)
    STAGED[case](root)
    ended = run(["exec", "--prune"], tmp_path, {"XDG_CACHE_HOME": str(tmp_path / "cache")})
    assert_civil(ended, 0)
    assert (root / "mine" / "notes").read_text() == VICTIM
    assert not list(root.glob(".gone-*"))


def test_a_read_only_run_directory(megatron_tree, tmp_path):
    """Root may write anywhere but below /proc."""
    command = [
        "--megatron",
        megatron_tree("0.16.1"),
        "exec",
        "--mode",
        "bf16",
        "--run-dir",
        "/proc/1/run",
        "--",
        "true",
    ]
    assert_civil(run(command, tmp_path), 2)


def test_a_manifest_of_an_earlier_version_goes_on(ends, tmp_path):
    selectors = {"linear": "none", "lm_head": "none", "qk": "none", "pv": "none", "attention": "unfused"}
    old = {"selectors": selectors, "attempts": [{"asked": ["true"], "exit_status": 0}]}
    _write(tmp_path / "run" / "manifest.json", json.dumps(old))
    _write(tmp_path / "run" / "log.txt", "no newline at its end")
    ends(tmp_path / "run", STARTED)
    attempts = json.loads((tmp_path / "run" / "manifest.json").read_text())["attempts"]
    assert [attempt["exit_status"] for attempt in attempts] == [0, 7]
    assert (tmp_path / "run" / "log.txt").read_text().startswith("no newline at its end\n---- quantctl: an attempt")
