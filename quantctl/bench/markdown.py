"""`python -m quantctl.bench.markdown FILE`: what `bench --json` or the gate wrote, as a table for docs/bench.md."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from quantctl.bench.result import EQUAL

_COLUMNS = ("bench", "case", "subject", "ms", "ratio", "memory", "bits")


def _number(value: float) -> str:
    return f"{value:.3g}"


def _time(row: Mapping[str, Any]) -> str:
    time, failure = row.get("milliseconds"), row.get("failure")
    if failure:
        return str(failure["reason"])
    if not time:
        return ""
    return f"{_number(time['median'])} ({_number(time['low'])} - {_number(time['high'])})"


def _ratio(ratio: Mapping[str, Any]) -> str:
    verdict = {True: "", False: ", **missed**", None: ""}[ratio["met"]]
    bound = "" if ratio["limit"] is None else f" ({'>=' if ratio['at_least'] else '<='} {ratio['limit']:g}{verdict})"
    return f"{_number(ratio['value'])} {ratio['name']}{bound}"


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    equal = row.get("facts", {}).get(EQUAL)
    memory = f"{row['peak_bytes'] / 2**20:.4g} MiB" if row.get("peak_bytes") else ""
    bits = "" if equal is None else "equal" if equal else "**differ**"
    ratios = "<br>".join(map(_ratio, row.get("ratios") or ()))
    return row["bench"], row["case"], row["subject"], _time(row), ratios, memory, bits


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def tables(document: Mapping[str, Any]) -> str:
    """One table; columns in which no row says anything are left out."""
    rows = [_cells(row) for row in document["rows"]]
    used = [i for i, name in enumerate(_COLUMNS) if name == "subject" or any(row[i] for row in rows)]
    device = document["device"]
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items() if version)
    head = f"{device['name']}, {device['threads']} threads, {document['date']}; {versions}."
    lines = [_line([_COLUMNS[i] for i in used]), _line(["---"] * len(used))]
    return "\n".join([head, "", *lines, *(_line([row[i] for i in used]) for row in rows)]) + "\n"


if __name__ == "__main__":
    print(tables(json.loads(Path(sys.argv[1]).read_text())), end="")
