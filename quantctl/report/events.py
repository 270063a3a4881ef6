"""Reading TensorBoard's event files, with TensorBoard's own reader."""

from __future__ import annotations

from pathlib import Path

from quantctl.errors import QuantctlError
from quantctl.runlog import Point

# tag -> the name of the same thing in Megatron's log line
_FIELDS = {
    "lm loss": "lm loss",
    "learning-rate": "learning rate",
    "grad-norm": "grad norm",
    "batch-size": "global batch size",
    "throughput": "throughput per GPU (TFLOP/s/GPU)",
}
_VALIDATION = "lm loss validation"
_MEMORY = "mem-max-allocated-bytes"


def has_events(folder: Path) -> bool:
    return folder.is_dir() and any(folder.glob("**/events.out.tfevents.*"))


def read_events(folder: Path) -> tuple[list[Point], list[tuple[int, float]], float | None]:
    """Training points, validation (iteration, loss), and peak memory in bytes where it was recorded.

    `folder` holds event files itself or in folders below; a resumed run has several, of which the newest value of an
    iteration counts. Raises QuantctlError without the tensorboard package.
    """
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError as error:
        raise QuantctlError(
            "event files are read by the tensorboard package", "pip install 'quantctl[report]'"
        ) from error
    fields: dict[int, dict[str, float]] = {}
    validation: dict[int, float] = {}
    memory = None
    for file in sorted(folder.glob("**/events.out.tfevents.*")):
        events = EventAccumulator(str(file), size_guidance={"scalars": 0})
        events.Reload()
        tags = set(events.Tags()["scalars"])
        for tag in tags & _FIELDS.keys():
            for event in events.Scalars(tag):
                fields.setdefault(event.step, {})[_FIELDS[tag]] = event.value
        for event in events.Scalars("iteration-time") if "iteration-time" in tags else ():
            fields.setdefault(event.step, {})["elapsed time per iteration (ms)"] = event.value * 1000
        for event in events.Scalars(_VALIDATION) if _VALIDATION in tags else ():
            validation[event.step] = event.value
        for event in events.Scalars(_MEMORY) if _MEMORY in tags else ():
            memory = max(memory or 0.0, event.value)
    total = max(fields, default=0)
    return [Point(step, total, fields[step]) for step in sorted(fields)], sorted(validation.items()), memory
