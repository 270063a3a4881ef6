"""From a command line or a script to findings: every rule on every way, and what holds on all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from quantctl.errors import QuantctlError
from quantctl.lint import shell
from quantctl.lint.case import Case, Setting
from quantctl.lint.command import Command, find
from quantctl.lint.home import parses_itself
from quantctl.lint.program import GPT, OTHER, TRAINS
from quantctl.lint.rule import Finding, Severity
from quantctl.lint.rules import RULES
from quantctl.lint.shell import Script
from quantctl.lint.silence import silence
from quantctl.lint.who import who_rules
from quantctl.lint.world import Invocation, World
from quantctl.outside.records import BadRecord, open_regular

_LARGEST = 4 * 2**20
"""Bytes of a script."""
_MOST_COMMANDS = 100
_MOST_CASES = 150
"""The same commands counted on every way that leads to them."""
_HINT = "give a shell script, or the training command behind --"
# fmt: off
_OTHER_LANGUAGES = {
    ".py": "Python", ".ipynb": "a notebook", ".yaml": "YAML", ".yml": "YAML", ".json": "JSON", ".toml": "TOML",
    ".mk": "a makefile", ".dockerfile": "a Dockerfile", ".nix": "Nix", ".j2": "a template",
}
# fmt: on


@dataclass(frozen=True)
class Judged:
    """One training command, with the findings of all ways that lead to it."""

    case: Case
    """On the way nearest to the script's defaults."""
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> int:
        return sum(finding.severity is Severity.ERROR for finding in self.findings)

    @property
    def rules(self) -> str:
        """A sentence on who decides the products' formats."""
        return who_rules(self.case)[1]


def judge_case(case: Case) -> list[Finding]:
    """What all rules say about one command."""
    found = []
    line = None if case.invocation is None or case.script is None else case.invocation.line
    for rule in RULES.values():
        for hit in rule.check(case):
            severity = hit.severity or rule.severity
            if case.command.foreign and severity is Severity.ERROR:
                severity = Severity.WARNING  # it holds if that parser keeps Megatron-LM's checks
            found.append(Finding(rule, severity, hit.message, hit.parameters, hit.fix or rule.fix, line))
    return found


def case_of(argv: Sequence[str], setting: Setting) -> Case | None:
    """A command that is about to run, or pretrain_gpt.py's arguments alone; None if it trains nothing."""
    command = Command(GPT, GPT, tuple(argv)) if argv and argv[0].startswith("--") else find(argv)
    case = None if command is None else Case(_at_home(command, Path.cwd()), setting)
    return case if case is not None and _is_megatron(case) else None


def judge_command(argv: Sequence[str], setting: Setting) -> Judged | None:
    """Judge such a command; None if it trains nothing."""
    case = case_of(argv, setting)
    return None if case is None else Judged(case, _sorted(judge_case(case)))


def read_script(path: Path) -> Script:
    """Every way through a script. Raises QuantctlError for what is none, is too large, or is nested too deeply."""
    try:
        with open_regular(path, _LARGEST, pipes=True) as file:
            raw = file.read(_LARGEST + 1)
        if len(raw) > _LARGEST:  # of a pipe
            raise BadRecord(path, f"it has more than the {_LARGEST:,} bytes that are read")
        text = raw.decode("utf-8", "replace")
        if language := _other_language(path, text):
            return Script(path, text, work=shell.unread(f"it is {language}, and only shell scripts are read"))
        return shell.read(text, path)
    except BadRecord as error:
        raise QuantctlError(error.message, _HINT) from None
    except RecursionError:
        raise QuantctlError(f"{path} is nested too deeply to be read", _HINT) from None


def _other_language(path: Path, text: str) -> str | None:
    """What a launcher is that no shell runs; None for a shell script."""
    first = text.partition("\n")[0]
    if first.startswith("#!"):
        return "Python" if "python" in first else None
    if path.name.lower().startswith(("dockerfile", "containerfile")):
        return "a Dockerfile"
    if path.name.lower() in ("makefile", "gnumakefile"):
        return "a makefile"
    return _OTHER_LANGUAGES.get(path.suffix.lower())


def judge(script: Script, setting: Setting) -> list[Judged]:
    """Judge the training commands of a script that was read; of more than `_MOST_COMMANDS`, the script says so."""
    ways: dict[int, list[tuple[World, Case]]] = {}
    count = 0
    for world in script.worlds:
        for case in _cases(script, world, setting):
            assert case.invocation is not None
            count += 1
            if count > _MOST_CASES:
                script.work.note(f"it comes to training commands more than {_MOST_CASES} times on all ways through it")
                break
            if case.invocation.line not in ways and len(ways) == _MOST_COMMANDS:
                script.work.note(f"it has more than {_MOST_COMMANDS} training commands")
                break
            ways.setdefault(case.invocation.line, []).append((world, case))
    if not ways:
        silence(script)
    return [_over_all(found) for _, found in sorted(ways.items())]


def _cases(script: Script, world: World, setting: Setting) -> Iterable[Case]:
    sets_tree = any(_sets_tree(one) for one in world.invocations)
    for index, invocation in enumerate(world.invocations):
        command = find(invocation.argv, invocation.environment)
        if command is None:
            continue
        group = invocation.group
        after = tuple(one for one in world.invocations[index + 1 :] if not group or one.group != group)
        beside = Path.cwd() if script.path is None else script.path.absolute().parent
        case = Case(_at_home(command, beside), setting, invocation, script, after, sets_tree)
        if _is_megatron(case):
            yield case


def _at_home(command: Command, beside: Path) -> Command:
    """The command with what the place of its program says of it."""
    own = command.program in (GPT, OTHER) and not command.foreign and parses_itself(command.script, beside)
    return replace(command, foreign=True) if own else command


def _is_megatron(case: Case) -> bool:
    """Whether a program that nobody knows is one of Megatron's, by its arguments."""
    return case.command.program != OTHER or sum(case.arguments.last(name) is not None for name in TRAINS) > 2


def _sets_tree(invocation: Invocation) -> bool:
    """Whether a command changes the selectors of a tree: quantctl itself, or whatever names their variable."""
    words = [word.rpartition("/")[2] for word in invocation.argv]
    if any("quantctl" in word for word in words) and {"set", "restore", "undo"} & set(words):
        return True
    return any("custom_quant_type" in word for word in invocation.argv) and words[0] not in (
        "echo",
        "grep",
        "printf",
        "cat",
    )


def _over_all(ways: list[tuple[World, Case]]) -> Judged:
    """What holds on every default way keeps its severity; what needs a branch says which, and is a warning at most.

    A default way is one that needs no setting of the caller's; if none comes to the command, all ways count.
    """
    default = [way for way in ways if not way[0].assumed] or ways
    found: dict[tuple[str, str], list[tuple[World, Finding]]] = {}
    for world, case in ways:
        for finding in judge_case(case):
            found.setdefault((finding.rule.id, finding.message), []).append((world, finding))
    whole = [id(world) for world, _ in default]
    findings = []
    for hits in found.values():
        world, finding = hits[0]
        if not set(whole) <= {id(one) for one, _ in hits}:
            mild = Severity.WARNING if finding.severity is Severity.ERROR else finding.severity
            finding = replace(finding, severity=mild, when=(*world.assumed, *world.branches)[-2:])
        findings.append(finding)
    return Judged(default[0][1], _sorted(findings))


def _sorted(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda finding: finding.severity.rank))
