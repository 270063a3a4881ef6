"""Reading TensorBoard's event files, with TensorBoard's own reader."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from quantctl.outside.packages import require
from quantctl.outside.records import BadRecord, open_regular
from quantctl.report.curve import Curve
from quantctl.runs.runlog import BATCH, LOSS, TIME, Point

# tag -> the name of the same thing in Megatron's log line
_FIELDS = {
    "lm loss": LOSS,
    "batch-size": BATCH,
}
_TIME = "iteration-time"
_VALIDATION = "lm loss validation"
_MEMORY = "mem-max-allocated-bytes"


_PATTERN = "events.out.tfevents."
_LARGEST = 2**31
"""Bytes of an event file, which is read into memory."""


def is_event_file(path: Path) -> bool:
    return path.name.startswith(_PATTERN)


def has_events(folder: Path) -> bool:
    return os.path.isdir(folder) and any(folder.glob(f"**/{_PATTERN}*"))


def _scalars(file: Path) -> dict[str, list[Any]]:
    """Tag -> its events. Raises BadRecord for a file that TensorBoard cannot read."""
    require("reading event files", {"report": ("tensorboard",)})
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    open_regular(file, _LARGEST).close()
    try:
        events = EventAccumulator(str(file), size_guidance={"scalars": 0})
        events.Reload()
        wanted = {*_FIELDS, _TIME, _VALIDATION, _MEMORY} & set(events.Tags()["scalars"])
        return {tag: events.Scalars(tag) for tag in wanted}
    except Exception as error:  # whatever its reader and the protocol buffers below it raise
        raise BadRecord(
            file, f"it is no event file that TensorBoard reads ({type(error).__name__}: {error})"
        ) from error


def read_events(path: Path) -> tuple[Curve, list[tuple[int, float]], float | None]:
    """Training points, validation (iteration, loss), and peak memory in bytes where it was recorded.

    `path` holds event files itself or in folders below, or is one of them; a resumed run has several, of which the
    newest value of an iteration counts. Raises QuantctlError without the tensorboard package, BadRecord for a file that
    is damaged.
    """
    fields: dict[int, dict[str, float]] = {}
    validation: dict[int, float] = {}
    memory = None
    for file in sorted((path if os.path.isdir(path) else path.parent).glob(f"**/{_PATTERN}*")):
        found = _scalars(file)
        for tag, name in _FIELDS.items():
            for event in found.get(tag, ()):
                fields.setdefault(event.step, {})[name] = event.value
        for event in found.get(_TIME, ()):
            fields.setdefault(event.step, {})[TIME] = event.value * 1000
        validation |= {event.step: event.value for event in found.get(_VALIDATION, ())}
        peaks = [event.value for event in found.get(_MEMORY, ()) if math.isfinite(event.value)]
        memory = max(peaks if memory is None else [memory, *peaks], default=None)
    total = max(fields, default=0)
    curve = Curve.of(Point(step, total, fields[step]) for step in sorted(fields))
    return curve, sorted(validation.items()), memory
