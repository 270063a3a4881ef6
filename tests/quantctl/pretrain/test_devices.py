"""Which device a rank takes, and how large a sum of gradients one collective makes."""

from __future__ import annotations

import pytest
import torch

from quantctl.errors import QuantctlError
from quantctl.pretrain import gradients
from quantctl.pretrain.parallel import choose_device


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setenv("LOCAL_RANK", "1")

    def ranks(number: int) -> None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(number))

    return ranks


def test_each_rank_has_a_device(two_gpus) -> None:
    two_gpus(2)
    assert choose_device() == torch.device("cuda", 1)


def test_more_ranks_than_devices_are_refused(two_gpus) -> None:
    two_gpus(8)
    with pytest.raises(QuantctlError, match="8 processes on a machine with 2 GPUs"):
        choose_device()
    assert choose_device("gloo") == torch.device("cuda", 1)


def test_gradients_are_summed_in_buckets(monkeypatch) -> None:
    monkeypatch.setattr(gradients, "_BUCKET", 10)
    sizes = [4, 6, 1, 30, 2, 3]
    buckets = list(gradients._buckets(map(torch.zeros, sizes)))
    assert [[tensor.numel() for tensor in bucket] for bucket in buckets] == [[4, 6], [1], [30], [2, 3]]
