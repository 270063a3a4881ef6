"""Memory for the results of the CPU kernels: what a step has freed is there for the next one."""

from __future__ import annotations

import platform
import resource
import sys

import pytest
import torch

pytest.importorskip("numba")

from quantctl.kernels.cpu.room import _OWN, room_like

PAGE = resource.getpagesize()


@pytest.mark.skipif(sys.platform != "linux", reason="madvise and mallopt are Linux's")
@pytest.mark.skipif(not platform.libc_ver()[0], reason="glibc's allocator")
def test_a_step_touches_no_new_pages(monkeypatch) -> None:
    for name in _OWN:
        monkeypatch.delenv(name, raising=False)
    x = torch.zeros(512, 1024)

    def step() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        kept = [room_like(x).fill_(1.0) for _ in range(40)]
        del kept
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    step()
    step()
    assert step() < 40 * x.nbytes // PAGE // 10
