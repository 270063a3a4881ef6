"""What patches/stock.json knows of releases: digests of their own code, by which a fork's is told apart.

python tests/support/stock_table.py NAME=TREE ...     adds or replaces the rows of these stock trees
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import filelock

from quantctl.stock.releases import row

TABLE = Path(__file__).resolve().parents[2] / "patches" / "stock.json"


def row_of(tree: Path) -> dict[str, str]:
    """The row of a stock tree."""
    return row(lambda file: (tree / file).read_bytes() if (tree / file).is_file() else None)


def read() -> dict[str, dict[str, str]]:
    return json.loads(TABLE.read_text())


def update(rows: dict[str, dict[str, str]]) -> None:
    """Put rows into the table; those of other releases stay."""
    with filelock.FileLock(f"{TABLE}.lock"):
        table = read() | rows
        in_order = sorted(table, key=lambda name: [int(part) for part in re.findall(r"\d+", name)] or [sys.maxsize])
        TABLE.write_text(json.dumps({name: table[name] for name in in_order}, indent=1) + "\n")
    Path(f"{TABLE}.lock").unlink(missing_ok=True)


if __name__ == "__main__":
    update({name: row_of(Path(tree)) for name, _, tree in (word.partition("=") for word in sys.argv[1:])})
