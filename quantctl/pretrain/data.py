"""Samples: Megatron's GPTDataset over an indexed dataset, read in the order that the seed gives."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from quantctl.data.tokenizer import Tokenizer
from quantctl.errors import QuantctlError

Batch = dict[str, torch.Tensor]


_PARTS = ("training", "validation", "test")


def _check_files(prefixes: list[str]) -> None:
    for prefix in prefixes:
        for suffix in (".bin", ".idx"):
            if not Path(prefix + suffix).is_file():
                raise QuantctlError(
                    f"--data-path {prefix}: {prefix}{suffix} does not exist",
                    "give the prefix of an indexed dataset, without .bin or .idx",
                )


def _check_split(prefixes: list[str], split: str, matrix: list[tuple[float, float] | None]) -> None:
    """Refuse a part that --split asks for and that gets no document: Megatron would look for its tokens forever."""
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    for prefix in prefixes:
        documents = len(IndexedDataset(prefix))
        for name, bounds in zip(_PARTS, matrix, strict=True):
            if bounds is not None and round(bounds[0] * documents) == round(bounds[1] * documents):
                raise QuantctlError(
                    f"--split {split} leaves the {name} part none of the {documents} documents of {prefix}",
                    "give that part 0 or more of them",
                )


@contextlib.contextmanager
def _one_builder(args: argparse.Namespace) -> Iterator[None]:
    """Only one run at a time writes sample indices: Megatron writes them in place and a second run would read half."""
    if args.mock_data or dist.get_rank() != 0:
        yield
        return
    from filelock import FileLock

    folder = Path(args.data_cache_path) if args.data_cache_path else Path(args.data_path[-1]) / "cache"
    lock: contextlib.AbstractContextManager[Any] = FileLock(folder / ".quantctl.lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.__enter__()
    except OSError:  # a read-only folder: indices that are there can be read, new ones fail below
        lock = contextlib.nullcontext()
        lock.__enter__()
    try:
        yield
    finally:
        lock.__exit__(None, None, None)


def _check_helpers() -> None:
    """Refuse a tree whose dataset helpers are not compiled, or for another Python: a checkout, a foreign wheel."""
    from megatron.core import datasets

    try:
        import megatron.core.datasets.helpers  # noqa: F401
    except ImportError as error:
        raise QuantctlError(
            f"the dataset helpers of this Megatron tree are not compiled for this Python: {error}",
            f"in a checkout: make -C {Path(datasets.__file__).parent} (needs g++ and pybind11); a package is to be "
            "installed for this Python",
        ) from error


def sample_counts(args: argparse.Namespace) -> tuple[int, int, int]:
    """Samples needed for training, validation (once more at the end) and test, as Megatron-LM counts them."""
    evaluation = args.eval_iters * args.global_batch_size
    validations = args.train_iters // args.eval_interval + 1
    return args.train_iters * args.global_batch_size, validations * evaluation, evaluation


def build_datasets(args: argparse.Namespace, tokenizer: Tokenizer) -> tuple[Any, Any, Any]:
    """Training, validation and test dataset; None for a part that --split leaves empty.

    Raises QuantctlError for missing files, an unusable split or a dataset without a whole sample.
    """
    from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig, MockGPTDataset
    from megatron.core.datasets.utils import get_blend_from_list

    _check_helpers()
    blend: dict[str, Any] = {}
    if not args.mock_data:
        prefixes = args.data_path if len(args.data_path) == 1 else args.data_path[1::2]
        _check_files(prefixes)
        blend = {"blend": get_blend_from_list(args.data_path), "split": args.split}
    config = GPTDatasetConfig(
        random_seed=args.seed,
        sequence_length=args.seq_length,
        path_to_cache=args.data_cache_path,
        tokenizer=tokenizer,
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
        **blend,
    )
    if not args.mock_data:
        _check_split(prefixes, args.split, config.split_matrix)
    kind = MockGPTDataset if args.mock_data else GPTDataset
    try:
        with _one_builder(args):
            datasets = BlendedMegatronDatasetBuilder(kind, list(sample_counts(args)), lambda: True, config).build()
    except Exception as error:
        if isinstance(error.__cause__, OSError):  # how the builder reports that it cannot write its indices
            raise QuantctlError(
                f"the sample indices cannot be written: {error.__cause__}", "give a folder with --data-cache-path"
            ) from error
        raise
    for name, dataset in zip(_PARTS, datasets, strict=True):
        if dataset is not None and len(dataset) == 0:
            raise QuantctlError(
                f"the {name} part of --data-path holds no sample of --seq-length {args.seq_length} tokens",
                "give more text, a shorter sequence or another --split",
            )
    return datasets


class Samples:
    """A dataset read in order, in micro batches on a device, from sample `consumed` on; it wraps at the end.

    Data-parallel ranks take turns a micro batch, and `consumed` counts the samples of all of them.
    """

    def __init__(self, dataset: Any, args: argparse.Namespace, device: torch.device, consumed: int = 0) -> None:
        from megatron.core import parallel_state

        self.dataset = dataset
        self.size = args.micro_batch_size
        self.rank = parallel_state.get_data_parallel_rank()
        self.ranks = parallel_state.get_data_parallel_world_size()
        self.vocabulary = args.padded_vocab_size
        self.device = device
        self.consumed = consumed
        self.source, self.remedy = (
            ("--mock-data", "this release's mock data counts to 4095: raise --vocab-size")
            if args.mock_data
            else ("--data-path", "it was made with another tokenizer: give that one as --tokenizer-model")
        )

    def next(self) -> Batch:
        """tokens, labels, position_ids [b, s] int64 and loss_mask [b, s] fp32.

        Raises QuantctlError for tokens that the vocabulary does not have.
        """
        first = self.consumed + self.rank * self.size
        rows = [self.dataset[i % len(self.dataset)] for i in range(first, first + self.size)]
        self.consumed += self.ranks * self.size
        batch = {
            name: torch.stack([row[name] for row in rows]) for name in ("tokens", "labels", "loss_mask", "position_ids")
        }
        largest = int(max(batch["tokens"].max(), batch["labels"].max()))
        if largest >= self.vocabulary:
            raise QuantctlError(
                f"{self.source} holds token {largest}, and the padded vocabulary has {self.vocabulary}", self.remedy
            )
        return {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}
