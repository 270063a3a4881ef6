"""What Megatron-LM's own trainer needs before it starts: its packages, and its index builder, compiled.

Every run of a checkout calls `make` for the index builder at its start. Two runs of one staged tree would compile into
the same file, so it is compiled here: once, under a lock, in a folder of its own, and moved into the tree when whole.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from quantctl.errors import QuantctlError
from quantctl.outside.packages import absent

_DATASETS = Path("megatron/core/datasets")
_BUILT = "helpers_cpp*.so"
_SIX = Path("megatron/training/tokenizer/bert_tokenization.py")


def is_own(staged: Path, command: Sequence[str]) -> bool:
    """Whether the command starts a program of a Megatron-LM checkout."""
    programs = (Path(word).resolve() for word in command if word.endswith(".py"))
    return (staged / "megatron/training").is_dir() and any(path.parent == staged.resolve() for path in programs)


def _interpreter(program: str) -> str | None:
    """The Python that runs `program`: itself, or that of its first line."""
    path = shutil.which(program)
    if path is None or Path(path).name.startswith("python"):
        return path
    with open(path, "rb") as file:
        words = file.readline(4096).decode(errors="replace").removeprefix("#!").split()
    return words[0] if len(words) == 1 and Path(words[0]).name.startswith("python") else None


def _needed(staged: Path, command: Sequence[str]) -> Iterator[str]:
    yield "torch"
    if (staged / _SIX).is_file() and b"import six" in (staged / _SIX).read_bytes():
        yield "six"
    if any(word.partition("=")[2] == "HuggingFaceTokenizer" or word == "HuggingFaceTokenizer" for word in command):
        yield "transformers"


def _check_packages(staged: Path, command: Sequence[str], python: str | None) -> None:
    names = list(_needed(staged, command))
    if not names or python is None:  # whoever starts the ranks otherwise finds out
        return
    if missing := absent(names, python):
        raise QuantctlError(
            f"Megatron-LM's own trainer needs {' and '.join(missing)}, which {python} does not have",
            f"{python} -m pip install {' '.join(missing)}",
        )


def _compile(folder: Path, python: str | None) -> None:
    """With the Python that trains in front of others: the Makefile takes pybind11 and the name from `python3`."""
    first = [os.path.dirname(os.path.abspath(python))] if python else []
    search = os.pathsep.join([*first, os.environ.get("PATH", os.defpath)])
    with tempfile.TemporaryDirectory(prefix=".compile-", dir=folder) as draft:
        for name in ("Makefile", "helpers.cpp"):
            shutil.copyfile(folder / name, Path(draft, name))
        done = subprocess.run(["make", "-C", draft], capture_output=True, text=True, env={**os.environ, "PATH": search})
        built = list(Path(draft).glob(_BUILT))
        if done.returncode or not built:
            lines = [line for line in done.stderr.splitlines() if not line.startswith("make")]
            raise QuantctlError(
                f"Megatron-LM's index builder does not compile: {(lines or ['make failed'])[0].strip()}",
                f"it needs a C++ compiler, python3-config, and pybind11: {python or 'python3'} -m pip install pybind11",
            )
        for path in built:
            os.replace(path, folder / path.name)


def prepare(staged: Path, command: Sequence[str]) -> None:
    """Check and compile what `command` needs if it is a program of the staged checkout.

    Raises QuantctlError, in one sentence, before anything of the run has started.
    """
    if not is_own(staged, command):
        return
    python = _interpreter(command[0])
    _check_packages(staged, command, python)
    folder = staged / _DATASETS
    if not (folder / "Makefile").is_file():
        return
    if shutil.which("make") is None:
        raise QuantctlError("Megatron-LM compiles its index builder with make, which is not here", "install make")
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if not list(folder.glob(_BUILT)):
            _compile(folder, python)
    finally:
        os.close(descriptor)
