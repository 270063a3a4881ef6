"""docs/first.svg: what a first look at quantctl shows, from commands that are really run.

    python tests/support/first_picture.py

A copy of the installed megatron-core is patched and set, two modes are trained on the embedded text, and compared.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

from quantctl.tree.tree import find_tree

TARGET = Path(__file__).resolve().parents[2] / "docs" / "first.svg"
WIDTH = 126
SWEEP = "sweep --model llama32-1b --dataset wikipedia --training-config smoke --platform cpu"
COLORS = {"+": "green", "-": "red", "@": "cyan"}


def _run(folder: Path, command: str) -> str:
    """Standard output of `quantctl COMMAND` in `folder`."""
    words = [sys.executable, "-m", "quantctl.cli", *shlex.split(command)]
    environment = {**os.environ, "COLUMNS": str(WIDTH), "MEGATRON_LM_PATH": str(folder / "Megatron-LM")}
    done = subprocess.run(words, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def _prompt(console: Console, command: str) -> None:
    console.print(Text.assemble(("$ ", "bold blue"), (f"quantctl {command}", "bold")))


def _diff(text: str) -> list[Text]:
    """The changed lines with their files."""
    lines = [line for line in text.splitlines() if line[:1] in COLORS and not line.startswith(("---", "@@"))]
    return [Text(line, style="bold" if line.startswith("+++") else COLORS[line[0]]) for line in lines]


def _table(text: str, first: str) -> str:
    """The table of an output whose heading begins with `first`."""
    return text[text.index(f"\n{first}") + 1 :].partition("\n\n")[0]


def main() -> None:
    """Write the picture."""
    console = Console(record=True, width=WIDTH, file=open(os.devnull, "w"))  # noqa: SIM115
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(find_tree(None).root / "megatron", folder / "Megatron-LM" / "megatron")
        _run(folder, "patch")
        change = "set --linear mxfp8 --qk mxfp4"
        _prompt(console, f"{change} --diff")
        for line in _diff(_run(folder, f"{change} --diff")):
            console.print(line)
        console.print()
        _run(folder, change)
        _prompt(console, "check")
        console.print(Text(_table(_run(folder, "check"), "selector")))
        console.print()
        _prompt(console, f"{SWEEP} --mode bf16,linear_mxfp8,FA_linear_mxfp4")
        console.print(Text(_run(folder, f"{SWEEP} --mode bf16,linear_mxfp8,FA_linear_mxfp4").strip("\n")))
    console.print()  # the last line of such a picture is cut at its foot
    TARGET.write_text(console.export_svg(title="quantctl", unique_id="quantctl"))


if __name__ == "__main__":
    main()
