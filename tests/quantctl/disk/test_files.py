"""Creating and replacing files: nothing goes through a planted link, nobody gets access who had none."""

from __future__ import annotations

import os
import re
import stat
import struct
import tempfile
from pathlib import Path

import pytest

from quantctl.disk import files
from quantctl.errors import QuantctlError
from quantctl.history.replace import Content, Replacement, clear, put, stage

ACL, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
USER_OBJECT, USER, GROUP_OBJECT, MASK, OTHER = 0x01, 0x02, 0x04, 0x10, 0x20
STRANGER = 12345
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="acting as another user needs root, which CI is")


def access_list(*entries: tuple[int, int, int]) -> bytes:
    """A POSIX access list as the kernel keeps it: (tag, permissions, id) entries."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def shared_with(uid: int, permissions: int) -> bytes:
    nobody = 0xFFFFFFFF
    entries = [(USER_OBJECT, 6, nobody), (USER, permissions, uid), (GROUP_OBJECT, 0, nobody)]
    return access_list(*entries, (MASK, permissions, nobody), (OTHER, 0, nobody))


def as_user(uid: int, act) -> str:
    """What `act()` raised in a process of that user; empty when it went through."""
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        said = ""
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            act()
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        finally:
            os.write(writer, said.encode())
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    return said


@pytest.fixture
def path():
    """A file that is to be replaced, in a folder that anybody can get to: pytest's own are for its user alone."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield _source(Path(folder).resolve())


def _source(folder):
    file = folder / "source" / "layers.py"
    file.parent.mkdir()
    file.write_bytes(b"old")
    file.chmod(0o640)
    return file


def replace(path, data=b"new"):
    """As an operation does it, which leaves nothing beside the file whatever happens."""
    before, after = (Content(content, files.mode_of(path)) for content in (path.read_bytes(), data))
    item = Replacement(path, files.temporary(path, files.secrets.token_hex(8)), before, after)
    try:
        stage(item)
        assert put(item)
    finally:
        clear(item)


def attribute(path, name, value):
    try:
        os.setxattr(path, name, value)
    except OSError:
        pytest.skip(f"no {name} on this file system")


PLANTED = {
    "a fixed name": lambda: ".layers.py.quantctl",
    "the process's": lambda: f".layers.py.{os.getpid()}",
    "the random one": lambda: f".layers.py.{'0' * 16}.quantctl",
}
"""The first two were taken once; the last is what the random name is made to be."""

WRITERS = {
    "replaced": replace,
    "new": lambda path: files.write_new(path, b"new"),
    "created": lambda path: os.close(files.create_new(path.with_name("created"))),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("name", PLANTED.values(), ids=PLANTED)
def test_nothing_is_written_through_a_planted_link(path, tmp_path, write, name, monkeypatch):
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    monkeypatch.setattr(files.secrets, "token_hex", lambda size: "0" * 2 * size)
    path.with_name(name()).symlink_to(victim)
    try:
        write(path)
    except FileExistsError:
        assert path.read_bytes() == b"old"
    assert victim.read_bytes() == b"mine"
    assert not path.is_symlink()


@pytest.mark.parametrize("target", ["there", "dangling"])
def test_a_file_is_not_created_through_a_link(path, tmp_path, target):
    (tmp_path / "there").write_bytes(b"mine")
    link = path.with_name("lock")
    link.symlink_to(tmp_path / target)
    with pytest.raises(FileExistsError):
        files.create_new(link)
    for mode in ("w", "a", "r+"):
        with pytest.raises(OSError, match="symbolic link"):
            open(link, mode, opener=files.no_link).close()
    files.write_new(link, b"new")
    assert link.read_bytes() == b"new"
    assert (tmp_path / "there").read_bytes() == b"mine"
    assert not (tmp_path / "dangling").exists()


def test_a_pipe_in_the_place_of_a_log_is_refused(path):
    os.mkfifo(path.with_name("log"))
    with pytest.raises(OSError, match="log"):
        open(path.with_name("log"), "ab", opener=files.no_link).close()


def test_appending_and_truncating_as_ever(path):
    log = path.with_name("log")
    for mode, text in (("a", "one"), ("a", "two"), ("w", "three"), ("a", "four")):
        with open(log, mode, opener=files.no_link) as file:
            file.write(text)
    assert log.read_text() == "threefour"


ATTRIBUTES = {"a note": ("user.note", b"mine"), "an access list": (ACL, shared_with(STRANGER, 4))}


@pytest.mark.parametrize(("name", "value"), ATTRIBUTES.values(), ids=ATTRIBUTES)
def test_attributes_are_kept(path, name, value):
    attribute(path, name, value)
    before = path.stat()
    replace(path)
    assert path.read_bytes() == b"new"
    assert os.getxattr(path, name) == value
    assert path.stat().st_mode == before.st_mode
    assert path.stat().st_ino != before.st_ino


def test_the_folders_default_list_gives_nobody_access(path):
    attribute(path.parent, DEFAULT, shared_with(STRANGER, 6))
    replace(path)
    assert ACL not in os.listxattr(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_an_access_list_that_cannot_be_kept_is_a_refusal(path, monkeypatch):
    attribute(path, ACL, shared_with(STRANGER, 4))

    def setxattr(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "setxattr", setxattr)
    with pytest.raises(QuantctlError, match=r"access list of .*layers\.py cannot be kept"):
        replace(path)
    assert path.read_bytes() == b"old"
    assert os.listdir(path.parent) == ["layers.py"]


OWNERS = {
    # owner, group, mode, what a stranger who may write to the folder is told
    "all may read": (0, 0, 0o644, ""),
    "its group may write": (0, 0, 0o664, "QuantctlError: .* belongs to group root"),
    "a group is kept out": (0, 0, 0o604, "QuantctlError: .* belongs to group root"),
    "a group of the stranger's": (0, STRANGER, 0o640, ""),
    "the owner alone": (STRANGER, STRANGER, 0o600, ""),
}


@ROOT_ONLY
@pytest.mark.parametrize(("uid", "gid", "mode", "said"), OWNERS.values(), ids=OWNERS)
def test_a_strangers_replacement_widens_nothing(path, uid, gid, mode, said):
    os.chown(path, uid, gid)
    path.chmod(mode)
    path.parent.chmod(0o777)
    assert re.match(said or "$", as_user(STRANGER, lambda: replace(path)))
    found = path.stat()
    assert (found.st_gid == gid or mode in (0o644, 0o600), stat.S_IMODE(found.st_mode)) == (True, mode)
    assert path.read_bytes() == (b"old" if said else b"new")
    assert os.listdir(path.parent) == ["layers.py"]


@ROOT_ONLY
def test_what_root_makes_belongs_to_the_folders_owner(path):
    os.chown(path, STRANGER, STRANGER)
    os.chown(path.parent, STRANGER, STRANGER)
    replace(path)
    files.write_new(path.with_name("journal"), b"")
    os.close(files.create_new(path.with_name("lock")))
    files.private_dir(path.parent / "a" / "b")
    for made in path.parent.rglob("*"):
        assert (made.stat().st_uid, made.stat().st_gid) == (STRANGER, STRANGER), made


@ROOT_ONLY
def test_a_folder_is_not_made_through_somebody_elses_link(path, tmp_path):
    (tmp_path / "victim").mkdir()
    link = path.parent / "state"
    link.symlink_to(tmp_path / "victim")
    assert files.private_dir(link / "a").is_dir()
    os.chown(link, STRANGER, STRANGER, follow_symlinks=False)
    with pytest.raises(QuantctlError, match=r"is a link that user 12345 made to .*victim: nothing is written"):
        files.private_dir(link / "b")
    assert os.listdir(tmp_path / "victim") == ["a"]


PRIVACY = {
    # mode of the folder, mode of a file made in it with umask 022 and 077
    "the owner's alone": (0o700, 0o600, 0o600),
    "all may look": (0o755, 0o644, 0o600),
    "anybody may write": (0o1777, 0o644, 0o600),
    "shared by a group": (0o2770, 0o660, 0o660),
}


@pytest.mark.parametrize(("folder", "common", "strict"), PRIVACY.values(), ids=PRIVACY)
def test_a_new_file_is_as_private_as_its_folder(tmp_path, folder, common, strict):
    made = files.private_dir(tmp_path / "made" / "state")
    assert [stat.S_IMODE(each.stat().st_mode) for each in (made, made.parent)] == [0o700, 0o700]
    tmp_path.chmod(folder)
    for umask, mode in ((0o022, common), (0o077, strict)):
        name = f"{umask:o}"
        before = os.umask(umask)
        try:
            os.close(files.create_new(tmp_path / f"{name}.lock"))
            files.write_new(tmp_path / f"{name}.json", b"")
            like = files.private_dir(tmp_path / name / "below", like=tmp_path)
        finally:
            os.umask(before)
        assert files.mode_of(like) == folder
        assert [files.mode_of(tmp_path / f"{name}{ending}") for ending in (".lock", ".json")] == [mode, mode]
