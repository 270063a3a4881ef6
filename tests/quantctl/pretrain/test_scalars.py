"""Where scalars go: Weights & Biases beside TensorBoard, offline here."""

from __future__ import annotations

import json

import pytest

from quantctl.errors import QuantctlError
from quantctl.outside import packages
from quantctl.pretrain.arguments import parse
from quantctl.pretrain.scalars import Scalars, _folder

from .conftest import MOCK, TINY

FLAGS = [*TINY.split(), *MOCK.split(), "--wandb-project", "formats"]


def test_megatrons_flags_are_taken_and_the_name_is_wanted():
    args = parse([*FLAGS, "--wandb-exp-name", "bf16", "--wandb-entity", "us", "--wandb-save-dir", "w"])
    assert (args.wandb_project, args.wandb_exp_name, args.wandb_entity) == ("formats", "bf16", "us")
    with pytest.raises(QuantctlError, match="--wandb-project without --wandb-exp-name"):
        parse(FLAGS)


@pytest.mark.parametrize(
    ("flags", "folder"),
    [(["--wandb-save-dir", "w", "--save", "c"], "w"), (["--save", "c"], "c/wandb"), ([], "run/wandb")],
)
def test_the_folder_is_megatrons_choice_and_else_the_run_directory(flags, folder, monkeypatch):
    monkeypatch.setenv("QUANTCTL_RUN_DIR", "run")
    assert _folder(parse([*FLAGS, "--wandb-exp-name", "bf16", *flags])) == folder


def test_without_the_package_a_run_does_not_begin(monkeypatch):
    monkeypatch.setattr("quantctl.pretrain.scalars.is_last_rank", lambda: True)
    monkeypatch.setattr(packages, "is_there", lambda name: name != "wandb")
    with pytest.raises(QuantctlError, match="--wandb-project needs wandb, which is not installed"):
        Scalars(parse([*FLAGS, "--wandb-exp-name", "bf16"]))


def test_what_is_logged_is_what_tensorboard_gets(train, scalars, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed: pip install -e '.[wandb]'")
    pb = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    for name, value in (("MODE", "offline"), ("SILENT", "true"), ("DISABLE_GIT", "true")):
        monkeypatch.setenv(f"WANDB_{name}", value)
    flags = ("--wandb-project", "formats", "--wandb-exp-name", "bf16", "--wandb-save-dir", tmp_path / "w")
    train(*flags, "--tensorboard-dir", tmp_path / "t", "--train-iters", 4, "--eval-interval", 2, "--eval-iters", 1)
    (file,) = (tmp_path / "w").glob("wandb/offline-run-*/run-*.wandb")
    logged = records(file.read_bytes(), pb)
    events = scalars(tmp_path / "t")
    expected = {tag: values for tag, values in events.items() if not tag.endswith(" vs samples")}
    expected["samples vs steps"] = dict(zip(range(1, 5), range(4, 20, 4), strict=True))
    assert logged.keys() == expected.keys()
    for tag, values in expected.items():
        assert logged[tag] == pytest.approx(values, rel=1e-6), tag


def records(raw: bytes, pb) -> dict[str, dict[int, float]]:
    """Tag -> step -> value of an offline run: LevelDB's log format behind a header of 7 bytes, a message a record."""
    found: dict[str, dict[int, float]] = {}
    place, whole = 7, b""
    while place < len(raw):
        if 32768 - place % 32768 < 7:  # the rest of a block is empty
            place += 32768 - place % 32768
            continue
        size, kind = int.from_bytes(raw[place + 4 : place + 6], "little"), raw[place + 6]
        whole += raw[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # a whole record, or the last part of one
            record = pb.Record()
            record.ParseFromString(whole)
            whole = b""
            items = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            for tag in [tag for tag in items if not tag.startswith("_")]:
                found.setdefault(tag, {})[items["_step"]] = items[tag]
    return found
