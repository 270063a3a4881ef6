"""Who may do what with a file, carried over to the one that replaces it: owner, mode, access lists, attributes."""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import stat
from pathlib import Path

from quantctl.errors import QuantctlError

_ACCESS = ("system.",)
"""Names of attributes that say who has access: POSIX and NFSv4 lists. Without one of them access would be another."""
_KEPT = (*_ACCESS, "user.", "security.selinux", "security.SMACK64")
"""What else is carried over. Others are the kernel's own (hashes of the content, layers of an overlay)."""
_NONE_HERE = (errno.ENOTSUP, errno.ENOSYS)


def carry_over(source: Path, descriptor: int, mode: int) -> None:
    """Give the open new file what `source` has, and `mode`: nobody gets access to it who had none to `source`.

    Raises QuantctlError where that cannot be, OSError when the disk refuses.
    """
    _give(source, descriptor, mode)
    wanted = _attributes(source)
    # what the folder's default list gave to the new file, and the source does not have
    for name in _attributes(descriptor).keys() - wanted.keys():
        os.removexattr(descriptor, name)
    for name, value in wanted.items():
        _set(source, descriptor, name, value)
    os.fchmod(descriptor, mode)


def _attributes(file: Path | int) -> dict[str, bytes]:
    try:
        names = [name for name in os.listxattr(file) if name.startswith(_KEPT)]
    except OSError as error:
        if error.errno in _NONE_HERE:
            return {}
        raise
    found = {}
    for name in names:
        with contextlib.suppress(PermissionError):  # a label that this user may not see
            found[name] = os.getxattr(file, name)
    return found


def _set(source: Path, descriptor: int, name: str, value: bytes) -> None:
    try:
        os.setxattr(descriptor, name, value)
    except OSError as error:
        if name.startswith(_ACCESS):
            raise QuantctlError(
                f"the access list of {source} cannot be kept ({name}: {error.strerror})",
                "run the command as the file's owner",
            ) from error
        if error.errno not in (errno.EPERM, errno.EACCES, *_NONE_HERE):
            raise


def _give(source: Path, descriptor: int, mode: int) -> None:
    """Give the new file `source`'s owner and group, or see that it makes no difference to anybody's access."""
    owner = source.stat()
    try:
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
    except OSError:  # giving a file away needs privileges, its own group needs membership
        with contextlib.suppress(OSError):
            os.fchown(descriptor, -1, owner.st_gid)
    new = os.fstat(descriptor)
    group, others = (mode >> 3) & 0o7, mode & 0o7
    if new.st_gid != owner.st_gid and group != others:
        raise QuantctlError(
            f"{source} belongs to group {_group(owner.st_gid)}, which a new file cannot be given to",
            "run the command as a member of that group",
        )
    if new.st_uid != owner.st_uid and not (group | others) & 0o4:
        raise QuantctlError(
            f"{source} belongs to {user(owner.st_uid)}, who could no longer read it",
            "run the command as the file's owner",
        )


def user(uid: int) -> str:
    """The name of a user, or the number of one that has none here."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def refuse_foreign_link(path: Path) -> None:
    """Raise QuantctlError if `path` is somebody else's link: neither ours, nor root's, nor the target's owner's."""
    try:
        link = path.lstat()
        if not stat.S_ISLNK(link.st_mode):
            return
        target = path.stat()
    except FileNotFoundError:
        return
    if link.st_uid not in (os.geteuid(), 0, target.st_uid):
        raise QuantctlError(
            f"{path} is a link that {user(link.st_uid)} made to {path.resolve()}: nothing is written through it",
            "put the real file or folder in its place",
        )
