"""Trees to test on: stock megatron-core releases from the package index, unpacked once and copied for each test."""

from __future__ import annotations

import os
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
RELEASES = ("0.12.3", "0.16.1")


def _unpacked(version: str) -> Path:
    """The root of a stock tree of that release. Never to be written to: take a copy."""
    target = CACHE / "megatron" / version
    CACHE.mkdir(exist_ok=True)
    with filelock.FileLock(CACHE / f"megatron-{version}.lock"):
        if not target.exists():
            wheels = CACHE / "wheels" / version
            requirement = f"megatron-core=={version}"
            options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--quiet"]
            subprocess.run([sys.executable, "-m", "pip", "download", *options, "-d", wheels, requirement], check=True)
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

    def copy(version: str) -> Path:
        return Path(shutil.copytree(_unpacked(version), tmp_path / f"megatron-{version}"))

    return copy


@pytest.fixture(scope="session", autouse=True)
def _own_directories(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """State and caches of the tests lie apart from the user's; no variable of the caller's shell takes part."""
    base = tmp_path_factory.mktemp("xdg")
    patch = pytest.MonkeyPatch()
    for name in ("STATE", "CACHE"):
        patch.setenv(f"XDG_{name}_HOME", str(base / name.lower()))
    for name in ("MEGATRON_LM_PATH", "PYTHONPATH", "QUANTCTL_RUN_DIR"):
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
        git(tree, "init", "--quiet", "--initial-branch=main")
        git(tree, "add", "-A")
        git(tree, "commit", "--quiet", "-m", "stock")
        return tree

    return make
