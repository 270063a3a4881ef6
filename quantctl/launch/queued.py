"""What is said once sbatch has answered: where the job writes and what to type next, or why it was refused."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from quantctl import output
from quantctl.errors import QuantctlError

_MOST_RUNS = 12
"""Run directories that are listed one by one."""

_ANSWERS = tuple(
    re.compile(pattern, re.MULTILINE | re.IGNORECASE)
    for pattern in (r"submitted batch job (\d+)", r"^\s*(\d+)(?:;\S*)?\s*$", r"\bjob\b[^\d\n]{0,20}(\d+)")
)
"""The job's number in sbatch's own words, in those of --parsable, in those of a site's wrapper; the first that fits."""

_REFUSALS = {
    "Requested node configuration is not available": "no node of the partition has the GPUs, CPUs and memory that were "
    "asked for: sinfo -o '%P %D %c %m %G' shows what there is; then --sbatch=--partition=NAME, "
    "--sbatch=--gpus-per-node=N with GPUS_PER_NODE=N, or --platform cpu",
    "Invalid generic resource (gres) specification": "this cluster knows no such devices: sinfo -o '%P %G' shows what "
    "there are; then --sbatch=--gpus-per-node=TYPE:N, or --platform cpu, which asks for none",
    "Requested GRES option unsupported by configured SelectType plugin": "this cluster hands out no GPUs: "
    "--platform cpu asks for none",
    "Invalid partition name specified": "sinfo -s shows the partitions; then --sbatch=--partition=NAME",
    "No partition specified or system default partition": "sinfo -s shows the partitions; then "
    "--sbatch=--partition=NAME",
    "Invalid account or account/partition combination specified": "sacctmgr show associations user=$USER shows yours; "
    "then --sbatch=--account=NAME",
    "Invalid qos specification": "sacctmgr show associations user=$USER shows yours; then --sbatch=--qos=NAME",
    "Requested time limit is invalid (missing or exceeds some limit)": "sinfo -o '%P %l' shows the limits; then "
    "--sbatch=--time=HH:MM:SS",
    "User's group not permitted to use this partition": "sinfo -s shows the partitions; then --sbatch=--partition=NAME",
    "Node count specification invalid": "sinfo -s shows how many nodes a partition has; then --sbatch=--nodes=N",
    "More processors requested than permitted": "sinfo -o '%P %c' shows a node's; then --sbatch=--cpus-per-task=N",
    "Job violates accounting/QOS policy": "your account's limit is reached: squeue --me shows what is under way",
    "Could not establish a configuration source": "no Slurm is set up here: submit on the cluster's login node, or "
    "name its slurm.conf in SLURM_CONF",
    "Unable to contact slurm controller": "sinfo tells whether Slurm answers at all; then submit again",
}
"""Slurm's words (slurm_errno.h) -> the way out."""

_NAMES = {"job-name": "J", "output": "o", "chdir": "D"}
"""Options of sbatch that say where a job writes, and their letters."""


def refused(said: str) -> QuantctlError:
    """The error for what sbatch wrote when it took no job."""
    lines = [re.sub(r"^sbatch: (error|fatal): ", "", line) for line in said.splitlines() if line.strip()]
    reason = lines[-1].removeprefix("Batch job submission failed: ") if lines else "it gave no reason"
    hints = (hint for words, hint in _REFUSALS.items() if words in said)
    known = "man sbatch explains its options; --dry-run shows what it was given"
    return QuantctlError(f"sbatch took no job: {output.shortened(reason)}", next(hints, known))


def _options(argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Name and value of those in _NAMES, as sbatch reads them."""
    letters = {letter: name for name, letter in _NAMES.items()}
    words = iter(argv[1:])
    for word in words:
        name, equals, value = word.removeprefix("--").partition("=")
        if word.startswith("--") and name in _NAMES:
            yield name, value if equals else next(words, "")
        elif word[:1] == "-" and word[1:2] in letters:
            yield letters[word[1]], word[2:] or next(words, "")


def job_number(answer: str) -> str | None:
    """The number of the job that was taken, from what sbatch, or a site's wrapper in its place, printed."""
    return next((found[1] for pattern in _ANSWERS if (found := pattern.search(answer))), None)


def output_file(argv: Sequence[str], job: str, is_array: bool) -> str:
    """Where sbatch puts what a job prints; `*` for what each task of an array, and each node, has of its own."""
    options = dict(_options(argv))
    known = {"%": "%", "x": options.get("job-name", "*"), "A": job, "j": "*" if is_array else job}

    def filled(match: re.Match[str]) -> str:
        return known.get(match[1], "*")

    name = re.sub(r"%\d*(.)", filled, options.get("output", "slurm-%j.out"))
    return os.path.join(options.get("chdir", ""), name)


def _shared(run_dirs: Sequence[str]) -> str:
    """The runs for a shell: themselves, or the folder that holds nothing but them."""
    parents = {str(Path(run).parent) for run in run_dirs}
    if len(run_dirs) > 1 and len(parents) == 1 and Path(*parents).name not in ("runs", ""):
        return shlex.quote(*parents)
    return " ".join(map(shlex.quote, run_dirs))


def _relative(run: str | Path) -> str:
    return os.path.relpath(run) if os.path.isabs(run) and Path(run).is_relative_to(Path.cwd()) else str(run)


def tell(argv: Sequence[str], answer: str, run_dirs: Sequence[str | Path]) -> None:
    """Say the job's number, if the answer does, where it and its runs write, and what to type next: on stderr."""
    if "--test-only" in argv:
        return
    folder = dict(_options(argv)).get("chdir", "")
    job, runs = job_number(answer), [os.path.join(folder, _relative(run)) for run in run_dirs]
    logs = [f"{run}/log.txt" for run in runs]
    shown = logs[:_MOST_RUNS] + ([f"and {len(logs) - _MOST_RUNS} more"] if len(logs) > _MOST_RUNS else [])
    rows = [
        (f"job {job}" if job else "the job", output_file(argv, job or "*", len(runs) > 1)),
        *zip(["its log" if len(logs) == 1 else "their logs", *[""] * len(shown)], shown, strict=False),
        ("waits?", f"squeue --jobs={job}" if job else "squeue --me"),
        *([("trains?", f"tail -F {shlex.quote(logs[0])}")] if len(logs) == 1 else []),
        ("compare", f"quantctl report {_shared(runs)}"),
    ]
    output.say(output.columns(rows))
