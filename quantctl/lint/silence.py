"""A script in which no training was found: whether there is none, or lint did not look where one may be."""

from __future__ import annotations

from quantctl.lint.shell import Script
from quantctl.lint.starts import INTERPRETER, LAUNCHERS, LOOKERS, MENTION, WRAPPERS, base
from quantctl.lint.world import MANY, UNKNOWN, Invocation, known

_MOST = 5
"""Sentences of a kind."""
# fmt: off
_ALONE = frozenset((
    "time", "then", "do", "else", "if", "while", "until", "coproc", "command", "builtin", "timeout", "sudo",
    "env", "xargs", "bash", "sh",
))
# fmt: on


def silence(script: Script) -> None:
    """Say what was not looked into, so that "no training command found" never stands for it."""
    said = 0
    for number, line in enumerate(script.text.splitlines(), 1):
        if number in script.work.seen or line.lstrip().startswith("#") or not MENTION.search(line):
            continue
        script.work.unread[f"line {number}: a training is named where no way that was followed leads"] = None
        said += 1
        if said == _MOST:
            break
    others: dict[str, None] = {}
    for world in script.worlds:
        for invocation in world.invocations:
            if sentence := _elsewhere(invocation):
                others[sentence] = None
    for sentence in list(others)[:_MOST]:
        script.work.unread[sentence] = None


def _elsewhere(invocation: Invocation) -> str | None:
    """What a command starts that is not looked into: another program's launcher, a script that does not lie here."""
    words = [word for word in invocation.argv if not word.startswith("-")]
    name = base(invocation.argv[0])
    if name in LOOKERS or (name in _ALONE and len(words) < 2):
        return None
    if name == "quantctl" and not {"exec", "launch", "run", "sweep"} & set(words):
        return None
    if name in WRAPPERS and any(base(word) in LOOKERS for word in words[1:3]):
        return None
    place = f"line {invocation.line}: "
    if not known(invocation.argv[0]) or name == "":
        return f"{place}which command is started there is not known"
    if INTERPRETER.fullmatch(name):
        script = next((word for word in words[1:] if word.endswith(".py") or not known(word)), None)
        if script is not None or "-m" in invocation.argv:
            return f"{place}{name} starts {_shown(script or ' '.join(invocation.argv[1:4]))}, which is not looked into"
        return None
    file = next((word for word in words if word.endswith((".sh", ".bash", ".slurm", ".sbatch", ".job", ".py"))), None)
    if file is not None and name not in ("source", "."):
        return f"{place}{_shown(file)} is started, which does not lie beside the script or is not looked into"
    if name in WRAPPERS or name in LAUNCHERS or name in ("make", "just", "dlc", "sky", "gcloud", "aws", "az"):
        return f"{place}{name} starts what is not looked into"
    return None


def _shown(word: str) -> str:
    return word.replace(UNKNOWN, "…").replace(MANY, "…")[:80]
