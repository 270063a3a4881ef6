"""Running a command on a staged tree: environment, run directory, manifest, proof; on one node or as one of several."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

import quantctl.runs.child
from quantctl import output
from quantctl.errors import DIFFERS, QuantctlError
from quantctl.outside.masking import masked
from quantctl.runs import attempts, process, proof, provenance, rundir, trainer, variables
from quantctl.runs.manifest import Manifest, with_defaults
from quantctl.runs.privacy import as_private_as
from quantctl.runs.stage import staged_copy
from quantctl.spec.outline import Foreseen
from quantctl.tree.state import read_state
from quantctl.tree.tree import Tree

_HOOKS = Path(quantctl.runs.child.__path__[0])


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


def _say_selectors(staged: Path, selectors: Mapping[str, str]) -> None:
    output.say(f"staged: {staged}")
    output.say("selectors: " + " ".join(f"{role}={value}" for role, value in selectors.items()))


def _require_numbers() -> None:
    """What a launcher says of a process's place, where it says anything: the ranks take it for numbers."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        text = os.environ.get(name) or "0"
        if not (text.isascii() and text.isdecimal() and len(text) < 10):
            raise QuantctlError(f"{name}={text[:40]} is not a number", f"unset {name}: torchrun sets it for its ranks")


def execute(
    tree: Tree,
    values: Mapping[str, str],
    command: Sequence[str],
    run_dir: Path | None,
    nodes: int = 1,
    node: int = 0,
    foreseen: Foreseen | None = None,
) -> int:
    """Stage `tree` with the selectors of `values`, run `command` on it, prove what it used.

    Node 0 of `nodes` owns manifest.json, log.txt and proof.json in `run_dir` (by default a new one, runs/<time>);
    another one leaves log-node<k>.txt, and its ranks' counts go to the same folder. `foreseen` is what is known of each
    module's formats, for the manifest and the proof. Returns the command's exit status, or 1 when the command succeeded
    on this node and the proof of all nodes did not.
    """
    process.require(command[0])
    _require_numbers()
    as_private_as(tree.root)
    made = run_dir is None
    run_dir = rundir.fresh(Path("runs")).resolve() if run_dir is None else rundir.check(run_dir)
    with rundir.owned(run_dir, node, made) as lock:
        process.forget_stop(run_dir, node)
        with staged_copy(tree, values) as staged:
            selectors = with_defaults(read_state(staged).values())
            _say_selectors(staged, selectors)
            pointed = point_at_staged(command, tree.root, staged)
            trainer.prepare(staged, pointed)
            environment = child_environment(tree.root, staged, run_dir, node)
            if node:
                return _join(staged, pointed, environment, run_dir, node, lock)
            return _lead(tree, staged, selectors, command, pointed, environment, run_dir, nodes, lock, foreseen)


def _join(
    staged: Path, pointed: Sequence[str], environment: Mapping[str, str], run_dir: Path, node: int, lock: int
) -> int:
    """Node k > 0. Its ranks start once torchrun has met node 0's, which is after node 0 cleared the old counts."""
    mark = attempts.mark(_now())
    ending = process.run(pointed, environment, run_dir, f"log-node{node}.txt", node, mark, lock)
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
    lock: int,
    foreseen: Foreseen | None,
) -> int:
    of_fork = read_state(staged).of_fork()
    hashes = provenance.file_hashes(staged)
    manifest = Manifest(run_dir, selectors)
    proof.clear(run_dir)
    manifest.begin(
        {
            "asked": masked(command),
            "command": masked(pointed),
            "start": (start := _now()),
            "nodes": nodes,
            "tree": str(tree.root),
            "found_by": tree.found_by,
            "megatron_core": tree.version(),
            "git": provenance.git_state(tree),
            "staged": str(staged),
            "files": hashes,
            "code": provenance.code_digest(staged),
            "packages": provenance.package_versions(),
            "environment": variables.deciding(os.environ),
            "resolved": foreseen and foreseen.document,
        }
    )
    ending = process.run(pointed, environment, run_dir, "log.txt", 0, attempts.mark(start), lock)
    others = proof.await_nodes(run_dir, nodes, ending.status)
    beside = proof.node_problems(others, nodes, hashes)
    verdict = proof.merge(run_dir, selectors, of_fork, beside, ending.status, foreseen and foreseen.by_module)
    finished = ending.status == 0 and verdict.ok and not ending.early
    manifest.end(
        end=_now(),
        exit_status=ending.status,
        proof=verdict.ok,
        kernels=verdict.kernels,
        stopped_early=ending.early,
        finished=finished,
    )
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
