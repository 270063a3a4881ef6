"""Where runs are read from: a run directory, a Megatron-LM log, or TensorBoard's event files.

What a run left is outside text. Whatever is wrong with it is said on that run's own row, and the others stand.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from quantctl.errors import QuantctlError
from quantctl.outside.records import BadRecord
from quantctl.report import heat
from quantctl.report.events import has_events, is_event_file, read_events
from quantctl.report.log import Log, read, told_interval
from quantctl.report.run import Run, Trouble, mark_course
from quantctl.runs import manifest, proof
from quantctl.runs import recipe as recipes
from quantctl.runs.attempts import joined
from quantctl.runs.runlog import lines, points, sources
from quantctl.spec import SITES
from quantctl.tree.forks import canonical_or

_LOGS = (".txt", ".log", ".out")
_MANIFEST = "manifest.json"


def is_events(path: Path) -> bool:
    """Whether the run at `path` is read from TensorBoard's event files, and from nothing else."""
    return not os.path.lexists(path / _MANIFEST) and (is_event_file(path) or has_events(path))


def load(path: Path) -> Run:
    """The run at `path`: a run directory, a log, an event file or a folder of event files.

    Raises QuantctlError that says what was looked for when there is none, or what cannot be read of a log.
    """
    if os.path.lexists(path / _MANIFEST):
        return _from_directory(path)
    if is_events(path):
        return _from_events(path)
    if os.path.isdir(path) or not os.path.lexists(path):
        raise QuantctlError(
            f"{path} " + ("holds no run" if os.path.isdir(path) else "does not exist"),
            "a run is a folder with manifest.json (quantctl exec writes it), a Megatron-LM log, or TensorBoard event "
            "files",
        )
    log, _ = read(lines(path))
    if not log.curve:
        raise QuantctlError(f"{path} holds no iteration lines of Megatron", "name a run directory or a training log")
    run = Run(path, log.curve, sorted(log.validation.items()), log.recipe, memory=log.memory)
    mark_course(run, log.interval)
    return run


def load_or_mark(path: Path) -> tuple[Run, QuantctlError | None]:
    """The run at `path`; if it cannot be read, one that is marked with the reason, and the error itself."""
    try:
        return load(path), None
    except QuantctlError as error:
        problem = error
    except Exception as error:  # one run takes no other's row; the reason says that this is ours
        problem = QuantctlError(f"{path}: {type(error).__name__} in quantctl: {error}", "please report this as a bug")
    run = Run(path)
    reason = problem.reason if isinstance(problem, BadRecord) else problem.message.removeprefix(f"{path} ")
    run.mark(Trouble.UNREADABLE, reason)
    return run, problem


def _from_events(path: Path) -> Run:
    run = Run(path)
    run.curve, run.validation, run.memory = read_events(path)
    mark_course(run)
    return run


def _tree_of(attempt: dict[str, Any]) -> str:
    """The tree's code but for what the selectors say; its version where an older manifest has no digest."""
    return " ".join(filter(None, (f"megatron-core {attempt.get('megatron_core')}", attempt.get("code"))))


def _from_directory(path: Path) -> Run:
    data = manifest.read(path / _MANIFEST)
    attempts = data["attempts"]
    attempt = attempts[-1] if attempts else {}
    command = attempt.get("command")
    if not command:
        raise BadRecord(path / _MANIFEST, f"it names no command ({len(attempts)} attempts)")
    run = Run(path, recipe=recipes.from_command(command), tree=_tree_of(attempt))
    run.selectors = {
        role: canonical_or(value, role) if role in SITES else value for role, value in data["selectors"].items()
    }
    run.packages = attempt.get("packages") or {}
    _read_course(run, command, len(attempts))
    status = attempt.get("exit_status")
    if status is None:
        run.mark(Trouble.KILLED, "the manifest has no end")
    elif status != 0:
        run.mark(Trouble.FAILED, f"exit status {status}")
    _read_proof(run)
    _read_statistics(run)
    return run


def _read_course(run: Run, command: Sequence[str], attempts: int) -> None:
    """Losses and times: from the logs, else from the event files."""
    logs = sources(run.path)
    try:
        log, follower = read(joined(logs))
        if not log.curve and has_events(run.path / "tensorboard"):
            run.curve, run.validation, run.memory = read_events(run.path / "tensorboard")
        else:
            run.curve, run.validation, run.memory = log.curve, sorted(log.validation.items()), log.memory
    except BadRecord as error:
        run.mark(Trouble.UNREADABLE, error.reason)
        return
    mark_course(run, told_interval(" ".join(command)))
    repeated = any(mark.trouble is Trouble.RESUMED for mark in run.marks)
    # without marks, the order of the lines of different nodes is not known
    whole = follower.is_whole if follower.is_marked else len(logs) == 1 and _began_anew(log, command)
    if attempts > 1 and not repeated and not whole:
        run.mark(Trouble.RESUMED, f"{attempts} attempts")


def _began_anew(log: Log, command: Sequence[str]) -> bool:
    loads = any(word.partition("=")[0] == "--load" for word in command)
    return log.began_anew(told=loads or "quantctl.pretrain" not in command)


def _read_proof(run: Run) -> None:
    path = run.path / proof.NAME
    if not os.path.lexists(path):
        return
    try:
        found = proof.read(path)
    except BadRecord as error:
        run.mark(Trouble.UNPROVEN, error.reason)
        return
    run.calls = found["calls"]
    if not found["ok"]:
        run.mark(Trouble.UNPROVEN, next(iter(found["problems"]), f"{path.name} gives no reason"))


def _read_statistics(run: Run) -> None:
    try:
        run.statistics = heat.read(run.path)
    except BadRecord as error:
        run.mark(Trouble.UNREADABLE, f"statistics, {error.reason}")


def find(paths: Sequence[Path]) -> list[Path]:
    """The runs that are meant: each path, or what lies below it if it is a folder of several."""
    found: list[Path] = []
    for path in paths:
        if os.path.isdir(path) and not os.path.lexists(path / _MANIFEST):
            found += sorted(_below(path)) or _logs(path) or ([] if _is_report(path) else [path])
        else:
            found.append(path)
    return list(dict.fromkeys(found or paths))


def _is_report(folder: Path) -> bool:
    """Whether a report was written there: a sweep's lies among its runs, where `*` names both."""
    return all((folder / f"report.{ending}").is_file() for ending in ("html", "json"))


def _below(folder: Path) -> Iterator[Path]:
    """The run directories in a folder, at any depth; not those in a run directory."""
    for at, folders, files in os.walk(folder):
        if _MANIFEST in files or _MANIFEST in folders:
            yield Path(at)
            folders.clear()


def _logs(folder: Path) -> list[Path]:
    """The files of the folder that hold iteration lines."""
    return sorted(file for file in _files(folder) if file.suffix in _LOGS and _has_points(file))


def _files(folder: Path) -> Iterator[Path]:
    """What stands in a folder; nothing in one that cannot be read."""
    try:
        yield from folder.iterdir()
    except OSError:
        return


def _has_points(file: Path) -> bool:
    try:
        return bool(list(islice(points([file]), 1)))
    except BadRecord:
        return False
