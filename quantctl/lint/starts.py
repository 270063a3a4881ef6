"""Which words of a command a process would be started for, and which only name a file: `pkill -f pretrain_gpt.py`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from quantctl.lint.world import known

LAUNCHERS = ("torchrun", "torch.distributed.run", "torch.distributed.launch", "accelerate", "deepspeed")
INTERPRETER = re.compile(r"python[\d.]*|pypy[\d.]*")
# fmt: off
WRAPPERS = frozenset((
    "env", "nohup", "exec", "time", "command", "builtin", "sudo", "srun", "jsrun", "aprun", "mpirun", "mpiexec",
    "mpiexec.hydra", "orterun", "prun", "numactl", "taskset", "timeout", "nice", "ionice", "chrt", "stdbuf",
    "setsid", "unbuffer", "xargs", "parallel", "docker", "podman", "nerdctl", "singularity", "apptainer",
    "enroot", "kubectl", "oc", "ssh", "pdsh", "clush", "rsh", "nsys", "ncu", "nvprof", "perf", "gdb", "strace",
    "ltrace", "valgrind", "ray", "uv", "uvx", "poetry", "conda", "micromamba", "mamba", "pipenv", "pixi", "hatch",
    "xvfb-run", "script", "watch", "tmux", "screen", "sbatch", "salloc", "bsub", "qsub", "qrsh", "flux",
    "quantctl", "bash", "sh", "zsh", "dash", "if", "then", "do", "else", "while", "until", "coproc", "dlprof",
    "rocprof", "catchsegv", "cgexec", "systemd-run", "runuser", "su", "gosu", "chroot", "unshare", "torchx",
    "hl-smi", "msrun",
))
# fmt: on
"""Commands that start what stands behind them."""
# fmt: off
LOOKERS = frozenset((
    "echo", "printf", "cat", "grep", "egrep", "fgrep", "rg", "ag", "sed", "awk", "gawk", "perl", "head", "tail",
    "wc", "cut", "sort", "uniq", "diff", "cmp", "ls", "find", "stat", "file", "du", "cp", "mv", "rm", "ln",
    "mkdir", "rmdir", "chmod", "chown", "touch", "tar", "zip", "unzip", "rsync", "scp", "sftp", "git", "svn",
    "hg", "patch", "pip", "pip3", "pkill", "pgrep", "kill", "killall", "ps", "top", "pidof", "fuser", "lsof",
    "sha1sum", "sha256sum", "sha512sum", "md5sum", "cksum", "basename", "dirname", "realpath", "readlink",
    "which", "whereis", "type", "tee", "curl", "wget", "vim", "vi", "nano", "emacs", "less", "more", "test", "[",
    "[[", "export", "cd", "pushd", "source", ".", "logger", "wandb", "black", "ruff", "flake8", "mypy",
    "dos2unix", "jq", "yq", "trap", "alias", "unset", "declare", "local", "wait", "true", "false", ":", "let",
    "set", "shift", "read", "exit", "return",
))
# fmt: on
"""Commands that read, copy, name or stop what stands behind them."""

MENTION = re.compile(
    r"\b(?:pretrain|finetune|train)\w*\.py\b|\bquantctl(?:\.pretrain|\s+(?:exec|launch))\b|\bmegatron\s+(?:pt|sft|rlhf)\b"
)
"""Text in which a training may be."""


def base(word: str) -> str:
    """A program's name without its folder."""
    return word.rpartition("/")[2]


def first_program(words: Sequence[str]) -> str | None:
    """The first word that is no assignment, without its folder; None if there is none, or nobody knows it."""
    for word in words:
        name, equals, _ = word.partition("=")
        if equals and name.isidentifier():
            continue
        return base(word) if known(word) else None
    return None


def runs(front: Sequence[str]) -> bool | None:
    """Whether what stands in front of a program starts it; None where only its arguments can say."""
    first = first_program(front)
    if first is None:
        return True  # nothing in front, or a variable that nobody knows
    if first in LOOKERS:
        return False
    if first in WRAPPERS or first in LAUNCHERS or INTERPRETER.fullmatch(first):
        return True
    started = (word for word in front[1:] if known(word))
    return True if any(base(word) in LAUNCHERS or INTERPRETER.fullmatch(base(word)) for word in started) else None
