"""Staged trees: an isolated copy of a tree with one choice of selectors, which a run imports.

One edited tree cannot serve several queued runs: a later `set` would change what a waiting job imports. A staged tree
lies in the cache directory, for its owner alone, under a name made from the content that was copied and its selectors;
it is reused, never modified, and removed by `exec --prune` when no run holds it.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from quantctl.disk.paths import cache_dir, digest
from quantctl.history.backup import checkout_of
from quantctl.history.git import Git
from quantctl.runs.rundir import NO_LOCKS
from quantctl.tree.state import plan, read_state
from quantctl.tree.tree import Tree

_MARK = ".quantctl-staged.json"
_DRAFT, _GONE = ".draft-", ".gone-"
"""Prefixes of copies that are not whole yet, and of those that are being removed."""
_LAYOUT = "2"
"""Part of every name: copies made by other rules have others."""

_COPY = re.compile(r"[0-9a-f]{16}")
"""Their names; other things below the folder are not ours."""

_SOURCE = {
    *("", ".py", ".pyi", ".c", ".cc", ".cpp", ".cu", ".cuh", ".h", ".hpp", ".so", ".sh"),
    *(".json", ".yaml", ".yml", ".toml", ".cfg", ".txt", ".md"),
}
"""Endings of an untracked file that can be source: a checkout may also hold checkpoints and data."""
_LARGEST_SOURCE = 16 * 2**20
"""Bytes."""
_COMPILED = "megatron/core/datasets/helpers_cpp*.so"
"""Megatron's index builder, which git ignores; a tree without it compiles it when it trains."""

_NOT_REMOVED = NO_LOCKS | {errno.EWOULDBLOCK, errno.ENOENT, errno.EBADF, errno.ENOTEMPTY}
"""In use, gone already, or not to be locked: NFS gives exclusive locks on what may be written, so never on a folder,
and keeps what somebody has open.
"""


def _listed(below: Path, *options: str) -> list[str]:
    return list(filter(None, os.fsdecode(Git(below).run("ls-files", "-z", *options)).split("\0")))


def _can_be_source(path: Path) -> bool:
    return path.suffix.lower() in _SOURCE and path.stat().st_size <= _LARGEST_SOURCE


def _checkout_files(root: Path, below: Path) -> Iterator[Path]:
    """As they are on disk, submodules included: tracked files, and those that git neither tracks nor ignores if they
    can be source.
    """
    tracked = dict.fromkeys(_listed(below, "--cached"), True)
    for name, is_tracked in (dict.fromkeys(_listed(below, "--others", "--exclude-standard"), False) | tracked).items():
        path = below / name
        if path.is_dir() and not path.is_symlink():
            if (path / ".git").exists():
                yield from _checkout_files(root, path)
        elif path.is_symlink() or (path.is_file() and (is_tracked or _can_be_source(path))):
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
    if checkout_of(tree) is None:
        return sorted(_package_files(tree.root))
    compiled = (path.relative_to(tree.root) for path in tree.root.glob(_COMPILED))
    return sorted({*_checkout_files(tree.root, tree.root), *compiled})


def _content(path: Path) -> bytes:
    return os.fsencode(os.readlink(path)) if path.is_symlink() else path.read_bytes()


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # copies inside the kernel, which shares the blocks where the file system can
    shutil.copy2(source, target, follow_symlinks=False)


def _overwrite(path: Path, raw: bytes) -> None:
    """A copy of a read-only file is read-only, for whoever is not root."""
    path.chmod(path.stat().st_mode | stat.S_IWUSR)
    path.write_bytes(raw)


def staged_root() -> Path:
    return cache_dir() / "staged"


def _mode(path: Path) -> int:
    """Of a file or of its copy, which its owner may always write to."""
    return path.lstat().st_mode & 0o777 | stat.S_IWUSR


def _name(root: Path, files: Sequence[Path], edited: Mapping[str, bytes]) -> str:
    """What a copy of the files below `root` is called, with those of `edited` as they will be."""
    parts: list[str | bytes] = [_LAYOUT]
    for file in files:
        parts += [os.fsencode(file), edited.get(str(file)) or _content(root / file), str(_mode(root / file))]
    return digest(*parts)


def _fill(draft: Path, tree: Tree, files: Sequence[Path], edited: Mapping[str, bytes]) -> None:
    for file in files:
        _copy(tree.root / file, draft / file)
    for name, raw in edited.items():
        _overwrite(draft / name, raw)
    (draft / _MARK).write_text(json.dumps({"source": str(tree.root), "megatron_core": tree.version()}))


def _put_aside(folder: Path) -> Path:
    """Out of the way under a name that nobody takes for a copy's."""
    return folder.rename(folder.with_name(f"{_GONE}{folder.name}-{os.urandom(4).hex()}"))


def stage(tree: Tree, values: Mapping[str, str]) -> Path:
    """The root of a copy of `tree` in which the selectors of `values` are set; made now, or found from before.

    Selectors that `values` does not name say what they say in the source. A new copy is named after the bytes that it
    holds: the source may be edited while it is read. Raises AnchorError if a patch does not fit.
    """
    edited = plan(read_state(tree.root), values)
    files = source_files(tree)
    target = staged_root() / _name(tree.root, files, edited)
    if (target / _MARK).exists():
        return target
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=_DRAFT, dir=target.parent))
    try:
        with _held(draft):
            _fill(draft, tree, files, edited)
            target = staged_root() / _name(draft, files, {})
            if os.path.lexists(target) and not (target / _MARK).exists():
                _put_aside(target)
            os.rename(draft, target)
    except OSError:
        # somebody else staged the same tree meanwhile, which is as good
        if not (target / _MARK).exists():
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


@contextmanager
def staged_copy(tree: Tree, values: Mapping[str, str]) -> Iterator[Path]:
    """`stage`, kept from being pruned."""
    while True:
        with ExitStack() as stack:
            staged = stage(tree, values)
            try:
                stack.enter_context(in_use(staged))
            except FileNotFoundError:
                continue
            # pruned between the two: what was locked has no name any more
            if (staged / _MARK).exists():
                yield staged
                return


@contextmanager
def _locked(path: Path, how: int) -> Iterator[None]:
    """Hold a lock on a file or folder; BlockingIOError if LOCK_NB is in `how` and another process has it."""
    # NFS gives an exclusive lock only to who may write, which nobody can be to a folder
    writes = how & fcntl.LOCK_EX and not path.is_dir()
    descriptor = os.open(path, os.O_RDWR if writes else os.O_RDONLY)
    try:
        fcntl.flock(descriptor, how)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Keep a file or folder from being pruned. Where there are no locks none is needed: `prune` gets none either."""
    with ExitStack() as stack:
        try:
            stack.enter_context(_locked(path, fcntl.LOCK_SH))
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        yield


@contextmanager
def in_use(staged: Path) -> Iterator[None]:
    """Keep the staged tree from being pruned."""
    with _held(staged / _MARK):
        yield


def _remove(folder: Path) -> None:
    """A copy disappears at once, whatever happens to what was in it."""
    shutil.rmtree(folder if folder.name.startswith((_GONE, _DRAFT)) else _put_aside(folder))


def prune() -> list[Path]:
    """Remove the staged trees that no run holds, and copies that were killed half-way; returns them.

    What cannot be locked stays.
    """
    removed = []
    for folder in sorted(staged_root().glob("*")):
        is_copy, is_draft = _COPY.fullmatch(folder.name), folder.name.startswith(_DRAFT)
        if folder.is_symlink() or not folder.is_dir() or not (is_copy or is_draft or folder.name.startswith(_GONE)):
            continue
        held = folder / _MARK if is_copy else folder
        try:
            with ExitStack() as stack:
                # without a mark it was half removed, and put aside it is nobody's
                if is_draft or (is_copy and held.exists()):
                    stack.enter_context(_locked(held, fcntl.LOCK_EX | fcntl.LOCK_NB))
                _remove(folder)
                removed.append(folder)
        except OSError as error:
            if error.errno not in _NOT_REMOVED:
                raise
    return removed
