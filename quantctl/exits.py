"""Exit statuses for the programs that stand beside the click commands (`python -m quantctl.pretrain`, `.corpus`)."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from quantctl.errors import QuantctlError

FINE, DIFFERS, REFUSED, BUG, INTERRUPTED = 0, 1, 2, 3, 130


def _say(text: str) -> None:
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    where = f"[rank {os.environ['RANK']}] " if ranks > 1 and "RANK" in os.environ else ""
    sys.stderr.write(f"quantctl: {where}{text}\n")


def exit_with(program: Callable[[], int | None]) -> NoReturn:
    """Run `program` and exit with what it returns (None is 0); errors become the statuses that quantctl documents.

    QuantctlError is 2 unless it has its own `status`; any other exception is a bug here and shows its traceback.
    """
    try:
        status = program() or FINE
    except QuantctlError as error:
        _say(error.message)
        if error.hint:
            sys.stderr.write(f"  {error.hint}\n")
        status = getattr(error, "status", REFUSED)
    except KeyboardInterrupt:
        _say("interrupted")
        status = INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        status = FINE
    except Exception:
        traceback.print_exc()
        _say("this is a bug in quantctl. Please report the lines above with the command: " + " ".join(sys.argv))
        status = BUG
    sys.exit(status)
