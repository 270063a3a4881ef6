"""Prints what became of the mutants, summed over the chunks (which may have run in several processes)."""

from __future__ import annotations

from collections import Counter


def pytest_terminal_summary(terminalreporter):
    outcomes: Counter[str] = Counter()
    for report in terminalreporter.stats.get("passed", []):
        if "mutation/" in report.nodeid and report.when == "call":
            outcomes.update({name: count for name, count in report.user_properties if isinstance(count, int)})
    if outcomes:
        terminalreporter.section(f"{sum(outcomes.values()):,} mutants")
        for outcome, count in outcomes.most_common():
            terminalreporter.write_line(f"{count:7,}  {outcome}")
