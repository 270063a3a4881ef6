"""Trees to test on: stock megatron-core releases from the package index, unpacked once and copied for each test."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import filelock
import pytest

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache"
PYTHON_OF_WHEEL = dict.fromkeys(("0.17.1", "0.18.2", "0.19.0"), "3.12")
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


@pytest.fixture(scope="session", autouse=True)
def _own_directories(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """State and caches of the tests lie apart from the user's; no variable of the caller's shell takes part."""
    base = tmp_path_factory.mktemp("xdg")
    patch = pytest.MonkeyPatch()
    for name in ("STATE", "CACHE"):
        patch.setenv(f"XDG_{name}_HOME", str(base / name.lower()))
    # but for kernels: a session compiles what changed, and both workers share it
    kernels = CACHE / "kernels"
    kernels.mkdir(parents=True, exist_ok=True)
    (base / "cache" / "quantctl").mkdir(parents=True)
    (base / "cache" / "quantctl" / "kernels").symlink_to(kernels)
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
def quantctl() -> Callable[..., Result]:
    """Run the command line in a process of its own: quantctl("check", cwd=tree, env={...})."""

    def run(*arguments: object, cwd: Path = ROOT, env: dict[str, str] | None = None) -> Result:
        done = subprocess.run(
            [sys.executable, "-m", "quantctl.cli", *map(str, arguments)],
            cwd=cwd,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def git() -> Callable[..., str]:
    """Plain git for arranging and inspecting repositories: git(folder, "status")."""

    def run(folder: Path, *arguments: str) -> str:
        identity = ["-c", "user.name=Test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false"]
        done = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
        return done.stdout

    return run


@pytest.fixture
def checkout(stock_copy: Callable[[str], Path], git: Callable[..., str]) -> Callable[[str], Path]:
    """Function from a release to a git checkout made of it."""

    def make(version: str) -> Path:
        tree = stock_copy(version)
        (tree / ".gitignore").write_text("__pycache__/\n")
        git(tree, "init", "--quiet", "--initial-branch=main")
        git(tree, "add", "-A")
        git(tree, "commit", "--quiet", "-m", "stock")
        return tree

    return make
