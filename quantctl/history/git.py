"""All of quantctl's dealings with git: plumbing only, without the user's hooks, fsmonitor and GIT_* variables.

No program that a repository names is run, and nothing is fetched. As root, git acts for the repository's owner: what it
writes is the owner's, and it can reach no further.
"""

from __future__ import annotations

import os
import pwd
import shlex
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantctl.disk import files
from quantctl.errors import QuantctlError

os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")

_OPTIONS = (
    *("-c", "core.fsmonitor=false"),
    *("-c", "core.hooksPath=/dev/null"),
    *("-c", "gc.auto=0"),
    *("-c", "core.filesRefLockTimeout=5000"),
    *("-c", "maintenance.auto=false"),
    *("-c", "log.showSignature=false"),
    *("-c", "i18n.commitEncoding=utf-8"),
    *("-c", "i18n.logOutputEncoding=utf-8"),
)
_ENVIRONMENT = {
    **{
        f"GIT_{role}_{key}": value
        for role in ("AUTHOR", "COMMITTER")
        for key, value in (("NAME", "quantctl"), ("EMAIL", "quantctl@localhost"))
    },
    "GIT_ALLOW_PROTOCOL": "",  # a partial clone would fetch what it lacks, through the repository's own programs
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
}
_WITH_HOOKS = ("update-ref", "update-index")
_NO_CHECKOUT = ("not a git repository", "must be run in a work tree", "cannot use bare repository")
"""What git says of a folder that belongs to no working tree; whatever else it says is a fault to be mended."""


class GitError(QuantctlError):
    """git refused; `message` carries what it said."""

    def __init__(self, message: str, hint: str | None = None, status: int | None = None) -> None:
        super().__init__(message, hint)
        self.git_status = status
        """git's exit status, if it ran."""


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


@dataclass(frozen=True)
class Git:
    """One repository, seen from one directory of its working tree (or a bare repository's own directory)."""

    directory: Path
    bare: bool = False
    """Named as such: git can be told to find no bare repository by itself."""
    as_owner: bool = True
    """For root: act as the owner of the repository."""

    def owner(self) -> dict[str, Any]:
        """Whom git runs as, in the words of subprocess.Popen: nothing for oneself."""
        if not self.as_owner or os.geteuid() != 0:
            return {}
        inside = self.directory / ".git"
        found = (inside if not self.bare and inside.exists() else self.directory).stat()
        if found.st_uid == 0:
            return {}
        try:
            groups = os.getgrouplist(pwd.getpwuid(found.st_uid).pw_name, found.st_gid)
        except KeyError:
            groups = []
        return {"user": found.st_uid, "group": found.st_gid, "extra_groups": groups}

    def run(self, *arguments: str, stdin: bytes = b"", env: Mapping[str, str] | None = None) -> bytes:
        """What `git ARGUMENTS` prints. Raises GitError with git's own words."""
        try:
            from git.cmd import Git as Runner
            from git.exc import GitCommandError, GitCommandNotFound
        except ImportError as error:  # GitPython tries git while it is imported
            _, is_said, said = str(error).partition("fatal: ")
            hint = "put that right first" if is_said else "is it installed, and is there room on the disk?"
            reason = said.splitlines()[0].rstrip("'") if is_said else error
            raise GitError(f"git cannot be used: {reason}", hint) from error

        hooks = self._no_configured_hooks() if arguments[0] in _WITH_HOOKS else {}
        place = ["-C", str(self.directory), *(["--git-dir=."] if self.bare else [])]
        with _without_git_variables(), tempfile.TemporaryFile() as feed:
            feed.write(stdin)
            feed.seek(0)
            try:
                status, output, errors = Runner("/").execute(
                    ["git", *place, *_OPTIONS, *arguments],
                    istream=feed,
                    with_extended_output=True,
                    with_exceptions=False,
                    stdout_as_string=False,
                    strip_newline_in_stdout=False,
                    env={**_ENVIRONMENT, **hooks, **(env or {})},
                    **self.owner(),
                )
            except (GitCommandNotFound, GitCommandError) as error:
                raise GitError("git is not installed, or not on PATH", "install git: backups are kept in it") from error
            except PermissionError as error:
                raise GitError(
                    f"{self.directory} belongs to another user, and git cannot be run as that user",
                    "run the command as the owner",
                ) from error
        if status != 0:
            said = errors.decode(errors="replace") if isinstance(errors, bytes) else errors
            raise GitError(f"git {arguments[0]} failed in {self.directory}: {said.strip()}", status=int(status))
        return bytes(output)

    def text(self, *arguments: str, stdin: bytes = b"", env: Mapping[str, str] | None = None) -> str:
        """The same as text, without the newline at its end."""
        return os.fsdecode(self.run(*arguments, stdin=stdin, env=env)).removesuffix("\n")

    def shell(self, *arguments: str) -> str:
        """The command line with which a person does the same."""
        place = [f"--git-dir={self.directory}"] if self.bare else ["-C", str(self.directory)]
        return shlex.join(["git", *place, *arguments])

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder for a moment, which git can read and write as whomever it runs."""
        with tempfile.TemporaryDirectory(prefix="quantctl-git-") as folder:
            if owner := self.owner():
                os.chown(folder, owner["user"], owner["group"])
            yield Path(folder)

    def write_blobs(self, contents: Sequence[bytes]) -> list[str]:
        """Store the contents as they are, whatever filters the repository has; their object names."""
        with self.scratch() as folder:
            paths = [folder / str(number) for number in range(len(contents))]
            for path, content in zip(paths, contents, strict=True):
                with os.fdopen(files.create_new(path), "wb") as file:
                    file.write(content)
            lines = "".join(f"{_quoted(path)}\n" for path in paths)
            return self.text("hash-object", "-w", "--no-filters", "--stdin-paths", stdin=lines.encode()).splitlines()

    def read_blobs(self, names: Collection[str]) -> dict[str, bytes]:
        """The content of each blob, by its name. Raises GitError if one is not there."""
        found = dict(zip(names, self.read_objects(names), strict=True))
        if lost := [name for name, content in found.items() if content is None]:
            raise GitError(f"{self.directory} lacks {', '.join(lost)}", f"{self.shell('fsck')} says what else is lost")
        return {name: content for name, content in found.items() if content is not None}

    def read_objects(self, names: Collection[str]) -> list[bytes | None]:
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
        with self.scratch() as folder:
            env = {"GIT_INDEX_FILE": str(folder / "index")}
            self.run("update-index", "-z", "--index-info", stdin=os.fsencode(lines), env=env)
            return self.text("write-tree", env=env)

    def write_commit(self, tree: str, message: str, parent: str | None) -> str:
        parents = ["-p", parent] if parent else []
        # a commit's message is UTF-8: git would take other bytes for Latin-1
        return self.text("commit-tree", tree, *parents, "-F", "-", stdin=message.encode(errors="backslashreplace"))

    def ref(self, name: str) -> str | None:
        """What the ref points to, or None when it does not exist."""
        line = self.text("for-each-ref", "--format=%(refname) %(objectname)", name)
        values = dict(entry.split(" ") for entry in line.splitlines())
        return values.get(name)

    def move_ref(self, name: str, new: str, old: str | None) -> None:
        """Point the ref to `new` if it still points to `old`. Raises GitError if it does not."""
        self.run("update-ref", name, new, old or "")

    def update_refs(self, *commands: str) -> None:
        """Several changes of refs, all or none, in the words of `git update-ref --stdin`."""
        self.run("update-ref", "--stdin", stdin="".join(f"{command}\n" for command in commands).encode())

    def _no_configured_hooks(self) -> dict[str, str]:
        """Variables that turn off the hooks of the configuration (git 2.54), which core.hooksPath does not reach."""
        try:
            keys = self.text("config", "--null", "--name-only", "--get-regexp", r"^hook\..*\.command$").split("\0")
        except GitError as error:
            if error.git_status != 1:  # 1: there is none
                raise
            return {}
        names = sorted({key.removesuffix(".command") for key in keys if key})
        pairs = {f"GIT_CONFIG_KEY_{i}": f"{name}.enabled" for i, name in enumerate(names)}
        pairs |= {f"GIT_CONFIG_VALUE_{i}": "false" for i in range(len(names))}
        return pairs | {"GIT_CONFIG_COUNT": str(len(names))}


def _quoted(path: Path) -> str:
    """As git reads a path that stands on a line of its own."""
    plain = frozenset(range(0x20, 0x7F)) - set(b'"\\')
    return '"' + "".join(chr(byte) if byte in plain else f"\\{byte:03o}" for byte in os.fsencode(path)) + '"'


def toplevel(directory: Path) -> Path | None:
    """The root of the working tree that `directory` lies in, or None outside a repository.

    Raises GitError with git's own fix when git does not trust the repository's owner, and when it cannot tell.
    """
    try:
        return Path(Git(directory, as_owner=False).text("rev-parse", "--show-toplevel"))
    except GitError as error:
        if "dubious ownership" in error.message:
            raise GitError(
                f"git does not trust {directory}: another user owns it",
                f"if you do: git config --global --add safe.directory {shlex.quote(str(directory))}",
            ) from error
        if any(words in error.message for words in _NO_CHECKOUT):
            return None
        if error.hint is None:
            error.hint = "mend what git complains about: quantctl keeps its backups in git"
        raise


def is_ignored(root: Path, path: Path) -> bool:
    """Whether the repository at `root` ignores `path` (a tracked file never counts as ignored)."""
    try:
        Git(root, as_owner=False).run("check-ignore", "-q", "--", str(path))
    except GitError as error:
        if error.git_status == 1 or "beyond a symbolic link" in error.message:
            return False
        raise
    return True
