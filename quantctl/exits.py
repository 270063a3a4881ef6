"""Exit statuses, and the one place where errors become them: for the command line and the programs beside it."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from quantctl.errors import QuantctlError

FINE, DIFFERS, REFUSED, BUG, INTERRUPTED = 0, 1, 2, 3, 130


def _say(text: str) -> None:
    alone = os.environ.get("WORLD_SIZE", "1") in ("", "1")
    where = "" if alone or "RANK" not in os.environ else f"[rank {os.environ['RANK']}] "
    sys.stderr.write(f"quantctl: {where}{text}\n")


def exit_with(program: Callable[[], int | None]) -> NoReturn:
    """Run `program` and exit with what it returns (None is 0); errors become the statuses that quantctl documents.

    QuantctlError is 2 unless it has its own `status`, a failing system call is 2; any other exception is a bug here and
    shows its traceback.
    """
    try:
        status = program() or FINE
    except QuantctlError as error:
        _say(error.message)
        if error.hint:
            sys.stderr.write(f"  {error.hint}\n")
        status = getattr(error, "status", REFUSED)
    except KeyboardInterrupt as error:
        _say(f"interrupted: {error}" if str(error) else "interrupted")
        status = INTERRUPTED
    except BrokenPipeError:
        # the reader of our output left; nobody is there to be told
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = FINE
    except OSError as error:
        _say(f"{error.filename or 'the operating system'}: {error.strerror or error}")
        status = REFUSED
    except Exception:
        traceback.print_exc()
        from quantctl.outside.masking import masked

        said = " ".join(masked(sys.argv))
        _say(f"this is a bug in quantctl. Please report the lines above with the command: {said}")
        status = BUG
    sys.exit(status)
