"""From the words of a command to what would train: wrappers, launcher, program, its arguments."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from quantctl.errors import QuantctlError
from quantctl.lint.program import GPT
from quantctl.lint.program import program as started_program
from quantctl.lint.starts import LAUNCHERS
from quantctl.lint.world import MANY, known
from quantctl.modes import selection
from quantctl.outside.numbers import whole
from quantctl.spec import SITES

# options of `quantctl exec` and `quantctl launch` that take a value, and what it is
_VALUED = {
    "--mode": "mode",
    "--run-dir": "name",
    "--name": "name",
    "--env": "env",
    "--processes": "processes",
    "--attention": "",
    "--stats": "",
    "--nodes": "",
    "--node-rank": "",
    "--script": "name",
    "--model": "",
    "--dataset": "",
    "--training-config": "",
    "--platform": "platform",
} | {f"--{role.replace('_', '-')}": role for role in SITES}
_LAUNCH_OPTIONS = {
    "--nproc-per-node": "processes",
    "--nproc_per_node": "processes",
    "--nnodes": "nodes",
}


@dataclass(frozen=True)
class Command:
    """A training command."""

    program: str
    """GPT, EMBEDDED, SWIFT or OTHER: whose arguments these are."""
    script: str
    """The program as it is written."""
    words: tuple[str, ...]
    """Its arguments."""
    selectors: Mapping[str, str] | None = None
    """Role to spec, as `quantctl exec` in front of it asks, the tree's own for the others; None where nothing says."""
    mode: str | None = None
    staged: bool = False
    """Whether `quantctl exec` gives it a patched tree."""
    names: tuple[str, ...] = ()
    """What the run is called."""
    processes: int | None = None
    """On a node, from the launcher; None if it does not say: variables of the job can."""
    nodes: int | None = None
    """From the launcher; None if it does not say."""
    environment: Mapping[str, str] = field(default_factory=dict)
    interpreter: str | None = None
    """The python or torchrun that starts it, as it is written."""
    opaque: bool = False
    """Whether a wrapper that nobody knows stands in front: it may give the command any tree."""
    stack_of_its_own: bool = False
    """Whether the program builds a stack that knows Transformer Engine's layers only: Mamba and hybrid models."""
    foreign: bool = False
    """Whether something that brings flags of its own loads the program (MindSpeed), or it lies in such a repository."""


def find(argv: Sequence[str], environment: Mapping[str, str] | None = None) -> Command | None:
    """The training command in `argv`, whatever stands in front of it; None if it trains nothing that is known."""
    words = _with_trainer(list(argv))
    variables = dict(environment or {})
    position = started_program(words)
    if position is None:
        return None
    index, program, length = position
    front = words[:index]
    script = words[index + length - 1]
    stack = re.search(r"(^|[_/])(mamba|hybrid)", script) is not None
    command = Command(program, script, tuple(words[index + length :]), stack_of_its_own=stack)
    return _with_front(command, front, variables)


def _with_trainer(words: list[str]) -> list[str]:
    """`quantctl launch --script` names no trainer, and has the caller's flags behind a second `--`."""
    if "launch" not in words or "--" not in words:
        return words
    at, dashes = words.index("launch"), words.index("--")
    if "--script" not in words[at:dashes]:
        return words
    return [*words[: dashes + 1], GPT, *(word for word in words[dashes + 1 :] if word != "--")]


def _with_front(command: Command, front: list[str], variables: dict[str, str]) -> Command:
    """What the words in front of the program say: VAR=value, quantctl exec or launch, torchrun's processes."""
    for index, word in enumerate(front):
        base = word.rpartition("/")[2]
        name, equals, value = word.partition("=")
        if equals and name.isidentifier():
            variables[name] = value
        elif base in LAUNCHERS and base not in ("accelerate", "deepspeed"):
            if base == "torchrun":
                command = replace(command, interpreter=word)
            command = _launched(command, front[index + 1 :], variables)
        elif word in ("exec", "launch") and index and _is_quantctl(front[index - 1], front[index + 1 :]):
            command = _staged(command, front[index + 1 :], variables)
        elif re.fullmatch(r"python[\d.]*", base):
            command = replace(command, interpreter=word)
        elif index == 0 and not known(word):
            command = replace(command, opaque=True)
    foreign = any("mindspeed" in word for word in front)
    return replace(command, environment=variables, opaque=command.opaque and not command.staged, foreign=foreign)


def _is_quantctl(word: str, behind: list[str]) -> bool:
    """Whether `WORD exec BEHIND` is quantctl's: by its name, or by its options where the name is a variable."""
    name = word.rpartition("/")[2]
    return name in ("quantctl", "quantctl.cli") or (not known(name) and behind[:1] != [] and behind[0] in _VALUED)


def _launched(command: Command, words: list[str], variables: Mapping[str, str]) -> Command:
    # without --nnodes torchrun starts one node's ranks
    found: dict[str, int | None] = {"processes": None, "nodes": None if "PET_NNODES" in variables else 1}
    for index, word in enumerate(words):
        name, equals, value = word.partition("=")
        if MANY in word:
            found = dict.fromkeys(found)
        if name in _LAUNCH_OPTIONS:
            text = value if equals else words[index + 1] if index + 1 < len(words) else ""
            found[_LAUNCH_OPTIONS[name]] = whole(text)
    return replace(command, processes=found["processes"], nodes=found["nodes"])


def _of_platform(name: str) -> dict[str, str]:
    """What `quantctl launch` sets for a script on this platform."""
    from quantctl.script.platforms import PLATFORMS

    return dict(PLATFORMS[name].variables) if name in PLATFORMS else {}


def _chosen(mode: str | None) -> dict[str, str] | None:
    """What --mode says of the sites; None for what is no mode."""
    try:
        says = selection(mode, lambda _, value: value) if mode else {}
    except QuantctlError:
        return None
    return {role: value for role, value in says.items() if role in SITES}


def _staged(command: Command, words: list[str], variables: dict[str, str]) -> Command:
    """The options of `quantctl exec` and `quantctl launch`: selectors for the copy of the tree, names, processes."""
    mode: str | None = None
    values: dict[str, str] = {}
    names: list[str] = []
    processes, clear = command.processes, True
    index = 0
    while index < len(words) and words[index] != "--":
        name, equals, value = words[index].partition("=")
        index += 1
        if name in _VALUED and not equals:
            value = words[index] if index < len(words) else ""
            index += 1
        role = _VALUED.get(name)
        if role in SITES or role == "mode":
            clear = clear and known(value)
        if role in SITES:
            values[role] = value
        elif role == "mode":
            mode = value
        elif role == "name" and known(value):
            names.append(value.rstrip("/").rpartition("/")[2])
        elif role == "env":
            variable, _, text = value.partition("=")
            variables[variable] = text
        elif role == "platform" and "--script" in words:
            variables.update(_of_platform(value))
        elif role == "processes":
            processes = whole(value)
        elif not known(name):
            clear = False
    chosen = _chosen(mode)
    selectors = chosen | values if clear and chosen is not None else None
    return replace(
        command,
        selectors=selectors,
        mode=mode if clear else None,
        staged=True,
        names=tuple(names),
        processes=processes,
    )
