"""What quantctl makes for a tree is as private as the tree: group and others get no more than they have there."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from quantctl.errors import QuantctlError
from quantctl.tree.tree import find_tree

_CLASSES = ((stat.S_IRGRP | stat.S_IXGRP, stat.S_IRWXG), (stat.S_IROTH | stat.S_IXOTH, stat.S_IRWXO))
"""What lets a class of users read a folder, and all that can be given to it."""


def as_private_as(tree: Path) -> None:
    """Withhold from group and others, for all that this process and its children make from now on, what they lack at
    `tree`. The umask goes on to withhold what it did.
    """
    mode = tree.stat().st_mode
    denied = sum(every for needed, every in _CLASSES if mode & needed != needed)
    os.umask(os.umask(0o077) | denied)


def as_private_as_tree_in_use(megatron: Path | None = None) -> None:
    """The same for the tree that a command will use; without one, the command itself will say so."""
    with contextlib.suppress(QuantctlError, OSError):
        as_private_as(find_tree(megatron).root)
