"""Which tracked files of a checkout differ from its commit, found without running any program of the repository.

`git status` runs the filters that a repository's configuration names. Here it looks at the working tree through a
repository made for the moment, which has the index and the objects and none of the configuration, so that no filter,
hook or monitor is known to it. What a filter would have hidden counts as a difference once the file's time has changed.
"""

from __future__ import annotations

import os
from pathlib import Path

from quantctl.disk.files import create_new
from quantctl.history.git import Git, GitError

_SETTINGS = "filemode|symlinks|ignorecase|autocrlf|eol|checkstat|trustctime|precomposeunicode"
"""Of `core`: how the files on disk were written."""
_SUBMODULE = "160000"


def changed_files(top: Path) -> set[str] | None:
    """Paths below the checkout's root, submodules with changes of their own included.

    None where git cannot tell: a partial clone may lack the trees that it takes.
    """
    repository = Git(top)
    try:
        own, common = (Path(top, repository.text("rev-parse", name)) for name in ("--git-dir", "--git-common-dir"))
        changed = _changed(repository, own.resolve(), common.resolve())
        for path in _submodules(repository) - changed:
            if (top / path / ".git").exists() and changed_files(top / path):
                changed.add(path)
    except GitError:
        return None
    return changed


def _submodules(repository: Git) -> set[str]:
    entries = _records(repository.run("ls-files", "-z", "--stage"))
    return {entry.partition("\t")[2] for entry in entries if entry.startswith(_SUBMODULE)}


def _records(output: bytes) -> list[str]:
    return [os.fsdecode(record) for record in output.split(b"\0") if record]


def _changed(repository: Git, own: Path, common: Path) -> set[str]:
    with repository.scratch() as view:
        for folder in ("refs", "objects", "info"):
            (view / folder).mkdir(mode=0o755)
        _write(view / "HEAD", _head(repository))
        _write(view / "config", _config(repository))
        attributes = common / "info" / "attributes"
        if attributes.is_file():
            _write(view / "info" / "attributes", attributes.read_bytes())
        for shared in own.glob("sharedindex.*"):
            (view / shared.name).symlink_to(shared)
        env = {
            "GIT_DIR": str(view),
            "GIT_WORK_TREE": str(repository.directory),
            "GIT_INDEX_FILE": str(own / "index"),
            "GIT_OBJECT_DIRECTORY": str(common / "objects"),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
            "HOME": str(view),
            "XDG_CONFIG_HOME": str(view),
        }
        # into a submodule git would go with that one's own configuration
        options = ("--porcelain", "-z", "--untracked-files=no", "--no-renames", "--ignore-submodules=dirty")
        return {entry[3:] for entry in _records(repository.run("status", *options, env=env))}


def _write(path: Path, data: bytes) -> None:
    with os.fdopen(create_new(path, 0o644), "wb") as file:
        file.write(data)


def _head(repository: Git) -> bytes:
    try:
        return repository.run("rev-parse", "--verify", "--quiet", "HEAD")
    except GitError:
        return b"ref: refs/heads/unborn\n"


def _config(repository: Git) -> bytes:
    lines = ["[core]", "bare = false", "repositoryformatversion = 1"]
    try:
        found = _records(repository.run("config", "--null", "--get-regexp", rf"^core\.({_SETTINGS})$"))
    except GitError as error:
        if error.git_status != 1:
            raise
        found = []
    for key, _, value in (entry.partition("\n") for entry in found):
        if (value or "true").isalnum():
            lines.append(f"{key.removeprefix('core.')} = {value or 'true'}")
    lines += ["[extensions]", f"objectformat = {repository.text('rev-parse', '--show-object-format')}"]
    return "".join(f"{line}\n" for line in lines).encode()
