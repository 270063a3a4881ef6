"""Inputs that nobody should have to fear: damaged, endless, absurd or hostile ones, a table a kind."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "support"))
