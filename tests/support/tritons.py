"""Compiles the kernels with every Triton that a supported torch comes with, and prints what was found. `make tritons`.

The wheels are downloaded into .cache and unpacked beside each other; no GPU is needed. Exit status 1 if a kernel does
not compile, or if its code has an instruction that could round otherwise than the reference and that is not known.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache"
KERNELS = ROOT / "tests" / "kernels"
TORCH = {"3.2.0": "2.6", "3.3.1": "2.7", "3.4.0": "2.8", "3.5.1": "2.9", "3.6.0": "2.10"}
"""Triton -> the torch that comes with it. The newest is the installed one, which the tests compile with."""
FUSED_PV = (3, 4)
"""Before, fused_pv.why_not says no."""
FLUSHES = (3, 6)
"""Before, the exact division flushes subnormals: docs/numerics.md says where that matters."""
DIVIDES = ("nvfp4", " fp8", " int8", " hifp4", "hifp8:scale=fp32", "softmax_kernel")


def unpacked(version: str) -> Path:
    """The folder that holds this Triton."""
    target = CACHE / "triton" / version
    if not target.exists():
        wheels = CACHE / "wheels" / f"triton-{version}"
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
        subprocess.run([*pip, "-d", wheels, f"triton=={version}"], check=True)
        (wheel,) = wheels.glob("*.whl")
        draft = target.with_name(f".{version}")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(draft)
        for program in draft.glob("triton/backends/*/bin/*"):
            program.chmod(0o755)
        draft.rename(target)
        wheel.unlink()
    return target


def compiled(version: str, script: str) -> list[str]:
    """The lines of a script in tests/kernels under this Triton, and its last words if it failed."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": f"{unpacked(version)}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    environment |= {"TRITON_CACHE_DIR": str(CACHE / "triton" / f"cache-{version}")}
    done = subprocess.run([sys.executable, KERNELS / script], env=environment, capture_output=True, text=True)
    return [*done.stdout.splitlines(), *(done.stderr.splitlines()[-3:] if done.returncode else [])]


def is_known(line: str, version: tuple[int, ...]) -> bool:
    """Whether the line is clean, or says what this version is known for."""
    kernel, _, found = line.rpartition(": ")
    divides = any(name in kernel for name in DIVIDES)
    return found == "clean" or (found == ".ftz" and divides and version < FLUSHES)


def main() -> int:
    wrong = 0
    for version, torch in TORCH.items():
        number = tuple(map(int, version.split(".")[:2]))
        scripts = ["compile_kernels.py", *(["compile_flash.py"] if number >= FUSED_PV else [])]
        lines = [line for script in scripts for line in compiled(version, script)]
        unknown = [line for line in lines if not is_known(line, number)]
        print(f"Triton {version} (torch {torch}): {len(lines) - len(unknown)} of {len(lines)} as expected", flush=True)
        for line in unknown:
            print(f"    {line}", flush=True)
        wrong += len(unknown)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
