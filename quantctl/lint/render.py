"""Findings as text, as JSON, and the table of rules as a document."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from quantctl.lint.judge import Judged
from quantctl.lint.rule import Finding, Rule, Severity
from quantctl.lint.rules import FAMILIES
from quantctl.lint.world import MANY, UNKNOWN
from quantctl.output import columns, shortened

_WIDTH = 110
_LONGEST_VALUE, _SHORTEST_VALUE = 40, 16
"""Characters of a value in the table, as wide a terminal allows."""
_LONGEST = 1000
"""Characters of what is shown of a word or a sentence; a list of choices has 600."""


def readable(text: str) -> str:
    """Words that nobody knows as an ellipsis."""
    return text.replace(UNKNOWN, "…").replace(MANY, "…")


def _line(text: str) -> str:
    """The same on one line of a terminal, and not endless."""
    return shortened(readable(text), _LONGEST)


def title(judged: Judged) -> str:
    """Where the command is, what it runs, and who decides its formats."""
    case = judged.case
    where = ""
    if case.script is not None and case.invocation is not None:
        where = f"{case.script.path}:{case.invocation.line}: "
    return _line(f"{where}{case.command.script}: {judged.rules}")


def findings(found: Sequence[Finding]) -> str:
    """Each finding with its fix; the branch that it needs in brackets."""
    lines = []
    for finding in found:
        when = f" [when {', '.join(finding.when)}]" if finding.when else ""
        lines.append(f"  {finding.severity.value:<8} {finding.rule.id}: {_line(finding.message + when)}")
        lines.append(f"           fix: {finding.fix}")
    return "\n".join(lines)


def parameters(judged: Judged) -> list[dict[str, Any]]:
    """Every flag that is given or missed: value, verdict (fine, note, wrong) and the rules behind it."""
    arguments = judged.case.arguments
    about_name: dict[str, list[Finding]] = {one.name: [] for one in arguments.given}
    for finding in judged.findings:
        for name in dict.fromkeys(finding.parameters):
            about_name.setdefault(name, []).append(finding)
    rows = []
    for name, about in about_name.items():
        given = arguments.last(name)
        default = judged.case.options[name].default if name in judged.case.options else None
        rows.append(
            {
                "name": name,
                "given": given is not None,
                "value": readable(" ".join(given.values)) if given is not None else default,
                "verdict": min(about, key=lambda f: f.severity.rank).severity.verdict if about else "fine",
                "rules": [finding.rule.id for finding in about],
            }
        )
    return rows


def overview(judged: Judged) -> str:
    """The parameters as a table: verdict, name, value and, where it is not fine, the rules; within the terminal."""
    found = [(row["verdict"], _line(row["name"]), row) for row in parameters(judged)]
    left = max((len(columns([[verdict, name, ""]], "  ")) for verdict, name, _ in found), default=0)
    width = min(_LONGEST_VALUE, max(_SHORTEST_VALUE, shutil.get_terminal_size((_WIDTH, 0)).columns - left - 4))
    rows = [["verdict", "parameter", "value"]]
    for verdict, name, row in found:
        value = row["value"] if row["given"] else f"(absent: {row['value']})"
        rules = [f"<- {', '.join(row['rules'])}"] if row["rules"] else []
        rows.append([verdict, name, " ".join([textwrap.shorten(_line(value or ""), width), *rules])])
    return columns(rows, "  ")


def summary(all_judged: Sequence[Judged]) -> str:
    """`2 errors, 1 warning, 0 notes in 3 commands`."""
    counts = dict.fromkeys(Severity, 0)
    for judged in all_judged:
        for finding in judged.findings:
            counts[finding.severity] += 1
    said = ", ".join(f"{count} {severity.value}{'' if count == 1 else 's'}" for severity, count in counts.items())
    return f"{said} in {len(all_judged)} training command{'' if len(all_judged) == 1 else 's'}"


def as_data(judged: Judged) -> dict[str, Any]:
    """One command as JSON."""
    case = judged.case
    return {
        "script": None if case.script is None else str(case.script.path),
        "line": None if case.invocation is None else case.invocation.line,
        "program": readable(case.command.script),
        "formats": judged.rules,
        "findings": [
            {
                "rule": finding.rule.id,
                "severity": finding.severity.value,
                "message": readable(finding.message),
                "fix": finding.fix,
                "parameters": list(finding.parameters),
                "when": [readable(branch) for branch in finding.when],
            }
            for finding in judged.findings
        ],
        "parameters": parameters(judged),
    }


def explain(rule: Rule) -> str:
    """Everything about a rule."""
    rows = {
        "what": rule.what,
        "why": rule.why,
        "fix": rule.fix,
        "releases": rule.releases,
        "evidence": rule.evidence,
    }
    lines = [f"{rule.id} ({rule.family}, {rule.severity.value})"]
    for name, text in rows.items():
        lines += textwrap.wrap(
            text, _WIDTH, initial_indent=f"  {name:<10}", subsequent_indent=" " * 12, break_on_hyphens=False
        )
    return "\n".join(lines)


def document() -> Iterator[str]:
    """The lines of the rules' table in docs/lint.md."""
    for family, rules in FAMILIES.items():
        yield f"### {family}"
        yield ""
        yield "| rule | severity | what | why | fix | releases | evidence |"
        yield "| --- | --- | --- | --- | --- | --- | --- |"
        for rule in rules:
            cells = (rule.id, rule.severity.value, rule.what, rule.why, rule.fix, rule.releases, rule.evidence)
            yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
        yield ""


def page(text: str) -> str:
    """docs/lint.md with the rules as they are: in place of everything from the first family's heading on."""
    return text.partition("### ")[0] + "\n".join(document()).strip() + "\n"
