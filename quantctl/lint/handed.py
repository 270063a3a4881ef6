"""Text that a command has another shell run: `bash -c`, `ssh`, `tmux`, `sbatch --wrap`, here-documents, files.

What is not understood here is said: a training may be in it.
"""

from __future__ import annotations

import re

from quantctl.lint.inner import Reads, in_inner_shell, script_text
from quantctl.lint.redirections import Redirections
from quantctl.lint.starts import MENTION
from quantctl.lint.starts import base as _base
from quantctl.lint.world import MANY, UNKNOWN, Invocation, World, known

SHELLS = ("bash", "sh", "zsh", "dash")
_SUBMIT = ("sbatch", "qsub", "bsub", "salloc", "msub")
_SSH_VALUES = "bcDEeFIiJLlmOopQRSWw"
_SCRIPT_NAME = re.compile(r".*\.(?:sh|bash|slurm|sbatch|job|pbs|lsf|sub)")


def hand_over(
    reader: Reads, invocation: Invocation, given: Redirections, world: World, depth: int
) -> list[World] | None:
    """The worlds after a command that has text run or written; None if it is any other command."""
    argv = invocation.argv
    name = _base(argv[0])
    text = given.text if given.text is not None else world.input
    if name in ("cat", "tee", "echo", "printf"):
        return _written(reader, invocation, given, text, world, depth)
    found = None if text is not None and _reads_script(argv) else _text_of(argv)
    if found is not None:
        front, inner = found
        return _run(reader, front, inner, invocation, world, depth)
    if text is not None and _reads_script(argv):
        world.invocations += (invocation,)
        return _run(reader, argv if name not in (*SHELLS, *_SUBMIT) else (), text, invocation, world, depth)
    return _file(reader, invocation, world, depth)


def _run(
    reader: Reads, front: tuple[str, ...], text: str, invocation: Invocation, world: World, depth: int
) -> list[World]:
    if MANY in text or not text.replace(UNKNOWN, "").strip():
        if text.strip():
            unread(world, invocation, f"what {_base(invocation.argv[0])} runs there is not known")
        world.status = None
        return [world]
    world.prints(UNKNOWN)
    return in_inner_shell(reader, front, text, invocation, world, depth)


def unread(world: World, invocation: Invocation, why: str) -> None:
    world.work.unread[f"line {invocation.line}: {why}"] = None


# ---- text among the words ----


def _text_of(argv: tuple[str, ...]) -> tuple[tuple[str, ...], str] | None:
    """The words in front of a text that a shell runs, and the text."""
    name = _base(argv[0])
    if name in _SUBMIT:
        for index, word in enumerate(argv):
            if word.startswith("--wrap="):
                return (), word[len("--wrap=") :]
            if word == "--wrap" and index + 1 < len(argv):
                return (), argv[index + 1]
    if name in ("ssh", "pdsh", "rsh", "clush"):
        return _of_ssh(argv)
    if name in ("tmux", "screen"):
        return _of_terminal(argv)
    return _of_shell(argv)


def _of_shell(argv: tuple[str, ...]) -> tuple[tuple[str, ...], str] | None:
    """`bash -c TEXT`, whatever is in front: srun, docker, env; `su -c TEXT`, `watch TEXT`."""
    for index, word in enumerate(argv[:-2]):
        if _base(word) in (*SHELLS, "su", "script", "runuser"):
            for position, option in enumerate(argv[index + 1 : -1], index + 1):
                if not option.startswith("-"):
                    break
                if not option.startswith("--") and "c" in option:
                    return argv[:index], argv[position + 1]
            return None
    return None


def _of_ssh(argv: tuple[str, ...]) -> tuple[tuple[str, ...], str] | None:
    """`ssh OPTIONS HOST WORDS...`: the words, joined by blanks, are what the other side's shell reads."""
    at = 1
    while at < len(argv) and argv[at].startswith("-"):
        alone = argv[at] in ("-n", "-t", "-tt", "-q", "-A", "-T", "-x", "-X", "-4", "-6", "-C", "-v", "-f", "-N")
        at += 1 if alone or (len(argv[at]) > 2 and argv[at][1] in _SSH_VALUES) else 2
    at += _base(argv[0]) in ("ssh", "rsh")
    text = " ".join(argv[at:])
    return (argv[:at], text) if text else None


def _of_terminal(argv: tuple[str, ...]) -> tuple[tuple[str, ...], str] | None:
    """A tmux or screen command's text: its arguments with blanks in them, or the words behind the options."""
    texts = [word for word in argv[1:] if re.search(r"\s", word)]
    if texts:
        return (), "\n".join(texts)
    words = list(argv[1:])
    at = next(
        (i for i, word in enumerate(words) if _base(word) in ("torchrun", *SHELLS) or _base(word).startswith("python")),
        0,
    )
    return ((), " ".join(words[at:])) if at else None


# ---- text that is read, and files ----


def _reads_script(argv: tuple[str, ...]) -> bool:
    """Whether a command runs what it reads: a shell without a file, sbatch and its like, ssh without a command."""
    name = _base(argv[0])
    if name in _SUBMIT:
        return not any(_SCRIPT_NAME.fullmatch(word) for word in argv[1:])
    if name in ("ssh", "pdsh") and (_of_ssh(argv) or ("", ""))[1] == "":
        return True
    at = next((i for i, word in enumerate(argv) if _base(word) in SHELLS), None)
    if at is None:
        return False
    return all(word.startswith("-") for word in argv[at + 1 :]) or "-s" in argv[at + 1 :]


def _written(
    reader: Reads, invocation: Invocation, given: Redirections, text: str | None, world: World, depth: int
) -> list[World] | None:
    """`cat`, `tee`, `echo` and `printf` into a file: a script in it is read at once."""
    name, words = _base(invocation.argv[0]), [word for word in invocation.argv[1:] if not word.startswith("-")]
    if name == "cat" and words:
        return None
    file = words[0] if name == "tee" and words else given.file
    if name in ("echo", "printf"):
        if file is None or not MENTION.search(" ".join(words)) or file.startswith("/dev/"):
            return None
        if _SCRIPT_NAME.fullmatch(file):
            unread(world, invocation, f"it writes a command into {_shown(file)}, which is not put together here")
        return None
    if text is None:
        return None
    world.status = True
    if name == "tee" or file is None:
        world.prints(text)
    if file is None or file in ("/dev/null", "/dev/stderr", "/dev/stdout"):
        return [world]
    if _SCRIPT_NAME.fullmatch(file) or re.match(r"#!\S*(?:sh|env\s+(?:ba)?sh)\b", text):
        return _run(reader, (), text, invocation, world, depth)
    if MENTION.search(text):
        unread(world, invocation, f"what it writes into {_shown(file)} is not read")
    return [world]


def _shown(word: str) -> str:
    return word.replace(UNKNOWN, "…").replace(MANY, "…")


def _file(reader: Reads, invocation: Invocation, world: World, depth: int) -> list[World] | None:
    """`bash FILE ARGS`, `sbatch FILE ARGS`, `./FILE.sh`: read where it lies beside the script."""
    argv = invocation.argv
    at = next((i for i, word in enumerate(argv) if _base(word) in (*SHELLS, *_SUBMIT)), None)
    if at is not None:
        at += 1
        while at < len(argv) and argv[at].startswith("-"):
            at += 1
        at = next((i for i in range(at, len(argv)) if _SCRIPT_NAME.fullmatch(argv[i])), at)
    elif _SCRIPT_NAME.fullmatch(argv[0]):
        at = 0
    if at is None or at >= len(argv):
        return None
    text = script_text(reader, argv[at], world) if known(argv[at]) else None
    if text is None or not text.strip() or world.work.left < 0:
        return None
    world.invocations += (invocation,)
    world.prints(UNKNOWN)
    return in_inner_shell(reader, (), text, invocation, world, depth, argv[at + 1 :])
