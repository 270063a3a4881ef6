"""All of quantctl's dealings with git: plumbing only, without the user's hooks, fsmonitor and GIT_* variables."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from quantctl.errors import QuantctlError

os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")

_OPTIONS = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-c", "gc.auto=0")
_IDENTITY = {
    f"GIT_{role}_{key}": value
    for role in ("AUTHOR", "COMMITTER")
    for key, value in (("NAME", "quantctl"), ("EMAIL", "quantctl@localhost"))
}
ZERO = "0" * 40


class GitError(QuantctlError):
    """git refused; `message` carries what it said."""


@contextmanager
def _without_git_variables() -> Iterator[None]:
    """GitPython hands the whole environment to git and cannot unset a variable, so it is done around the call."""
    kept = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("GIT_")}
    os.environ["LC_ALL"], locale = "C", os.environ.get("LC_ALL")
    try:
        yield
    finally:
        os.environ.update(kept)
        os.environ.pop("LC_ALL")
        if locale is not None:
            os.environ["LC_ALL"] = locale


class Git:
    """One repository, seen from one directory of its working tree (or a bare repository's own directory)."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def run(self, *arguments: str, stdin: bytes = b"", env: Mapping[str, str] | None = None) -> bytes:
        """What `git ARGUMENTS` prints. Raises GitError with git's own words."""
        try:
            from git.cmd import Git as Runner
            from git.exc import GitCommandError, GitCommandNotFound
        except ImportError as error:  # GitPython tries git while it is imported
            raise GitError(f"git cannot be used: {error}", "is it installed, and is there room on the disk?") from error

        with _without_git_variables(), tempfile.TemporaryFile() as feed:
            feed.write(stdin)
            feed.seek(0)
            try:
                status, output, errors = Runner(str(self.directory)).execute(
                    ["git", *_OPTIONS, *arguments],
                    istream=feed,
                    with_extended_output=True,
                    with_exceptions=False,
                    stdout_as_string=False,
                    strip_newline_in_stdout=False,
                    env={**_IDENTITY, **(env or {})},
                )
            except (GitCommandNotFound, GitCommandError) as error:
                raise GitError("git is not installed, or not on PATH", "install git: backups are kept in it") from error
        if status != 0:
            said = errors.decode(errors="replace") if isinstance(errors, bytes) else errors
            raise GitError(f"git {arguments[0]} failed in {self.directory}: {said.strip()}")
        return bytes(output)

    def text(self, *arguments: str, stdin: bytes = b"", env: Mapping[str, str] | None = None) -> str:
        """The same as text, without the newline at its end."""
        return os.fsdecode(self.run(*arguments, stdin=stdin, env=env)).rstrip("\n")

    def write_blobs(self, contents: Sequence[bytes]) -> list[str]:
        """Store the contents as they are, whatever filters the repository has; their object names."""
        with tempfile.TemporaryDirectory(prefix="quantctl-blobs-") as folder:
            paths = [Path(folder) / str(number) for number in range(len(contents))]
            for path, content in zip(paths, contents, strict=True):
                path.write_bytes(content)
            lines = "".join(f"{path}\n" for path in paths)
            return self.text("hash-object", "-w", "--no-filters", "--stdin-paths", stdin=lines.encode()).splitlines()

    def read_blob(self, name: str) -> bytes:
        return self.run("cat-file", "blob", name)

    def read_objects(self, names: Sequence[str]) -> list[bytes | None]:
        """The content of each object, in one call; None for one that is not there. Names hold no newline."""
        output = self.run("cat-file", "--batch", stdin="".join(f"{name}\n" for name in names).encode())
        contents: list[bytes | None] = []
        at = 0
        for _ in names:
            end = output.index(b"\n", at)
            size = output[at:end].rpartition(b" ")[2]
            at = end + 1
            if not size.isdigit():  # missing, ambiguous
                contents.append(None)
                continue
            contents.append(output[at : at + int(size)])
            at += int(size) + 1
        return contents

    def write_tree(self, files: Mapping[str, str]) -> str:
        """The tree object that holds blob `files[path]` at each path, made in an index of its own."""
        lines = "".join(f"100644 {blob}\t{path}\0" for path, blob in sorted(files.items()))
        with tempfile.TemporaryDirectory(prefix="quantctl-index-") as folder:
            env = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
            self.run("update-index", "-z", "--index-info", stdin=os.fsencode(lines), env=env)
            return self.text("write-tree", env=env)

    def write_commit(self, tree: str, message: str, parent: str | None) -> str:
        parents = ["-p", parent] if parent else []
        return self.text("commit-tree", tree, *parents, "-F", "-", stdin=message.encode())

    def ref(self, name: str) -> str | None:
        """What the ref points to, or None when it does not exist."""
        line = self.text("for-each-ref", "--format=%(refname) %(objectname)", name)
        values = dict(entry.split(" ") for entry in line.splitlines())
        return values.get(name)

    def move_ref(self, name: str, new: str, old: str | None) -> None:
        """Point the ref to `new` if it still points to `old`. Raises GitError if it does not."""
        self.run("update-ref", name, new, old or ZERO)

    def update_refs(self, *commands: str) -> None:
        """Several changes of refs, all or none, in the words of `git update-ref --stdin`."""
        self.run("update-ref", "--stdin", stdin="".join(f"{command}\n" for command in commands).encode())


def toplevel(directory: Path) -> Path | None:
    """The root of the working tree that `directory` lies in, or None outside a repository.

    Raises GitError with git's own fix when git does not trust the repository's owner.
    """
    try:
        return Path(Git(directory).text("rev-parse", "--show-toplevel"))
    except GitError as error:
        if "dubious ownership" in error.message:
            raise GitError(
                f"git does not trust {directory}: another user owns it",
                f"if you do: git config --global --add safe.directory {directory}",
            ) from error
        if "not installed" in error.message:
            raise
        return None


def is_ignored(root: Path, path: Path) -> bool:
    """Whether the repository at `root` ignores `path` (a tracked file never counts as ignored)."""
    try:
        Git(root).run("check-ignore", "-q", str(path))
    except GitError:
        return False
    return True
