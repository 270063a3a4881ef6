"""Running a command on a staged tree: environment, run directory, manifest, proof; on one node or as one of several."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

import quantctl.child
from quantctl import output, process, proof, provenance, trainer
from quantctl.errors import QuantctlError
from quantctl.exits import DIFFERS
from quantctl.manifest import Manifest, with_defaults
from quantctl.stage import NO_LOCKS, in_use, stage
from quantctl.state import read_state
from quantctl.tree import Tree

_HOOKS = Path(quantctl.child.__path__[0])


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def child_environment(source: Path, staged: Path, run_dir: Path, node: int = 0) -> dict[str, str]:
    """The caller's environment with the staged tree first on the path of every Python process."""
    path = [str(_HOOKS), str(staged), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path),
        "MEGATRON_LM_PATH": str(staged),
        "QUANTCTL_SOURCE_TREE": str(source),
        "QUANTCTL_STAGED_TREE": str(staged),
        "QUANTCTL_RUN_DIR": str(run_dir),
        "QUANTCTL_NODE": str(node),
    }


def point_at_staged(arguments: Sequence[str], source: Path, staged: Path) -> list[str]:
    """The command with Python files of the source tree replaced by their staged copies."""

    def point(argument: str) -> str:
        path = Path(argument).resolve()
        if not (argument.endswith(".py") and path.is_file() and path.is_relative_to(source)):
            return argument
        copy = staged / path.relative_to(source)
        return str(copy) if copy.is_file() else argument

    return [point(argument) for argument in arguments]


@contextmanager
def _owned(run_dir: Path, node: int) -> Iterator[None]:
    """One attempt at a time in a run directory, which the nodes of one run share: each holds a lock of its own."""
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / (f".lock-node{node}" if node else ".lock")).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise QuantctlError(
                f"another run is writing to {run_dir}", "wait for it, or give another --run-dir"
            ) from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            output.say(f"{run_dir}: no locks on this file system; see to it that no other run writes there")
        yield


def _say_selectors(staged: Path, selectors: Mapping[str, str]) -> None:
    output.say(f"staged: {staged}")
    output.say("selectors: " + " ".join(f"{role}={value}" for role, value in selectors.items()))


def execute(
    tree: Tree, values: Mapping[str, str], command: Sequence[str], run_dir: Path, nodes: int = 1, node: int = 0
) -> int:
    """Stage `tree` with the selectors of `values`, run `command` on it, prove what it used.

    Node 0 of `nodes` owns manifest.json, log.txt and proof.json in `run_dir`; another one leaves log-node<k>.txt, and
    its ranks' counts go to the same folder. Returns the command's exit status, or 1 when the command succeeded on this
    node and the proof of all nodes did not.
    """
    process.require(command[0])
    run_dir = run_dir.resolve()
    process.forget_stop(run_dir, node)
    staged = stage(tree, values)
    with in_use(staged), _owned(run_dir, node):
        selectors = with_defaults(read_state(staged).values())
        _say_selectors(staged, selectors)
        pointed = point_at_staged(command, tree.root, staged)
        trainer.prepare(staged, pointed)
        environment = child_environment(tree.root, staged, run_dir, node)
        if node:
            return _join(staged, pointed, environment, run_dir, node)
        return _lead(tree, staged, selectors, command, pointed, environment, run_dir, nodes)


def _join(staged: Path, pointed: Sequence[str], environment: Mapping[str, str], run_dir: Path, node: int) -> int:
    """Node k > 0. Its ranks start once torchrun has met node 0's, which is after node 0 cleared the old counts."""
    ending = process.run(pointed, environment, run_dir, f"log-node{node}.txt", node)
    proof.report_node(run_dir, node, ending.status, provenance.file_hashes(staged))
    output.say(f"node {node} ended with exit status {ending.status}; the proof is node 0's: {run_dir / 'proof.json'}")
    return ending.status


def _lead(
    tree: Tree,
    staged: Path,
    selectors: Mapping[str, str],
    command: Sequence[str],
    pointed: Sequence[str],
    environment: Mapping[str, str],
    run_dir: Path,
    nodes: int,
) -> int:
    of_fork = [role for role, place in read_state(staged).selectors.items() if place.fork]
    hashes = provenance.file_hashes(staged)
    manifest = Manifest(run_dir, selectors)
    proof.clear(run_dir)
    manifest.begin(
        {
            "asked": list(command),
            "command": list(pointed),
            "start": _now(),
            "nodes": nodes,
            "tree": str(tree.root),
            "found_by": tree.found_by,
            "megatron_core": tree.version(),
            "git": provenance.git_state(tree),
            "staged": str(staged),
            "files": hashes,
            "code": provenance.code_digest(staged),
            "packages": provenance.package_versions(),
            "environment": provenance.environment(),
        }
    )
    ending = process.run(pointed, environment, run_dir, "log.txt", 0)
    others = proof.await_nodes(run_dir, nodes, ending.status)
    verdict = proof.merge(run_dir, selectors, of_fork, proof.node_problems(others, nodes, hashes), ending.status)
    finished = ending.status == 0 and verdict.ok and not ending.early
    manifest.end(end=_now(), exit_status=ending.status, proof=verdict.ok, stopped_early=ending.early, finished=finished)
    (run_dir / process.STOP).unlink(missing_ok=True)
    for line in proof.lines(verdict):
        output.say(f"counted: {line}")
    if ending.status:
        output.say(f"the command ended with exit status {ending.status}")
    else:
        for problem in verdict.problems:
            output.say(f"proof failed: {problem}")
    output.say(f"run directory: {run_dir}")
    return ending.status or (0 if verdict.ok else DIFFERS)
