"""Inputs that nobody should have to fear: damaged, endless, absurd or hostile ones, a table a kind."""

from __future__ import annotations
