"""One run, read from what it left: a run directory, a Megatron-LM log, or TensorBoard's event files."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Any

from quantctl.attempts import joined, judged
from quantctl.errors import QuantctlError
from quantctl.forks import canonical_or
from quantctl.modes import MODES
from quantctl.proof import Calls
from quantctl.report import recipe as recipes
from quantctl.report.events import has_events, read_events
from quantctl.runlog import NUMBER, PREFIX, Point, latest, log_texts, parse_points
from quantctl.spec import NONE, SITES

TAIL = 0.25
"""Share of a run, at its end, over which losses and gaps are averaged."""

_VALIDATION = re.compile(
    r"validation\S* loss at (?:iteration )?(\d+)(?!\d| on test set).*?"
    rf"\| lm loss value: ({NUMBER}|nan|[-+]?inf)(?![\d.eE])"
)
_MEMORY = re.compile(r"memory \(MB\) \|.*?max (?:allocated|resident): ([\d.]+)")
_INTERVAL = re.compile(rf"(?:^{PREFIX} {{2}}log_interval \.{{3,}}|--log-interval[ =]) *(\d+)", re.MULTILINE)
_START = re.compile(
    rf"^{PREFIX} *(?:-+ arguments -+$|loading checkpoint from |will not load any checkpoints and will start )",
    re.MULTILINE,
)
"""What rank 0 says before it trains: Megatron-LM its arguments, always; the embedded trainer what --load found."""
_LOGS = (".txt", ".log", ".out")


class Trouble(Enum):
    """Why a run is shown but never averaged with others."""

    KILLED = "killed, or still running"
    FAILED = "failed"
    INCOMPLETE = "incomplete"
    RESUMED = "resumed"
    DIVERGED = "diverged"
    UNPROVEN = "formats not proven"
    MISMATCHED = "another experiment"
    ALONE = "nothing to compare with"


@dataclass(frozen=True)
class Mark:
    """A trouble of one run, in words."""

    trouble: Trouble
    detail: str

    def __str__(self) -> str:
        return f"{self.trouble.value}: {self.detail}" if self.detail else self.trouble.value


@dataclass
class Run:
    """What a run reported."""

    path: Path
    points: list[Point]
    """By iteration; of one that a resumed run repeats, the last."""
    validation: list[tuple[int, float]]
    """Iteration and loss."""
    recipe: recipes.Recipe
    selectors: dict[str, str] = field(default_factory=dict)
    """Empty where nothing says which formats ran."""
    calls: Calls = field(default_factory=dict)
    """From the proof."""
    tree: str = ""
    """Commit or digest of the Megatron tree."""
    packages: dict[str, str] = field(default_factory=dict)
    memory: float | None = None
    """Peak, bytes: allocated on a GPU, resident on a CPU."""
    marks: list[Mark] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def mode(self) -> str:
        """The mode whose selectors these are, else the selectors that are not none, else `unknown`."""
        if not self.selectors:
            return "unknown"
        values = {site: self.selectors.get(site, NONE) for site in SITES}
        for mode, wanted in MODES.items():
            if values == wanted:
                return mode
        return " ".join(f"{site}={value}" for site, value in values.items() if value != NONE)

    @property
    def seed(self) -> int | None:
        return recipes.seed(self.recipe)

    @property
    def last(self) -> Point | None:
        return self.points[-1] if self.points else None

    @property
    def losses(self) -> dict[int, float]:
        """By iteration; without those that the loss scaler skipped."""
        return {point.iteration: point.loss for point in self.points if not point.is_skipped}

    @property
    def final_loss(self) -> float:
        """Mean over the last quarter, nats a token; NaN if the run diverged there."""
        return tail_mean(self.losses)

    @property
    def milliseconds(self) -> float:
        """Median time of an iteration, the first line left out (it holds the start-up); NaN if it was not recorded."""
        times = [point.milliseconds for point in self.points[1:] or self.points if not point.is_skipped]
        return median([time for time in times if not math.isnan(time)] or [math.nan])

    @property
    def tokens_per_second(self) -> float:
        samples = self.points[-1].fields.get("global batch size", math.nan) if self.points else math.nan
        length = float(self.recipe.get("seq-length") or math.nan)
        return samples * length / self.milliseconds * 1000

    @property
    def is_clean(self) -> bool:
        return not self.marks

    def mark(self, trouble: Trouble, detail: str = "") -> None:
        self.marks.append(Mark(trouble, detail))


def tail_mean(values: dict[int, float]) -> float:
    """Mean over the iterations of the last quarter; NaN for no values."""
    if not values:
        return math.nan
    last = max(values)
    return fmean(value for iteration, value in values.items() if iteration > last * (1 - TAIL) or iteration == last)


def _interval(points: Sequence[Point], told: str) -> int:
    """Iterations from one logged iteration to the next: as the run was told, else as it wrote them."""
    if found := _INTERVAL.findall(told):
        return max(int(found[-1]), 1)
    return max((later.iteration - earlier.iteration for earlier, later in pairwise(points)), default=1)


def _mark_course(run: Run, written: Sequence[Point], told: str = "") -> None:
    """What the curve itself tells: `written` are the points in the order of the log, `told` holds the arguments."""
    if any(later.iteration <= earlier.iteration for earlier, later in pairwise(written)):
        run.mark(Trouble.RESUMED, "iterations were repeated")
    missing = next((point.iteration for point in run.points if point.is_diverged), None)
    if missing is not None:
        run.mark(Trouble.DIVERGED, f"no finite loss at iteration {missing}")
    if run.points and not run.losses:
        run.mark(Trouble.INCOMPLETE, "the loss scaler skipped every logged iteration")
    last = run.last
    if last is None:
        run.mark(Trouble.INCOMPLETE, "no iteration was logged")
    elif last.iteration + (step := _interval(run.points, told)) - last.iteration % step <= last.total:
        run.mark(Trouble.INCOMPLETE, f"ended at iteration {last.iteration} of {last.total}")


def _from_text(path: Path, text: str, command: Sequence[str] = ()) -> Run:
    written = parse_points(text)
    validation = {int(number): float(loss) for number, loss in _VALIDATION.findall(text)}
    memory = [float(size) for size in _MEMORY.findall(text)]
    run = Run(path, latest(written), sorted(validation.items()), recipes.from_log(text))
    run.memory = max(memory) * 2**20 if memory else None
    _mark_course(run, written, " ".join(command) or text)
    return run


def _began_anew(text: str, command: Sequence[str]) -> bool:
    """Whether one process wrote all iterations of the part of the log that is judged, from the first on.

    It did if the last start that rank 0 told of lies before all of them, as a start that goes on from a checkpoint is
    told by both trainers. The embedded one without --load tells nothing and always begins at the first iteration, so
    that it would repeat what an earlier attempt logged.
    """
    starts = [found.end() for found in _START.finditer(text)]
    loads = any(word.partition("=")[0] == "--load" for word in command)
    if not starts and (loads or "quantctl.pretrain" not in command):
        return False
    start = starts[-1] if starts else 0
    points = parse_points(text[start:])
    return bool(points) and points[0].iteration == 1


def _tree_of(attempt: dict[str, Any]) -> str:
    """The tree's code but for what the selectors say; its version where an older manifest has no digest."""
    return " ".join(filter(None, (f"megatron-core {attempt.get('megatron_core')}", attempt.get("code"))))


def _from_directory(path: Path) -> Run:
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        attempt = manifest["attempts"][-1]
        command = list(attempt["command"])
        selectors = {role: str(value) for role, value in manifest["selectors"].items()}
        packages = dict(attempt.get("packages") or {})
    except (AttributeError, ValueError, KeyError, IndexError, TypeError) as error:
        raise QuantctlError(
            f"{path / 'manifest.json'} is no manifest of a run", "leave it out, or run it again"
        ) from error
    texts = log_texts(path)
    part = judged(joined(texts))
    run = _from_text(path, part.text, command)
    if not run.points and has_events(path / "tensorboard"):
        run.points, run.validation, run.memory = read_events(path / "tensorboard")
        run.marks = []
        _mark_course(run, run.points, " ".join(command))
    run.recipe = recipes.from_command(command)
    run.selectors = {role: canonical_or(value, role) if role in SITES else value for role, value in selectors.items()}
    run.tree, run.packages = _tree_of(attempt), packages
    attempts = len(manifest["attempts"])
    repeated = any(mark.trouble is Trouble.RESUMED for mark in run.marks)
    # without marks, the order of the lines of different nodes is not known
    whole = part.is_whole if part.is_marked else len(texts) == 1 and _began_anew(part.text, command)
    if attempts > 1 and not repeated and not whole:
        run.mark(Trouble.RESUMED, f"{attempts} attempts")
    status = attempt.get("exit_status")
    if status is None:
        run.mark(Trouble.KILLED, "the manifest has no end")
    elif status != 0:
        run.mark(Trouble.FAILED, f"exit status {status}")
    if (path / "proof.json").exists():
        _read_proof(run, path / "proof.json")
    return run


def _read_proof(run: Run, path: Path) -> None:
    try:
        proof = json.loads(path.read_text())
        run.calls = dict(proof["calls"])
        if not proof["ok"]:
            run.mark(Trouble.UNPROVEN, proof["problems"][0])
    except (ValueError, KeyError, IndexError, TypeError):
        run.mark(Trouble.UNPROVEN, f"{path.name} is damaged")


def load(path: Path) -> Run:
    """The run at `path`: a run directory, a log, an event file or a folder of event files.

    Raises QuantctlError that says what was looked for when there is none.
    """
    if (path / "manifest.json").is_file():
        return _from_directory(path)
    if has_events(path) or path.name.startswith("events.out.tfevents."):
        folder = path if path.is_dir() else path.parent
        points, validation, memory = read_events(folder)
        run = Run(path, points, validation, {}, memory=memory)
        _mark_course(run, points)
        return run
    if path.is_file():
        run = _from_text(path, judged(path.read_text(errors="replace")).text)
        if run.points:
            return run
        raise QuantctlError(f"{path} holds no iteration lines of Megatron", "name a run directory or a training log")
    raise QuantctlError(
        f"{path} " + ("holds no run" if path.is_dir() else "does not exist"),
        "a run is a folder with manifest.json (quantctl exec writes it), a Megatron-LM log, or TensorBoard event files",
    )


def find(paths: Sequence[Path]) -> list[Path]:
    """The runs that are meant: each path, or what lies below it if it is a folder of several."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir() and not (path / "manifest.json").exists():
            below = sorted(manifest.parent for manifest in path.glob("**/manifest.json"))
            found += below or _logs(path) or [path]
        else:
            found.append(path)
    return list(dict.fromkeys(found))


def _logs(folder: Path) -> list[Path]:
    """The files of the folder that hold iteration lines."""
    files = sorted(file for file in folder.iterdir() if file.suffix in _LOGS and file.is_file())
    return [file for file in files if parse_points(file.read_text(errors="replace"))]
