"""How long `quantctl report` takes over a trainer's log of a million iterations, and how much memory.

    python tests/benchmarks/report_log.py [ITERATIONS] [ROUNDS]

The log is Megatron-LM's: its arguments, a line an iteration, validations and memory reports between. The same numbers
give the same log. Prints CPU seconds of the whole command (a machine that others use has no other clock), the peak of
its resident memory, and the microseconds a line.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median

LINE = (
    " [2026-11-21 {:02}:{:02}:{:02}.086150] iteration {:8d}/{:8d} | consumed samples: {:12d} | "
    "elapsed time per iteration (ms): {:.1f} | throughput per GPU (TFLOP/s/GPU): {:.1f} | "
    "learning rate: {:.6E} | global batch size: {:5d} | lm loss: {:.6E} | loss scale: 1.0 | "
    "grad norm: {:.3f} | number of skipped iterations:   0 | number of nan iterations:   0 |\n"
)
ARGUMENTS = {"log_interval": 1, "seed": 1, "seq_length": 4096, "global_batch_size": 256, "lr": 0.0003}
BETWEEN = 1000


def written(iterations: int) -> Iterator[str]:
    """The lines of the log."""
    yield "------------------------ arguments ------------------------\n"
    for name, value in ARGUMENTS.items():
        yield f"  {name} {'.' * (48 - len(name))} {value}\n"
    yield "-------------------- end of arguments ---------------------\n"
    for at in range(1, iterations + 1):
        loss = 2.0 + 9.0 / math.sqrt(at) + 0.05 * math.sin(at * 0.7)
        when = at % 86400
        yield LINE.format(
            when // 3600, when // 60 % 60, when % 60, at, iterations, at * 256, 700 + at * 37 % 101,
            400 + at * 13 % 47, 3e-4 * (1 - at / iterations), 256, loss, 1 + at * 7 % 11 / 10,
        )  # fmt: skip
        if at % BETWEEN == 0:
            yield "-" * 96 + "\n"
            place = f" validation loss at iteration {at} on validation set"
            yield f"{place} | lm loss value: {loss:.6E} | lm loss PPL: {math.exp(loss):.6E} | \n"
            yield "-" * 96 + "\n"


def measured(log: Path) -> tuple[float, float]:
    """CPU seconds and resident bytes of one report."""
    command = [sys.executable, "-m", "quantctl.cli", "--json", "report", str(log)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        sys.exit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def main() -> None:
    given = [int(word) for word in sys.argv[1:]]
    iterations, rounds = given + [1_000_000, 3][len(given) :]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "train.log"
        with log.open("w") as file:
            file.writelines(written(iterations))
        results = [measured(log) for _ in range(rounds)]
        seconds, peak = median(one for one, _ in results), max(two for _, two in results)
        print(
            f"{iterations:,} iterations, {log.stat().st_size / 1e6:.0f} MB: {seconds:.2f} s CPU (median of {rounds}),"
        )
        print(f"{seconds / iterations * 1e6:.1f} us an iteration, {peak / 2**20:.0f} MiB resident at most")


if __name__ == "__main__":
    main()
