"""What a kind of machine needs around a run: variables, and CANN's own file on Ascend NPUs."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from quantctl.errors import QuantctlError
from quantctl.script.platforms import Platform

# the file's own words go to standard error: standard output is the environment after it
_SOURCE = 'source "$0" "" >&2; exec "$1" -0'
_BASHS_OWN = ("_", "SHLVL", "PWD", "OLDPWD")


def sourced(platform: Platform, environment: Mapping[str, str], missing: Callable[[str, str], None]) -> dict[str, str]:
    """What the platform's setup file changes in the environment; nothing where there is no file to source.

    SET_ENV names the file, else it is the first of the platform's that exists; a shell that has CANN already needs
    none. Only a shell can say what the file does, so one is run, and asked for its environment.
    """
    named = environment.get("SET_ENV")
    if not platform.setup or (not named and environment.get("ASCEND_HOME_PATH")):
        return {}
    places = [named] if named else [place.format(home=environment.get("HOME", "")) for place in platform.setup]
    found = next((place for place in places if Path(place).is_file()), None)
    if found is None:
        missing(f"SET_ENV={places[0]} does not exist", "set SET_ENV to CANN's set_env.sh")
        return {}
    command = ["bash", "-c", _SOURCE, os.path.abspath(found), shutil.which("env") or "env"]
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    if done.returncode:
        raise QuantctlError(
            f"SET_ENV={found} ended the shell that sourced it, with exit status {done.returncode}",
            "its own words are above; source it yourself before, and it is not needed here",
        )
    after = dict(entry.split("=", 1) for entry in os.fsdecode(done.stdout).split("\0") if "=" in entry)
    return {name: value for name, value in after.items() if environment.get(name) != value and name not in _BASHS_OWN}


def variables(platform: Platform, environment: Mapping[str, str], processes: int) -> list[str]:
    """NAME=VALUE of a run on this platform; one that the caller has set stays as it is, unless it must be empty."""
    return [
        f"{name}={(environment.get(name) or value.format(processes=processes)) if value else ''}"
        for name, value in platform.variables
    ]
