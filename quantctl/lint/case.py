"""What the rules ask: one training command, seen with a release's options, a tree, and the machine it is for.

Three answers to every question: yes, no, and None for what cannot be known. A rule that gets None says nothing.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from quantctl.errors import QuantctlError
from quantctl.lint import own_flags
from quantctl.lint.arguments import Arguments, is_unknown, parse
from quantctl.lint.command import Command
from quantctl.lint.machine import is_this_python
from quantctl.lint.megatron_flags import Option, at_least, table
from quantctl.lint.other_parsers import LEGACY, LOCAL, TE, dashed, embedded_options, of_spec, swift_options
from quantctl.lint.program import EMBEDDED, GPT, OTHER, SWIFT
from quantctl.lint.world import Invocation
from quantctl.outside.numbers import real
from quantctl.outside.packages import is_there
from quantctl.spec import NONE, SITES, ProductSpecs, canonical, literal

if TYPE_CHECKING:
    from quantctl.lint.shell import Script
    from quantctl.tree.state import PatchState, TreeState

# they bring more options, which no table knows
_MORE_OPTIONS = ("--yaml-cfg", "--use-checkpoint-args")


@dataclass(frozen=True)
class Setting:
    """What is the same for every command of a call."""

    release: str
    """Whose options count: one of quantctl.lint.megatron_flags.releases()."""
    root: Path | None = None
    """The tree in use; None if another release was asked for."""
    state: TreeState | None = None
    here: bool = False
    """Whether the command is about to run on this machine: then what is installed here counts."""
    selectors: Mapping[str, str] | None = None
    """What --mode and the like say; None: what the command or the tree says."""
    name: str | None = None


@dataclass
class Case:
    """A training command and all that is known about it."""

    command: Command
    setting: Setting
    invocation: Invocation | None = None
    script: Script | None = None
    after: tuple[Invocation, ...] = ()
    """What the script starts behind it and its pipeline."""
    sets_tree: bool = False
    """Whether the script itself changes the tree's selectors: then nobody knows what they say."""

    @cached_property
    def options(self) -> Mapping[str, Option]:
        """Of the parser that reads the command."""
        if self.command.program == EMBEDDED:
            return embedded_options()
        if self.command.program == SWIFT:
            return swift_options(self.setting.release)
        if self.setting.root is not None and self.is_megatron:
            return own_flags.options(self.setting.release, self.setting.root)
        return table(self.setting.release)

    @cached_property
    def arguments(self) -> Arguments:
        if self.command.program == SWIFT:
            words = [dashed(word) for word in self.command.words]
            found = parse(words, self.options)
            found.given = [one for one in found.given if one.values[:1] not in (("false",), ("False",))]
        else:
            found = parse(self.command.words, self.options)
        found.open = found.open or any(found.last(name) for name in _MORE_OPTIONS)
        return found

    # ---- flags ----

    def has(self, name: str) -> bool | None:
        """Whether an option is given; None if words that cannot be known may hold it."""
        if self.arguments.last(name) is not None:
            return True
        return None if self.arguments.open else False

    def text(self, name: str) -> str | None:
        """An option's value, its default if it is absent; None if unknown, absent without default, or no option."""
        given = self.arguments.last(name)
        if given is not None:
            value = given.values[0] if given.values else None
            return None if value is None or is_unknown(value) else value
        option = self.options.get(name)
        if self.arguments.open or option is None or option.default == "None":
            return None
        return option.default

    def number(self, name: str) -> float | None:
        return real(self.text(name) or "")

    def size(self, name: str) -> int | None:
        """A whole number above zero."""
        value = self.number(name)
        return int(value) if value is not None and value > 0 and value.is_integer() else None

    # ---- what they mean ----

    @property
    def is_megatron(self) -> bool:
        """Whether Megatron-LM's own argument parser reads the command."""
        return self.command.program in (GPT, OTHER)

    @cached_property
    def layers_by(self) -> str:
        """The flag or program that decides which layers are built."""
        if self.command.program == EMBEDDED:
            return EMBEDDED
        if self.command.foreign:
            return self.command.script
        if self.is_megatron and self.command.stack_of_its_own:
            return self.command.script
        if self.has("--use-legacy-models") and "--use-legacy-models" in self.options:
            return "--use-legacy-models"
        return "--spec" if self.is_megatron and self.has("--spec") else "--transformer-impl"

    @cached_property
    def implementation(self) -> str | None:
        """`local`, `transformer_engine`, `legacy`, ..., of the layers."""
        by = self.layers_by
        if by == EMBEDDED:
            return LOCAL
        if self.command.foreign:
            return None
        if by == self.command.script:
            return TE
        if by == "--use-legacy-models":
            return LEGACY
        if by == "--spec":
            given = self.arguments.last("--spec")
            return of_spec(given.values if given is not None else ())
        if self.command.program == SWIFT:
            return self.text("--transformer-impl") or (None if self.arguments.open else TE)
        return self.text("--transformer-impl")

    @property
    def local(self) -> bool | None:
        return None if self.implementation is None else self.implementation == LOCAL

    @property
    def rope(self) -> bool | None:
        """Whether positions are rotary."""
        if self.has("--use-rotary-position-embeddings") or self.has("--multi-latent-attention"):
            return True
        kind = self.text("--position-embedding-type")
        return None if kind is None else kind in ("rope", "yarn", "mrope")

    @property
    def sequence_parallel(self) -> bool | None:
        """Megatron switches it off where tensor parallelism is 1."""
        tensor = self.size("--tensor-model-parallel-size")
        return False if tensor == 1 else self.has("--sequence-parallel") if tensor else None

    def at_least(self, release: str) -> bool:
        """Whether the release is that one or later."""
        return at_least(self.setting.release, release)

    # ---- formats ----

    @cached_property
    def selectors(self) -> Mapping[str, str] | None:
        """Role to spec: of `quantctl exec`, else of the options, and the tree's for the rest. None if nothing says."""
        asked = self.command.selectors if self.command.staged else self.setting.selectors
        unclear = self.command.staged or self.command.opaque or self.sets_tree or self.setting.state is None
        if asked is None and unclear:
            return None
        state = self.setting.state
        tree = {} if state is None else {role: spec for role, spec in state.values().items() if role in SITES}
        given = {role: spec for role, spec in (asked or {}).items() if role in SITES}
        return dict.fromkeys(SITES, NONE) | tree | given

    @property
    def quantized(self) -> dict[str, str]:
        """The selectors that are not none."""
        return {role: spec for role, spec in (self.selectors or {}).items() if not _is_none(spec, role)}

    @cached_property
    def formats(self) -> dict[str, frozenset[str]]:
        """Role -> the formats of all that its selector names for an operand somewhere, sometime; but for none."""
        found = {}
        for role, spec in self.quantized.items():
            try:
                found[role] = literal(spec, role).formats
            except QuantctlError:  # rules/format_unknown.py says it
                found[role] = frozenset({re.split("[:;]", spec)[0].strip()})
        return found

    @cached_property
    def products(self) -> dict[str, frozenset[ProductSpecs]]:
        """Role -> what its selector says of operands somewhere, sometime; without what is no literal."""
        found = {}
        for role, spec in self.quantized.items():
            with contextlib.suppress(QuantctlError):
                found[role] = literal(spec, role).products
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """What people call the run."""
        script = self.script.path.stem if self.script is not None and self.script.path is not None else None
        wandb = self.text("--wandb-exp-name") if self.arguments.last("--wandb-exp-name") else None
        return tuple(name for name in (self.setting.name, script, *self.command.names, wandb) if name)

    # ---- the tree and the machine ----

    def lacks(self, patch: str) -> bool | None:
        """Whether the tree that the command gets needs this patch and does not have it; None if no tree is known.

        `quantctl exec` puts in what fits, so there only a patch that cannot be put in is lacking.
        """
        from quantctl.tree.state import PatchState

        if self.setting.state is None or self.command.opaque:
            return False if self.command.staged else None
        found: PatchState = self.setting.state.patches[patch]
        if found is PatchState.AVAILABLE:
            return not self.command.staged
        return found in (PatchState.DOES_NOT_FIT, PatchState.LEFT_TO_FORK)

    def importable(self, module: str) -> bool | None:
        """Whether a top-level module is there, without importing it; None if the command runs on another machine, or
        with another Python than this one."""
        if not self.setting.here or not is_this_python(self.command.interpreter):
            return None
        return is_there(module)


def _is_none(spec: str, role: str) -> bool:
    try:
        return canonical(spec, role) == NONE
    except QuantctlError:
        return False
