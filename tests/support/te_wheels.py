"""Where the bed's Transformer Engine comes from: its wheel without what is compiled, and what that imports.

All of it lies in folders of its own: Megatron imports Transformer Engine wherever it finds one, and without its
compiled half that fails.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import filelock

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "transformer_engine"
OLDEST, COMMON, NEWEST = "2.4.0", "2.9.0", "2.20.2"
"""Of 2025 the first one that can be imported without its compiled half, and one that many have; the newest."""
IMPORTED = ("annotated-types", "einops", "pydantic", "pydantic-core", "typing-inspection")
"""What the wheel imports beside torch; pinned in constraints.txt."""
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")


def _draft(target: Path) -> Path:
    return target.with_name(f".{target.name}")


def _packages() -> Path:
    target = CACHE / "packages"
    if not target.exists():
        chosen = ["--no-deps", "--only-binary=:all:", "-c", str(ROOT / "constraints.txt"), *IMPORTED]
        subprocess.run([*PIP, "install", "--target", str(_draft(target)), *chosen], check=True)
        _draft(target).rename(target)
    return target


def _wheel(version: str) -> Path:
    """The folder of Transformer Engine's wheel; for who holds the lock."""
    target = CACHE / version
    if not target.exists():
        wheels = ROOT / ".cache" / "wheels" / f"transformer-engine-{version}"
        options = ["--no-deps", "--only-binary=:all:", "-d", str(wheels), f"transformer-engine=={version}"]
        subprocess.run([*PIP, "download", *options], check=True)
        (wheel,) = wheels.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(_draft(target))
        _draft(target).rename(target)
    return target


def _alone() -> filelock.FileLock:
    CACHE.mkdir(parents=True, exist_ok=True)
    return filelock.FileLock(CACHE / "lock")


def unpacked(version: str) -> Path:
    """The folder of Transformer Engine's wheel."""
    with _alone():
        return _wheel(version)


def environment(version: str) -> dict[str, str]:
    """That of a process which stands on the bed, with Transformer Engine `version`."""
    with _alone():
        path = (Path(__file__).parent, _wheel(version), _packages())
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
