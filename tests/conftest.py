"""Trees to test on: stock megatron-core releases from the package index, unpacked once and copied for each test."""

from __future__ import annotations

import functools
import os
import platform
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import filelock
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests" / "support"))
from command_server import Server  # noqa: E402

CACHE = ROOT / ".cache"
PYTHON_OF_WHEEL = dict.fromkeys(("0.17.1", "0.18.2", "0.19.0", "0.19.2"), "3.12")
"""Later releases have no wheels for 3.11, earlier ones none for 3.12. They are unpacked to be read, patched and put on
the path, which any version can do."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden files anew instead of comparing")


def _pip_options(version: str) -> list[str]:
    python = f"--python-version={PYTHON_OF_WHEEL.get(version, '3.11')}"
    options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--quiet"]
    return [*options, python, "--implementation=cp", f"--platform=manylinux_2_28_{platform.machine()}"]


def _unpacked(version: str) -> Path:
    """The root of a stock tree of that release, or of Megatron-LM's main. Never to be written to: take a copy."""
    if version == "main":
        if not os.environ.get("QUANTCTL_MEGATRON_MAIN"):
            pytest.skip("QUANTCTL_MEGATRON_MAIN names no checkout of Megatron-LM's main")
        return Path(os.environ["QUANTCTL_MEGATRON_MAIN"]).resolve()
    target = CACHE / "megatron" / version
    CACHE.mkdir(exist_ok=True)
    with filelock.FileLock(CACHE / f"megatron-{version}.lock"):
        if not target.exists():
            wheels = CACHE / "wheels" / version
            requirement = f"megatron-core=={version}"
            pip = [sys.executable, "-m", "pip", "download", *_pip_options(version)]
            subprocess.run([*pip, "-d", wheels, requirement], check=True)
            (wheel,) = wheels.glob("*.whl")
            draft = target.with_name(f".{version}")
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(draft)
            draft.rename(target)
    return target


@pytest.fixture(scope="session")
def megatron_tree() -> Callable[[str], Path]:
    """Function from a release to a stock tree, shared by all tests: read only."""
    return _unpacked


@pytest.fixture
def stock_copy(tmp_path: Path) -> Callable[[str], Path]:
    """Function from a release to a stock tree of the test's own."""
    unwanted = shutil.ignore_patterns(".git")

    def copy(version: str) -> Path:
        return Path(shutil.copytree(_unpacked(version), tmp_path / f"megatron-{version}", ignore=unwanted))

    return copy


_SIGNALS = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}


@pytest.fixture(autouse=True)
def _signals_of_a_terminal() -> Iterator[None]:
    """A shell's background jobs ignore interrupts, nohup's hangups, and so would all that a test starts."""
    ignored = [number for number in _SIGNALS if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, _SIGNALS[number])
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.fixture(scope="session", autouse=True)
def _own_directories(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """State and caches of the tests lie apart from the user's; no variable of the caller's shell takes part."""
    base = tmp_path_factory.mktemp("xdg")
    patch = pytest.MonkeyPatch()
    for name in ("STATE", "CACHE"):
        patch.setenv(f"XDG_{name}_HOME", str(base / name.lower()))
    # compiled kernels are named after their sources: what one test compiled all may use
    kernels = base / "cache" / "quantctl" / "kernels"
    kernels.parent.mkdir(parents=True)
    (CACHE / "kernels").mkdir(parents=True, exist_ok=True)
    kernels.symlink_to(CACHE / "kernels")
    # bytecode in the shared trees saves every test a second
    for name in ("MEGATRON_LM_PATH", "PYTHONPATH", "QUANTCTL_RUN_DIR", "PYTHONDONTWRITEBYTECODE"):
        patch.delenv(name, raising=False)
    patch.setenv("OMP_NUM_THREADS", "1")
    yield
    patch.undo()


@dataclass(frozen=True)
class Result:
    """What a command printed and how it ended."""

    status: int
    out: str
    err: str


@pytest.fixture(scope="session")
def command_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Starts commands in processes of their own that need not load quantctl first."""
    server = Server(tmp_path_factory.mktemp("commands") / "socket")
    yield server
    server.close()


@pytest.fixture(scope="session")
def quantctl(command_server: Server) -> Callable[..., Result]:
    """Run the command line in a process of its own: quantctl("check", cwd=tree, env={...})."""

    def run(*arguments: object, cwd: Path = ROOT, env: dict[str, str] | None = None) -> Result:
        done = command_server.run(arguments, cwd, {**os.environ, **(env or {})})
        return Result(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def called(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """The same in this process, which costs no start: for what starts nothing itself."""
    from quantctl.cli import call

    def run(*arguments: object) -> Result:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            call(list(map(str, arguments)))
        out, err = capsys.readouterr()
        return Result(int(ended.value.code or 0), out, err)

    return run


@pytest.fixture
def documented() -> Callable[[str, object], None]:
    """Function that holds a command's JSON against its section of docs/json.md: documented("check", data)."""
    from json_shapes import problems

    def hold(command: str, data: object) -> None:
        assert problems(command, data) == []

    return hold


@pytest.fixture(scope="session")
def git() -> Callable[..., str]:
    """Plain git for arranging and inspecting repositories: git(folder, "status")."""

    def run(folder: Path, *arguments: str) -> str:
        identity = ["-c", "user.name=Test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false"]
        done = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
        return done.stdout

    return run


@pytest.fixture(scope="session")
def committed(tmp_path_factory: pytest.TempPathFactory, git: Callable[..., str]) -> Callable[[str], Path]:
    """Function from a release to a git checkout made of it, shared by all tests: to be copied."""

    @functools.cache
    def make(version: str) -> Path:
        tree = tmp_path_factory.mktemp("committed") / version
        shutil.copytree(_unpacked(version), tree, ignore=shutil.ignore_patterns(".git"))
        (tree / ".gitignore").write_text("__pycache__/\n")
        git(tree, "init", "--quiet", "--initial-branch=main")
        git(tree, "add", "-A")
        git(tree, "commit", "--quiet", "-m", "stock")
        git(tree, "gc", "--quiet")
        return tree

    return make


@pytest.fixture
def checkout(tmp_path: Path, committed: Callable[[str], Path]) -> Callable[[str], Path]:
    """Function from a release to a git checkout of the test's own."""

    def copy(version: str) -> Path:
        return Path(shutil.copytree(committed(version), tmp_path / f"megatron-{version}"))

    return copy
