"""Scripts read without running them, against bash that runs them: the arguments of the command `train`."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shell_scripts import Script, compare

from quantctl.lint import shell
from quantctl.lint.world import MANY, UNKNOWN

WORDS = {
    "quotes": """train 'a b' "c d" e\\ f "g"h'i' $'j\\tk' "" "\\$x" '$x'""",
    "variables": """A=1; B="x y"; train $A "$B" $B ${A}z "${B}z" "-$A-" "a $B c" """,
    "assignment does not split": 'A=\'x y\'; B=$A; C=$B$A; train "$B" "$C"',
    "defaults": 'A=${A:-7}; B="${B:-a b}"; : "${C:=4}"; D=${A:-9}; train $A "$B" $D ${E:-$A} ${F:-} "${G-h}"',
    "positional defaults": 'A=${1:-x}; B="${2:-y z}"; train $A "$B" "${3:-}"',
    "arrays": 'A=(a "b c" --d=e # comment\n f)\nA+=(g "h i"); train "${A[@]}" ${A[@]} "${A[0]}" "$A" "x${A[@]}y"',
    "array of nothing": 'A=(); train a "${A[@]}" b ${A[@]+"${A[@]}"}',
    "array made of arrays": 'A=(a "b c"); B=("${A[@]}" d ${A[@]}); train "${B[@]}"',
    "continuations": "train a \\\n  b \\\n  --c=d\n",
    "a string of options": 'O=" \\\n  --a 1 \\\n  --b 2 "; train $O',
    "arithmetic": 'N=3; M=$((N * 2 + 1)); train $M $(($N*$M)) $((7 / 2)) $((-7 / 2)) $((7 % 4)) "$((M > N))"',
    "case": 'M=fast; case "$M" in slow) A=1 ;; f*) A=2 ;; *) A=3 ;; esac; train $A',
    "if": 'M=a; if [[ "$M" == b ]]; then A=1; elif [ "$M" = a ] && [[ -n "$M" ]]; then A=2; else A=3; fi; train $A',
    "if with numbers": "N=4; if ((N > 3)); then A=big; fi; if [ $N -lt 4 ]; then A=small; fi; train $A",
    "patterns": 'M=a/b.py; if [[ "$M" == *.py ]]; then A=1; fi; if [[ "$M" == "*.py" ]]; then A=2; fi; train $A',
    "and, or": 'A=1; [[ -z "$B" ]] && A=2; [[ "$A" == 2 ]] || A=3; train $A',
    "not": 'A=1; if ! [[ "$A" == 2 ]]; then B=x; fi; train $B',
    "no arguments": "for ((i = 0; i < 5 && $# > 0; i++)); do A[i]=$1; shift; done; [[ $# -gt 0 ]] && exit 3; train x",
    "functions": 'f() { local a=$1; shift; train "$a" "$@"; }; a=out; f in "x y" z; train $a',
    "return": "f() { if [[ $1 == x ]]; then return; fi; A=y; }; A=n; f x; train $A",
    "exit": "train a; exit 0; train b",
    "inner shell": "A='x y'; bash -c \"train $A 'p q'\"",
    "eval": 'C=\'train "a b" c\'; eval "$C"',
    "prefix": "A=1; A=2 train $A; env B=3 train b",
    "loop over one": "for A in 'x y'; do train \"$A\"; done",
    "pipe": "A=1; train $A | cat; train b 2>&1 | tee /dev/null",
    "subshell": "A=1; (train $A); train 2",
    "exec": "exec train a b",
    "redirection": "train a > /dev/null 2>&1 b",
    "crlf": "A=1\r\ntrain $A x\r\n",
    "unset": "A=1; unset A; train x$A",
    "export": "export A=${A:-1} B; train $A",
}
"""What every way through the script knows in full: bash is the oracle."""


def _bash(script: str, folder: Path) -> list[list[str]]:
    """The arguments of each call of `train`, from bash itself."""
    record, train = folder / "record", folder / "bin" / "train"
    train.parent.mkdir()
    train.write_text(f"#!/bin/bash\nprintf '%s\\0' \"$@\" >> {record}\nprintf '\\n\\0' >> {record}\n")
    train.chmod(0o755)
    environment = {"PATH": f"{train.parent}:/usr/bin:/bin"}
    text = script.replace("\r\n", "\n")
    subprocess.run(["bash", "-c", text], env=environment, cwd=folder, capture_output=True, timeout=20)
    calls = record.read_text().split("\n\0") if record.exists() else []
    return [call.split("\0")[:-1] for call in calls[:-1]]


def _read(script: str) -> list[list[str]]:
    """The same of the way that needs no setting of the caller's."""
    world = min(shell.read(script).worlds, key=lambda world: (len(world.assumed), len(world.branches)))
    commands = [list(one.argv) for one in world.invocations if "train" in one.argv[:3]]
    return [argv[argv.index("train") + 1 :] for argv in commands]


@pytest.mark.parametrize("script", WORDS.values(), ids=WORDS)
def test_bash_agrees(script, tmp_path):
    assert _read(script) == _bash(script, tmp_path)


UNKNOWNS = {
    "from the environment": ('train --a $A --b "$B" --c=$C/x', ["--a", MANY, "--b", UNKNOWN, f"--c={MANY}/x"]),
    "argument without default": ('A=$1; train "$A"', [UNKNOWN]),
    "all arguments": ('train "$@"', [MANY]),
    "command substitution": ('train $(hostname) "$(nproc)"', [MANY, UNKNOWN]),
    "read from a file": ('read -r A < f; train "$A"', [UNKNOWN]),
    "what a loop changed": ('A=1; while read -r l; do A="$A $l"; done; train "$A"', [UNKNOWN]),
    "loop over files": ('for A in d/*; do train "$A"; done', [UNKNOWN]),
    "operators": ('A=$B; train "${A##*/}" "${#A}" "${!A}"', [UNKNOWN] * 3),
    "words that the grammar tears apart": ("train a$1_$A.txt b", [f"a{MANY}", "b"]),
    "an assignment that the grammar tears apart": ('B=x; B=${A^}${B:$N:1}\ntrain "$B"', [UNKNOWN]),
    "a default set in a value that is not read": ('declare W=1${Z:={}; train "i${Z:+b}"', [f"i{UNKNOWN}"]),
}
"""Script -> arguments: what cannot be known is never guessed, and what is beside it stays."""


@pytest.mark.parametrize(("script", "expected"), UNKNOWNS.values(), ids=UNKNOWNS)
def test_unknown_is_unknown(script, expected):
    (found,) = _read(script)
    assert [
        word.startswith(wish.rstrip(MANY)) if wish[0] == "a" else word == wish
        for word, wish in zip(found, expected, strict=True)
    ] == [True] * len(expected)


def _ways(script: str) -> set[tuple[str, ...]]:
    return {one.argv[1:] for world in shell.read(script).worlds for one in world.invocations if one.argv[0] == "train"}


WAYS = {
    "a default that can be changed": (
        "M=${M:-a}; case $M in a) A=1;; b) A=2;; *) exit 1;; esac; train $A",
        {("1",), ("2",)},
    ),
    "an argument": ('if [[ "$1" == x ]]; then A=1; else A=2; fi; train $A', {("1",), ("2",)}),
    "branches that hang together": (
        "M=${M:-a}; case $M in a|b) A=1;; c) A=2;; esac; case $M in a) B=1;; b) B=2;; c) B=3;; esac; train $A $B",
        {("1", "1"), ("1", "2"), ("2", "3")},
    ),
    "a comparison twice": (
        'if [ "$1" = x ]; then A=1; else A=2; fi; if [ "$1" = x ]; then A+=1; fi; train $A',
        {("11",), ("2",)},
    ),
    "a branch that ends": ("if [[ ! -f x ]]; then exit 1; fi; train a", {("a",)}),
}


@pytest.mark.parametrize(("script", "expected"), WAYS.values(), ids=WAYS)
def test_every_way_through_a_script(script, expected):
    assert {way for way in _ways(script) if MANY not in "".join(way)} == expected


def test_many_branches_stay_few_worlds():
    branches = "\n".join(f'if [[ "$A{i}" == x ]]; then B+=({i}); fi' for i in range(40))
    assert 1 <= len(shell.read(f"B=()\n{branches}\ntrain").worlds) <= 16


def test_a_script_that_sources_itself_ends(tmp_path):
    script = tmp_path / "a.sh"
    script.write_text("source a.sh\nf() { f; f; }\nf\ntrain x\n")
    assert shell.read(script.read_text(), script).worlds


FRAGMENTS = (
    *(
        "if ",
        "then\n",
        "fi\n",
        "case $A in ",
        "esac\n",
        "for i in 1 2; do ",
        "done\n",
        "A=(",
        ")",
        "${A[@]}",
        "${A:-",
        "}",
    ),
    *(
        "$((",
        "))",
        "<<EOF\n",
        "EOF\n",
        "f() {",
        "}\n",
        "bash -c '",
        "'",
        "eval ",
        "train ",
        "\n",
        "&&",
        "|",
        "local A=$1\n",
    ),
)
RUBBISH = st.one_of(
    st.text(max_size=60),
    st.text(alphabet="$\"'`(){}[]<>|&;\\#!=+-*@?~ \n\tAB1_:/,.", max_size=60),
    st.lists(st.sampled_from(FRAGMENTS), max_size=40).map("".join),
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(RUBBISH)
def test_rubbish_is_read_without_an_error(text):
    assert shell.read(text).worlds


def test_random_scripts_against_bash():
    """`make words` compares 10,000; QUANTCTL_SHELL_SCRIPTS says how many."""
    count = int(os.environ.get("QUANTCTL_SHELL_SCRIPTS", "120"))
    differences = [one for start in range(0, count, 500) for one in _differences(start, min(500, count - start))]
    assert not differences


def _differences(seed: int, count: int):
    return compare([Script(n).text() for n in range(seed, seed + count)])[1]
