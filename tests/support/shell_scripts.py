"""Random scripts of words, arrays, expansions, tests, loops, functions and here-documents, for bash and for lint alike.

    python tests/support/shell_scripts.py 5000 [SEED]      compares lint's reading of as many with bash itself

Every script ends in `train WORDS`; bash runs it in an empty folder with an empty environment and no program in reach.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from quantctl.lint import shell
from quantctl.lint.world import MANY, UNKNOWN

NAMES = ("A", "B", "C", "N", "M")
LISTS = ("L", "K")
TEXTS = ("x", "y z", "--a=1", "a/b.c/d.e", "", "  lead", "tail ", "p,q,r", "Ab-Cd", "aXbXc", "it's", 'say "hi"', "$A", "7",  # noqa: E501
         "a\\b", "x;y", "tab\there", "-5", "__", "100%")  # fmt: skip
PATTERNS = ("*", "?", "a*", "*/", ".*", "*.", "[a-c]", "[!a-z]", "X", "*X", "[[:upper:]]", "x", "/", ",", '"*"', "$B")


class Script:
    """One script from one seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.depth = 0

    def one(self, *choices):
        return self.random.choice(choices)

    def few(self, make, most: int = 4) -> list[str]:
        return [make() for _ in range(self.random.randint(1, most))]

    # ---- words ----

    def quoted(self, text: str) -> str:
        kind = self.one("single", "double", "ansi", "escaped" if "\n" not in text else "single")
        if kind == "single":
            return "'" + text.replace("'", "'\\''") + "'"
        if kind == "double":
            return '"' + re.sub(r'([\\$`"])', r"\\\1", text) + '"'
        if kind == "ansi":
            return "$'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\t", "\\t") + "'"
        return re.sub(r"([^A-Za-z0-9_./=,-])", r"\\\1", text) or "''"

    def operand(self) -> str:
        return self.one(
            "w", "x y", '"u v"', "'s t'", "$A", '"$B"', "${C}z", "", "a\\ b", "{", '"{x}"', "$((1 + 2))", "~x"
        )

    def parameter(self) -> str:
        name = self.one(*NAMES)
        return self.one(
            lambda: f"${name}",
            lambda: f"${{{name}}}",
            lambda: f"${{{name}{self.one(':-', '-', ':+', '+')}{self.operand()}}}",
            lambda: f"${{Z{self.one(':-', '-', ':+', '+', ':=')}{self.operand()}}}",
            lambda: f"${{{name}{self.one('#', '##', '%', '%%')}{self.one(*PATTERNS)}}}",
            lambda: (
                f"${{{name}{self.one('/', '//', '/#', '/%')}{self.one(*PATTERNS)}/{self.one('', 'R', '$B', 'r s')}}}"
            ),
            lambda: f"${{{name}{self.one('^', '^^', ',', ',,')}}}",
            lambda: f"${{{name}:{self.one('0', '1', ' -2', '2', '$N', 'N')}{self.one('', ':1', ':2', ':N')}}}",
            lambda: f"${{#{name}}}",
            lambda: f"${{!{self.one('P', 'Q')}}}",
            self.listed,
            lambda: f"$(({self.arithmetic()}))",
            self.substitution,
        )()

    def listed(self) -> str:
        name, at = self.one(*LISTS), self.one("@", "@", "*")
        return self.one(
            f"${{{name}[{at}]}}",
            f"${{{name}[{self.one('0', '1', '-1', 'N', '$N', '9')}]}}",
            f"${{#{name}[{at}]}}",
            f"${{{name}[{at}]:{self.one('0', '1', ' -1')}{self.one('', ':1', ':2')}}}",
            f"${{{name}[{at}]{self.one('#', '%')}{self.one(*PATTERNS)}}}",
            f"${{{name}[{at}]/{self.one(*PATTERNS)}/{self.one('', 'R')}}}",
            f"${{!{name}[{at}]}}",
            f"${{{name}[{at}]{self.one('^', '^^')}}}",
            f"${name}",
            f'${{{name}[@]+"${{{name}[@]}}"}}',
        )

    def substitution(self) -> str:
        if self.depth > 1:
            return "x"
        self.depth += 1
        inner = self.one(
            lambda: f"echo {self.word()} {self.word()}",
            lambda: f"printf '%s-%s' {self.word()} {self.word()}",
            lambda: f"echo -n {self.word()}",
            lambda: f"cat <<E\n{self.line()}\nE\n",
            lambda: f"g {self.word()}",
            lambda: "A=inner; echo $A",
        )()
        self.depth -= 1
        return f"$({inner})"

    def line(self) -> str:
        return self.one("plain text", "a $A b", "${B} \\$A 'q' \"r\"", "x\\y \\\\ $((N + 1))", "  two  blanks ")

    def word(self) -> str:
        parts = []
        for _ in range(self.one(1, 1, 1, 2, 3)):
            parts.append(
                self.one(
                    lambda: self.quoted(self.one(*TEXTS)),
                    lambda: self.one("w", "--f", "a.b", "x=1", "-", "{a,b}", "{1..3}", "p{q,r}s", "{x}", "{a,{b,c}}"),
                    self.parameter,
                    lambda: f'"{self.parameter()}"',
                    lambda: f'"{self.one("", "i ", "-")}{self.parameter()}{self.one("", " ", "/")}{self.parameter()}"',
                )()
            )
        return "".join(parts)

    def arithmetic(self) -> str:
        def atom() -> str:
            return self.one("1", "2", "7", "N", "M", "$N", "${N}", "0x10", "010", "(N + 1)", "-3", "2#101")

        return self.one(
            lambda: f"{atom()} {self.one('+', '-', '*', '/', '%', '**', '<<', '>>', '&', '|', '^')} {atom()}",
            lambda: f"{atom()} {self.one('<', '>', '<=', '>=', '==', '!=', '&&', '||')} {atom()}",
            lambda: f"{atom()} ? {atom()} : {atom()}",
            lambda: f"{atom()} + {atom()} * {atom()} - {atom()}",
            lambda: f"{self.one('!', '-', '~', '+')}{self.one('N', '3', '(M)')}",
            lambda: f"N {self.one('+=', '-=', '*=', '=')} {atom()}",
            lambda: self.one("N++", "++N", "M--", "--M", "N++ + ++M", "N = 1, M = N + 2"),
        )()

    # ---- statements ----

    def test(self) -> str:
        return self.one(
            lambda: f'[ {self.one("-z", "-n")} "{self.parameter()}" ]',
            lambda: f'[ "${self.one(*NAMES)}" {self.one("=", "!=")} {self.quoted(self.one(*TEXTS))} ]',
            lambda: f'[[ "$A" {self.one("==", "!=")} {self.one(*PATTERNS)} ]]',
            lambda: f"[[ $A == $B {self.one('&&', '||')} -n $C ]]",
            lambda: f"[[ ! $N -{self.one('lt', 'gt', 'eq', 'ne', 'le', 'ge')} {self.one('3', 'M', '7')} ]]",
            lambda: f"[ $N -{self.one('lt', 'gt', 'eq', 'ne', 'le', 'ge')} 3 ]",
            lambda: f"(({self.arithmetic()}))",
            lambda: self.one("true", "false", "! true", "h"),
        )()

    def statement(self) -> str:
        if self.depth > 2:
            return f"{self.one(*NAMES)}={self.word()}"
        self.depth += 1
        made = self.one(
            lambda: f"{self.one(*NAMES[:3])}{self.one('=', '=', '+=')}{self.word()}",
            lambda: f"{self.one(*NAMES[:3])}{self.one('=', '=', '+=')}{self.word()}",
            lambda: f"{self.one('N', 'M')}=$(({self.arithmetic()}))",
            lambda: f"{self.one(*LISTS)}{self.one('=', '+=')}({' '.join(self.few(self.word))})",
            lambda: f"{self.one(*LISTS)}=()",
            lambda: f"{self.one(*LISTS)}[{self.one('0', '1', 'N')}]={self.word()}",
            lambda: (
                f"if {self.test()}; then {self.statement()}\n{self.one('', f'elif {self.test()}; then A=e; ')}"
                f"else {self.statement()}\nfi"
            ),
            lambda: f"{self.test()} {self.one('&&', '||')} {self.statement()}",
            lambda: f"{self.test()} && {self.one('A', 'B')}=yes || {self.one('A', 'B')}=no",
            lambda: (
                f"case {self.one('$A', '$B', 'x', chr(34) + '$C' + chr(34))} in {self.one(*PATTERNS)}) {self.statement()}\n;; "  # noqa: E501
                f"{self.one('x|y*', 'a/*', chr(34) + chr(34))}) B=two;; *) {self.statement()}\n;; esac"
            ),
            lambda: (
                f"for I in {' '.join(self.few(self.word, 3))}; do {self.one('A+=$I', 'L+=($I)', 'B=$I', 'N=$((N + 1))')}; "  # noqa: E501
                f"{self.one('', '[[ $I == x ]] && break; ', '[[ $I == x ]] && continue; ')}K+=(i); done"
            ),
            lambda: (
                f"for ((I = 0; I < {self.one('2', '3', 'N')} && I < 5; I++)); do L+=($I {self.one('x', '$A')}); done"
            ),
            lambda: f"J=0; while [ $J -lt {self.one('2', '3')} ]; do A+=$J; J=$((J + 1)); done",
            lambda: "J=0; until ((J >= 2)); do ((J++)); B=$J$B; done",
            lambda: f"f {self.word()} {self.word()}",
            lambda: f"eval {self.quoted(self.statement())}",
            lambda: 'eval "C=\\$A"',
            lambda: f"read -r A B <<< {self.word()}",
            lambda: f"read -ra L <<< {self.word()}",
            lambda: f"IFS=, read -ra K <<< {self.word()}",
            lambda: f"read -r -d '' C <<{self.one('E', chr(39) + 'E' + chr(39))}\n{self.line()}\n{self.line()}\nE\n",
            lambda: f"mapfile -t L <<< {self.word()}",
            lambda: f"printf -v C '%s/%s' {self.word()} {self.word()}",
            lambda: (
                f'set -- {" ".join(self.few(self.word))}; A=$1; B="${{2:-none}}"; C="$*"; L=("$@"); shift; K=("$@" $#)'
            ),
            lambda: "(A=sub; B=sub)",
            lambda: f"unset {self.one('A', 'L', 'B')}",
            lambda: f"{{ {self.statement()}\n}}",
            lambda: f"export A={self.word()} ",
            lambda: f"let 'N = {self.arithmetic()}'",
            lambda: self.one("IFS=,", "IFS=:", r"IFS=$'\n'", "IFS=/", "IFS=X", "IFS=", "IFS=$' \\t,'"),
            lambda: f"A={self.word()} true",
            lambda: f"k {self.word()} {self.word()} {self.word()}",
            lambda: f"cat <<-E | while read -r line; do A+=$line; done\n\t{self.line()}\n\tE\n",
            lambda: f'while read -r C; do A+="$C|"; done <<E\n{self.line()}\n{self.line()}\nE\n',
            lambda: f"echo {self.word()} > /dev/null; set {self.one('-e', '+e', '-u', '-eu')}; set +eu",
            lambda: f"if f {self.word()} x && ! h; then {self.statement()}\nfi",
            lambda: f"declare {self.one('', '-a', '-r')} W{self.random.randint(0, 10**9)}={self.word()}",
            lambda: f"B=`echo {self.one('$A', 'x y', chr(34) + '$A' + chr(34))}`",
            lambda: 'A=${B:?}; C="${L[*]:1}"; B="$(echo "${K[@]}")"',
            lambda: "for I; do A+=$I; done",
            lambda: f"case $N in [0-3]) {self.statement()}\n;; [4-9]*) {self.statement()}\n;; esac",
            lambda: f"f2() {{ {self.statement()}\nlocal N=5; {self.statement()}\n}}; f2 {self.word()}",
            lambda: f"bash -c {self.quoted('A=1; train inner $A')}",
            lambda: "trap 'A=1' USR1; : ${Z2:=x y}; A+=$Z2",
            lambda: "true | A=pipe; { A+=z; } > /dev/null",
            lambda: "unset 'L[0]'" if self.random.random() < 0.3 else "unset 'L[-1]'",
            lambda: (
                "L+=([9]=x); M=3"
                if self.random.random() < 0.3
                else "declare -A D=([a]=1 [b]='x y'); A=${D[a]}; B=${D[b]}"
            ),
        )()
        self.depth -= 1
        return made

    def text(self) -> str:
        head = [f"{name}={self.quoted(self.one(*TEXTS))}" for name in NAMES[:3]]
        head += [f"N={self.one('1', '3', '7')}", "M=2", "P=A", "Q='L[1]'"]
        head += [f"L=({' '.join(self.few(lambda: self.quoted(self.one(*TEXTS))))})", "K=(k1 'k 2' --k=3)"]
        head += ['f() { local A=$1; B="$2"; shift; C="$#:$*"; L+=("$@" "$A"); }', "g() { local A=$1; echo \"g$A$N\"; }",
                 "h() { [[ $N == 3 ]]; }", 'k() { A="${@:2}"; L=("${@:2:1}" "$*"); B="$#$3$4"; return 1; }']  # fmt: skip  # noqa: E501
        body = self.few(self.statement, 5)
        return "\n".join([*head, *body, f"train {' '.join(self.few(self.word, 5))}", ""])


def from_bash(scripts: list[str]) -> list[list[str] | None]:
    """The words of the last `train` of each script, by bash; None where it comes to none."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "empty").mkdir()
        (folder / "cat").mkdir()
        for index, script in enumerate(scripts):
            (folder / f"{index}.sh").write_text(script)
        # cat is the one program that the scripts use: a function of builtins stands for it
        (folder / "env").write_text(
            'train() { { (($#)) && printf \'%s\\0\' "$@"; } > ../"${0##*/}".out; }\n'
            "cat() { local IFS= line; while read -r line; do printf '%s\\n' \"$line\"; done; }\n"
        )
        driver = f"cd {folder}/empty; for ((i = 0; i < {len(scripts)}; i++)); do /bin/bash ../$i.sh; done"
        environment = {"PATH": str(folder / "empty"), "BASH_ENV": str(folder / "env")}
        subprocess.run(["/bin/bash", "--norc", "-c", f"ulimit -t 600; {driver}"], env=environment, capture_output=True,
                       stdin=subprocess.DEVNULL, check=False)  # fmt: skip
        outputs = [folder / f"{index}.sh.out" for index in range(len(scripts))]
        return [out.read_bytes().decode("latin-1").split("\0")[:-1] if out.exists() else None for out in outputs]


def from_lint(script: str) -> tuple[list[list[str]], bool]:
    """The words of the last `train` on every way, and whether lint says that it did not read all."""
    found = shell.read(script)
    ways = []
    for world in found.worlds:
        trains = [one.argv[1:] for one in world.invocations if one.argv[0] == "train"]
        ways += [list(trains[-1])] if trains else []
    return ways, bool(found.cut or found.work.unread or found.unreadable)


def agrees(read: list[str], real: list[str]) -> bool:
    """Whether words with unknown parts can be the real ones: UNKNOWN any text, MANY any words."""

    def pattern(word: str) -> str:
        return "".join({UNKNOWN: "[^\0]*", MANY: "(?s:.*)"}.get(sign, re.escape(sign)) for sign in word)

    # a word of MANY alone may be no word at all
    made = "".join(f"(?:{pattern(word)}\0)?" if set(word) == {MANY} else f"{pattern(word)}\0" for word in read)
    return re.fullmatch(made, "".join(f"{word}\0" for word in real)) is not None


def compare(scripts: list[str]) -> tuple[Counter[str], list[tuple[str, list[list[str]], list[str] | None]]]:
    """How often lint reads them as bash does, and the differences."""
    counts: Counter[str] = Counter()
    differences = []
    for script, real in zip(scripts, from_bash(scripts), strict=True):
        ways, unread = from_lint(script)
        if real is None:
            verdict = "no command" if not ways or unread else "bash stops before"
        elif any(way == real for way in ways):
            verdict = "same"
        elif any(agrees(way, real) for way in ways):
            verdict = "same as far as known"
        elif unread:
            verdict = "said to be not read"
        else:
            verdict = "different"
            differences.append((script, ways, real))
        counts[verdict] += 1
    return counts, differences


if __name__ == "__main__":
    count, seed = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    total: Counter[str] = Counter()
    wrong = []
    for start in range(seed, seed + count, 500):
        counts, differences = compare([Script(n).text() for n in range(start, min(start + 500, seed + count))])
        total += counts
        wrong += differences
    for script, ways, real in wrong[: int(os.environ.get("SHOW", "10"))]:
        print("-" * 60, script, f"bash: {real}", f"lint: {ways}", sep="\n")
    print(dict(total))
    sys.exit(bool(wrong))
