"""The options of a Megatron tree, from its live parser, in the form of quantctl/lint/megatron_flags/<release>.json.

    PYTHONPATH=TREE python tests/support/megatron_flags.py > quantctl/lint/megatron_flags/RELEASE.json

TREE holds megatron/training: a Megatron-LM checkout of any release, or an unpacked megatron-core wheel since 0.17.1.
Parsers before 0.17 import six, einops, pydantic and tensorstore at the top of other modules.
"""

import argparse
import enum
import json
import os
import sys
import typing
import warnings

import typing_extensions

if not hasattr(typing, "override"):  # 0.17 and later say that they need Python 3.12, for this name alone
    typing.override = typing_extensions.override
warnings.filterwarnings("ignore")
os.environ["NO_VCS_VERSION"] = "1"


def _text(value):
    """A value as it is typed on the command line: a member of an enumeration is its name."""
    return value.name if isinstance(value, enum.Enum) else str(value)


def row(name, action):
    """What is unusual about an option: neither one value, nor text, nor absent by default."""
    switch = action.nargs == 0
    found = {
        "nargs": 1 if action.nargs is None else action.nargs,
        "type": None if switch or action.type is None else getattr(action.type, "__name__", str(action.type)),
        "default": _text(action.default),
        "choices": [_text(choice) for choice in action.choices] if action.choices else None,
        "dest": action.dest,
    }
    usual = {"nargs": 1, "type": None, "default": str(False if switch else None), "choices": None}
    usual["dest"] = name.lstrip("-").replace("-", "_")
    return {key: value for key, value in found.items() if value != usual[key]}


def options(parser):
    """Every option string but --help, sorted."""
    return {
        name: row(name, action)
        for name, action in sorted(parser._option_string_actions.items())
        if not isinstance(action, argparse._HelpAction)
    }


if __name__ == "__main__":
    from megatron.training import arguments

    rows = options(arguments.add_megatron_arguments(argparse.ArgumentParser(allow_abbrev=False)))
    lines = (f" {json.dumps(name)}: {json.dumps(found)}" for name, found in rows.items())
    sys.stdout.write("{\n" + ",\n".join(lines) + "\n}\n")
