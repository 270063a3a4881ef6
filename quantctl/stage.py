"""Staged trees: an isolated copy of a tree with one choice of selectors, which a run imports.

One edited tree cannot serve several queued runs: a later `set` would change what a waiting job imports. A staged tree
lies in the cache directory under a name made from the content of its source and its selectors; it is reused, never
modified, and removed by `exec --prune` when no run holds it.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from quantctl.backup import checkout_of
from quantctl.git import Git
from quantctl.paths import cache_dir, digest
from quantctl.state import plan, read_state
from quantctl.tree import Tree

_MARK = ".quantctl-staged.json"
_DRAFT = ".draft-"


def _checkout_files(root: Path, below: Path) -> Iterator[Path]:
    """Tracked and untracked-not-ignored files, submodules included, as they are on disk."""
    names = Git(below).run("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate")
    for name in filter(None, os.fsdecode(names).split("\0")):
        path = below / name
        if path.is_dir() and not path.is_symlink():
            if (path / ".git").exists():
                yield from _checkout_files(root, path)
        elif path.is_symlink() or path.is_file():
            yield path.relative_to(root)


def _package_files(root: Path) -> Iterator[Path]:
    """The package, and the programs beside it where the tree is Megatron-LM without its git (a downloaded archive)."""
    if (root / "pretrain_gpt.py").is_file():
        yield from (path.relative_to(root) for path in root.glob("*.py"))
    for folder, folders, names in os.walk(root / "megatron"):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in names:
            yield Path(folder, name).relative_to(root)


def source_files(tree: Tree) -> list[Path]:
    """The files a staged copy of the tree consists of, relative to it."""
    is_checkout = checkout_of(tree) is not None
    return sorted(_checkout_files(tree.root, tree.root) if is_checkout else _package_files(tree.root))


def _content(path: Path) -> bytes:
    return os.fsencode(os.readlink(path)) if path.is_symlink() else path.read_bytes()


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # copies inside the kernel, which shares the blocks where the file system can
    shutil.copy2(source, target, follow_symlinks=False)


def staged_root() -> Path:
    return cache_dir() / "staged"


def stage(tree: Tree, values: Mapping[str, str]) -> Path:
    """The root of a copy of `tree` in which the selectors of `values` are set; made now, or found from before.

    Selectors that `values` does not name say what they say in the source. Raises AnchorError if a patch does not fit.
    """
    edited = plan(read_state(tree.root), values)
    files = source_files(tree)
    parts: list[str | bytes] = []
    for file in files:
        path = tree.root / file
        parts += [str(file), edited.get(str(file)) or _content(path), str(path.lstat().st_mode)]
    target = staged_root() / digest(*parts)
    if (target / _MARK).exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=_DRAFT, dir=target.parent))
    try:
        with _locked(draft, fcntl.LOCK_SH):
            for file in files:
                _copy(tree.root / file, draft / file)
            for name, raw in edited.items():
                (draft / name).write_bytes(raw)
            (draft / _MARK).write_text(json.dumps({"source": str(tree.root), "megatron_core": tree.version()}))
            draft.chmod(0o755)
            os.rename(draft, target)
    except OSError:
        # somebody else staged the same tree meanwhile, which is as good
        if not (target / _MARK).exists():
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


@contextmanager
def _locked(path: Path, how: int) -> Iterator[None]:
    """Hold a lock on a file or folder; BlockingIOError if LOCK_NB is in `how` and another process has it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, how)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def in_use(staged: Path) -> Iterator[None]:
    """Keep the staged tree from being pruned."""
    with _locked(staged / _MARK, fcntl.LOCK_SH):
        yield


def prune() -> list[Path]:
    """Remove the staged trees that no run holds, and copies that were killed half-way; returns them."""
    removed = []
    for held in sorted([*staged_root().glob(f"[!.]*/{_MARK}"), *staged_root().glob(f"{_DRAFT}*")]):
        with suppress(BlockingIOError, FileNotFoundError), _locked(held, fcntl.LOCK_EX | fcntl.LOCK_NB):
            folder = held.parent if held.name == _MARK else held
            shutil.rmtree(folder)
            removed.append(folder)
    return removed
