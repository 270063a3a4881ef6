"""Counts every quantized product by site, spec and product, and by module: the evidence that a run used its formats.

With QUANTCTL_RUN_DIR in the environment the process writes <it>/proof/rank<RANK>-<pid>.json: at the first count,
then at most every INTERVAL seconds, and at exit. A process killed without notice loses that last interval.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quantctl.errors import QuantctlError
from quantctl.kernels import dispatch
from quantctl.kernels.measure import coverage
from quantctl.spec import NONE, PRODUCTS

INTERVAL = 10.0
"""Seconds between two writes."""

_GRADIENTS = PRODUCTS[1:]

Calls = dict[str, dict[str, dict[str, int]]]

_lock = threading.Lock()  # autograd runs backward products in threads of its own
_expected: dict[str, dict[str, str]] = {}
"""What the selectors say of each module that has a name, by site."""
_next_write = 0.0
_written = False


class Tally:
    """Calls of one site's products under one spec, of one module where it has a name."""

    def __init__(self, site: str) -> None:
        self.site = site
        self.calls: dict[str, int] = {}

    def add(self, product: str) -> None:
        """One call of `product` (fprop, dgrad, wgrad)."""
        calls = self.calls
        with _lock:
            calls[product] = calls.get(product, 0) + 1
        if product in _GRADIENTS:  # not the first of a layer
            return
        if product == "fprop":
            coverage.counted(self.site)
        if time.monotonic() >= _next_write:
            write()


_tallies: dict[tuple[str | None, str, str], Tally] = {}
"""By module, None where it has no name, site and spec."""


def tally(site: str, spec: str, module: str | None = None) -> Tally:
    """That of `site` (linear, lm_head, qk, pv) under canonical `spec`: the same one at every call.

    module: whose products they are, where its model has named it. Stock products (`none`) are counted for modules only.
    Site `attention` (attention_dispatch.py) counts calls under fused and unfused, by who computed or why not.
    """
    key = (module, site, spec)
    found = _tallies.get(key)
    if found is None:
        with _lock:
            found = _tallies.setdefault(key, Tally(site))
    return found


def forget() -> None:
    """Count from 0 on, also in the tallies that contexts of earlier forwards have."""
    for one in _tallies.values():
        one.calls.clear()


def expect(module: str, literals: Mapping[str, str]) -> None:
    """A module of that name is to compute its products, by site, as the literals say."""
    with _lock:
        _expected[module] = dict(literals)


def _counted() -> list[tuple[tuple[str | None, str, str], dict[str, int]]]:
    """Calls by product, of what was called at all."""
    with _lock:
        return [(key, dict(tally.calls)) for key, tally in _tallies.items() if tally.calls]


def by_module() -> dict[str, dict[str, dict[str, Any]]]:
    """{module: {site: {says: literal, calls: {spec: {product: calls}}}}} of this process."""
    with _lock:
        expected = dict(_expected)
    found: dict[str, dict[str, dict[str, Any]]] = {
        module: {site: {"says": text, "calls": {}} for site, text in said.items()} for module, said in expected.items()
    }
    for (module, site, spec), calls in _counted():
        if module is not None:
            own = found.setdefault(module, {}).setdefault(site, {"says": "", "calls": {}})
            own["calls"][spec] = calls
    return found


def snapshot() -> Calls:
    """This process's counts: {site: {spec: {product: calls}}}."""
    found: Calls = {}
    for (_, site, spec), calls in sorted(_counted(), key=lambda item: item[0][1:]):
        if spec != NONE:
            of_spec = found.setdefault(site, {}).setdefault(spec, {})
            for product, n in sorted(calls.items()):
                of_spec[product] = of_spec.get(product, 0) + n
    return found


def write() -> None:
    """Write the counts now, if there is a run directory. Atomic: a reader sees the old file or the new one.

    Raises QuantctlError if the first write fails, while nothing is lost yet; a later failure (a full disk) is only
    reported, because a training is worth more than its last counts.
    """
    global _next_write, _written
    _next_write = time.monotonic() + INTERVAL
    run_dir = os.environ.get("QUANTCTL_RUN_DIR")
    if not run_dir:
        return
    rank, pid = int(os.environ.get("RANK", "0")), os.getpid()
    target = Path(run_dir) / "proof" / f"rank{rank}-{pid}.json"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        record = {"rank": rank, "pid": pid, "calls": snapshot(), "modules": coverage.report()}
        record["by_module"] = by_module()
        with os.fdopen(handle, "w") as file:
            json.dump(record | {"kernels": sorted(dispatch.computed)}, file)
        os.replace(temporary, target)
    except OSError as error:
        message = f"cannot write the hit counts to {target}: {error.strerror or error}"
        if not _written:
            raise QuantctlError(message, "make QUANTCTL_RUN_DIR a directory this process can write to") from error
        print(f"quantctl: {message}", file=sys.stderr)
    _written = True


def _write_at_exit() -> None:
    if _counted():
        write()


def _forget_parent() -> None:
    """A forked child counts for itself: what it inherited is in its parent's file."""
    global _lock, _next_write, _written
    _lock = threading.Lock()  # the parent's may be held by a thread that does not exist here
    forget()
    coverage.forget()
    dispatch.computed.clear()
    _next_write = 0.0
    _written = False


atexit.register(_write_at_exit)
os.register_at_fork(after_in_child=_forget_parent)
