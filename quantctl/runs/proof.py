"""The proof of a run: which products ran in which format, counted by every rank, held against the selectors."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from quantctl.disk.files import write_new
from quantctl.outside import records
from quantctl.outside.records import COUNT, TEXT, TRUTH, WHOLE, WORD, BadRecord, Each, Fields, Named, Shape
from quantctl.runs import modules
from quantctl.runs.modules import ByModule
from quantctl.spec import NONE, SITES, canonical

Calls = dict[str, dict[str, dict[str, int]]]
"""Site -> spec -> product (fprop, dgrad, wgrad) -> number of calls.

Beside the sites, `attention` -> fused -> by whom, and unfused -> why -> number of calls that asked for more than that.
"""

_BYPASS = (
    "the run's layers read no selector: are they Megatron's own, local or Transformer Engine's, and do the patches fit "
    "this tree (quantctl patch --list)?"
)


_PATIENCE = 60.0, 5.0
"""Seconds that node 0 waits for the other nodes' reports: after a success, after a failure."""


@dataclass(frozen=True)
class Proof:
    """What is written to proof.json."""

    ok: bool
    problems: list[str]
    selectors: dict[str, str]
    calls: Calls
    """Summed over ranks."""
    ranks: list[int]
    """Ranks that imported megatron.core from the staged tree."""
    unproven: list[str]
    """Sites ruled by a fork's own selector: its products are not quantctl's and count nothing."""
    modules: dict[str, dict[str, int]] = field(default_factory=dict)
    """By site, summed over ranks: modules that there are, that ran, and that ran in a format."""
    by_module: ByModule = field(default_factory=dict)
    """What the selectors say of each module that has a name, and its calls, summed over ranks."""
    kernels: list[str] = field(default_factory=list)
    """Which families of kernels computed, of all ranks: reference, cpu, triton. They give the same bits."""


_RECORDS = ("import-*.json", "import-*.json.new", "rank*.json", ".rank*.json.*", "node*.json", ".node*.json.*")
"""What processes and nodes leave in RUN_DIR/proof, whole and half written."""
NAME = "proof.json"
_SHAPE = Fields({"ok": TRUTH, "problems": Each(TEXT), "calls": Named(Named(Named(COUNT)))})
"""What a report reads of it."""


def read(path: Path) -> dict[str, Any]:
    """The proof, every field that is read of its type. Raises BadRecord that says what is wrong, and where."""
    data: dict[str, Any] = records.read(path, _SHAPE)
    return data


def clear(run_dir: Path) -> None:
    """Forget an earlier attempt: a proof speaks of one attempt only."""
    (run_dir / NAME).unlink(missing_ok=True)
    folder = run_dir / "proof"
    folder.mkdir(parents=True, exist_ok=True)
    # what is not a record of ours stays
    for path in (path for pattern in _RECORDS for path in folder.glob(pattern)):
        path.unlink(missing_ok=True)


def report_node(run_dir: Path, node: int, status: int, hashes: Mapping[str, str]) -> None:
    """Node k > 0 has ended: its ranks have written their counts. `hashes` are those of the files it ran."""
    record = {"node": node, "exit_status": status, "files": dict(hashes)}
    write_new(run_dir / "proof" / f"node{node}.json", json.dumps(record).encode())


def await_nodes(run_dir: Path, nodes: int, status: int) -> list[dict[str, Any]]:
    """What the other nodes reported, once all have or the patience is over."""
    deadline = time.monotonic() + _PATIENCE[status != 0]
    while len(found := _records(run_dir, "node*.json", _REPORTED)[0]) < nodes - 1 and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


def node_problems(reports: list[dict[str, Any]], nodes: int, hashes: Mapping[str, str]) -> list[str]:
    """Nodes that did not report, failed, or ran other files than node 0."""
    seen = {report["node"]: report for report in reports}
    found = [f"node {node} of {nodes} did not report its end" for node in range(1, nodes) if node not in seen]
    for node, report in sorted(seen.items()):
        if report["exit_status"]:
            found.append(f"node {node} ended with exit status {report['exit_status']}")
        if report["files"] != hashes:
            found.append(f"node {node} ran another Megatron tree than node 0: give all of them the same one")
    return found


_IMPORTED = Fields({"rank": COUNT})
_COUNTED = Fields(
    {"rank": COUNT, "calls": Named(Named(Named(COUNT)))},
    {
        "modules": Named(Fields({"modules": COUNT, "ran": COUNT, "bypassed": Each(TEXT)})),
        "by_module": Named(Named(Fields({"says": TEXT, "calls": Named(Named(COUNT))}))),
        "kernels": Each(WORD),
    },
)
_REPORTED = Fields({"node": COUNT, "exit_status": WHOLE, "files": Named(TEXT)})


def _records(run_dir: Path, pattern: str, shape: Shape) -> tuple[list[dict[str, Any]], list[str]]:
    """What processes or nodes left, and what is wrong with the files that cannot be read."""
    found, damaged = [], []
    for path in sorted((run_dir / "proof").glob(pattern)):
        try:
            found.append(records.read(path, shape))
        except BadRecord as error:
            damaged.append(error.message)
    return found, damaged


def _sum(records: list[dict[str, Any]]) -> Calls:
    total: Calls = {}
    for record in records:
        for site, specs in record["calls"].items():
            for spec, products in specs.items():
                sums = total.setdefault(site, {}).setdefault(spec, {})
                for product, count in products.items():
                    sums[product] = sums.get(product, 0) + count
    return total


def _modules(records: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    total: dict[str, dict[str, int]] = {}
    for record in records:
        for site, seen in (record.get("modules") or {}).items():
            quantized = seen["ran"] - len(seen["bypassed"])
            numbers = {"modules": seen["modules"], "ran": seen["ran"], "quantized": quantized}
            sums = total.setdefault(site, dict.fromkeys(numbers, 0))
            for name, number in numbers.items():
                sums[name] += number
    return total


def _bypassed(selectors: Mapping[str, str], records: list[dict[str, Any]], unproven: Collection[str]) -> list[str]:
    """Modules that ran past a selector which is not none; ranks that said nothing of modules are not judged."""
    found = []
    for site in SITES:
        wanted = canonical(selectors[site], site) if site not in unproven else NONE
        if wanted != NONE:
            ranks = {
                record["rank"]: record["modules"][site] for record in records if site in (record.get("modules") or {})
            }
            found += modules.bypassed(site, wanted, ranks)
    return found


def _problems(
    selectors: Mapping[str, str],
    calls: Calls,
    by_module: ByModule,
    imported: bool,
    unproven: Collection[str],
    status: int,
) -> list[str]:
    if status and not calls:  # what the products would have been is not known
        return [f"the command ended with exit status {status} before any product was counted"]
    if not imported:
        return ["no process of the run imported megatron.core from the staged tree"]
    found = []
    why = f"the command ended with exit status {status} before" if status else _BYPASS
    for site in SITES:
        if site in unproven:
            continue
        says = canonical(selectors[site], site)
        seen = calls.get(site, {})
        wanted = modules.wanted(site, says, by_module)
        if says != NONE and not any(any(seen.get(spec, {}).values()) for spec in wanted - {NONE}) and wanted != {NONE}:
            found.append(f"{site} should have run in {says}, but no such product was called; {why}")
        for other in sorted(seen.keys() - wanted):
            found.append(f"{site} ran in {other}, but its selector says {says}")
        if not status:
            found += modules.misled(site, by_module)
    if selectors.get("attention") == "fused" and not calls.get("attention", {}).get("fused"):
        found.append(f"attention should have run fused, but no such call was made; {why}")
    return found


def merge(
    run_dir: Path,
    selectors: Mapping[str, str],
    unproven: Collection[str] = (),
    beside: Collection[str] = (),
    status: int = 0,
    foreseen: Mapping[str, Mapping[str, str]] | None = None,
) -> Proof:
    """Sum what the ranks counted, judge it, and write RUN_DIR/proof.json.

    `foreseen` is what each module was to compute, by site, as it was known before the run; `beside` are problems found
    elsewhere; `status` is the command's exit status: a run that failed may not have come to
    its products.
    """
    imports, unread = _records(run_dir, "import-*.json", _IMPORTED)
    counted, uncounted = _records(run_dir, "rank*.json", _COUNTED)
    calls = _sum(counted)
    by_module = modules.total(counted)
    problems = _problems(selectors, calls, by_module, bool(imports), unproven, status)
    if foreseen and by_module and not status:
        problems += modules.unforeseen(foreseen, by_module, selectors)
    problems += [*_bypassed(selectors, counted, unproven), *unread, *uncounted, *beside]
    ranks = sorted({record["rank"] for record in imports})
    kernels = sorted({family for record in counted for family in record.get("kernels") or ()})
    seen = _modules(counted)
    proof = Proof(not problems, problems, dict(selectors), calls, ranks, sorted(unproven), seen, by_module, kernels)
    write_new(run_dir / NAME, (json.dumps(asdict(proof), indent=2) + "\n").encode())
    return proof


def lines(proof: Proof) -> list[str]:
    """The proof for people, a line a site that was quantized."""
    shown = []
    for site, specs in proof.calls.items():
        for spec, products in specs.items():
            counts = ", ".join(f"{product} {count}" for product, count in products.items())
            shown.append(f"{site} in {spec}: {counts}" if site in SITES else f"{site} {spec}: {counts}")
    if proof.kernels:
        shown.append(f"quantized by the kernels {', '.join(proof.kernels)}")
    if not any(site in SITES for site in proof.calls):
        shown.append("no quantized product was called")
    return shown + [f"{site}: not provable, a fork's own selector decides it" for site in proof.unproven]
