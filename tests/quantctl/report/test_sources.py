"""Where runs are read from: directories, Megatron-LM's logs, TensorBoard's events, and what holds none."""

from __future__ import annotations

import math

import pytest

from quantctl.errors import QuantctlError
from quantctl.report.sources import find, load

DUMP = """\
using world size: 1, data-parallel size: 1
------------------------ arguments ------------------------
  accumulate_allreduce_grads_in_fp32 .............. False
  data_path ....................................... ['data/wiki']
  lr .............................................. 0.0003
  save ............................................ /some/where
  seed ............................................ 42
-------------------- end of arguments ---------------------
"""
LINE = (
    " [2026-11-21 10:00:00] iteration {0:8d}/      20 | consumed samples: 80 | "
    "elapsed time per iteration (ms): 310.5 | "
    "throughput per GPU (TFLOP/s/GPU): 410.2 | learning rate: 3.0E-04 | global batch size:   256 | lm loss: {1:.6E} | "
    "loss scale: 1.0 | grad norm: 0.5 |\n"
)
MEMORY = "[Rank 0] (after 10 iterations) memory (MB) | allocated: 1000.0 | max allocated: 2048.0 | reserved: 4096.0\n"


def test_a_megatron_log(tmp_path):
    log = tmp_path / "slurm-1.out"
    validation = " validation loss at iteration 20 | lm loss value: 4.500000E+00 | lm loss PPL: 9.0E+01 | \n"
    log.write_text(DUMP + LINE.format(10, 6.0) + MEMORY + LINE.format(20, 5.0) + validation)
    run = load(log)
    assert run.losses == {10: 6.0, 20: 5.0}
    assert run.recipe == {
        "accumulate-allreduce-grads-in-fp32": "False",
        "data-path": "['data/wiki']",
        "lr": "0.0003",
        "seed": "42",
    }
    assert (run.seed, run.mode, run.memory, run.validation) == (42, "unknown", 2048 * 2**20, [(20, 4.5)])
    assert run.is_clean


def test_an_interrupted_megatron_log(tmp_path):
    log = tmp_path / "train.log"
    log.write_text(LINE.format(10, 6.0))
    assert [str(mark) for mark in load(log).marks] == ["incomplete: ended at iteration 10 of 20"]


@pytest.mark.parametrize(("logged", "marks"), [((8, 16), []), ((8,), ["incomplete: ended at iteration 8 of 20"])])
def test_a_run_whose_last_iteration_is_not_logged(logged, marks, tmp_path):
    dump = DUMP.replace("  lr ", "  log_interval .................................... 8\n  lr ")
    (tmp_path / "train.log").write_text(dump + "".join(LINE.format(iteration, 6.0) for iteration in logged))
    assert [str(mark) for mark in load(tmp_path / "train.log").marks] == marks


EMBEDDED = ["python", "-m", "torch.distributed.run", "-m", "quantctl.pretrain", "--train-iters", "20"]


def iterations(*numbers):
    return "".join(LINE.format(number, 8.0 - number / 10) for number in numbers)


def test_the_last_node_writes_the_iterations(run_directory):
    folder = run_directory("bf16", 1, {}, total=20)
    (folder / "log.txt").write_text(DUMP + MEMORY)
    (folder / "log-node1.txt").write_text("[rank8]: no iteration here\n" + MEMORY.replace("2048.0", "3072.0"))
    validation = " validation loss at iteration 20 | lm loss value: 4.500000E+00 | lm loss PPL: 9.0E+01 | \n"
    (folder / "log-node2.txt").write_text(iterations(10, 20) + validation)
    run = load(folder)
    assert run.is_clean, run.marks
    assert (run.losses, run.validation, run.memory) == ({10: 7.0, 20: 6.0}, [(20, 4.5)], 3072 * 2**20)


VALIDATION = {
    "during training": (
        " validation loss at iteration 10 | lm loss value: 4.5E+00 | lm loss PPL: 9.0E+01 | ",
        [(10, 4.5)],
    ),
    "after it": (" validation loss at iteration 20 on validation set | lm loss value: 4.5E+00 | ", [(20, 4.5)]),
    "a test share": (
        " validation loss at iteration 20 on validation set | lm loss value: 4.5E+00 | \n"
        " validation loss at iteration 20 on test set | lm loss value: 9.9E+00 | ",
        [(20, 4.5)],
    ),
    "only a test share": (" validation loss at iteration 20 on test set | lm loss value: 9.9E+00 | ", []),
    "several sets": (" validation-wiki loss at iteration 10 | lm loss value: 4.5E+00 | ", [(10, 4.5)]),
    "glued to another rank's output": (
        " validation loss at iteration 10 | lm loss value: 4.5E+00[rank3]: W1",
        [(10, 4.5)],
    ),
    "cut in the exponent": (" validation loss at iteration 10 | lm loss value: 4.500000E+[rank3]: W1121", []),
    "no number": (" validation loss at iteration 10 | lm loss value: [rank3]: W1121", []),
}


@pytest.mark.parametrize("case", VALIDATION)
def test_validation_lines(case, tmp_path):
    text, expected = VALIDATION[case]
    (tmp_path / "train.log").write_text(iterations(10) + text + "\n" + iterations(20))
    assert load(tmp_path / "train.log").validation == expected


def test_a_validation_that_is_not_finite(tmp_path):
    (tmp_path / "train.log").write_text(iterations(20) + " validation loss at iteration 20 | lm loss value: nan | \n")
    assert math.isnan(load(tmp_path / "train.log").validation[0][1])


@pytest.mark.parametrize("prefix", ["[default0]:", "0: ", "[rank0]: ", "2026-11-21 10:00:00,123 "])
def test_a_log_whose_lines_have_a_prefix(prefix, tmp_path):
    dump = DUMP.replace("  lr ", "  log_interval .................................... 8\n  lr ")
    text = "".join(prefix + line for line in (dump + iterations(8, 16)).splitlines(keepends=True))
    (tmp_path / "train.log").write_text(text)
    run = load(tmp_path / "train.log")
    assert (run.recipe["lr"], run.recipe["data-path"], run.seed) == ("0.0003", "['data/wiki']", 42)
    assert (run.losses, run.marks) == ({8: 7.2, 16: 6.4}, [])


NEW = (
    "WARNING: could not find the metadata file /c/latest_checkpointed_iteration.txt\n    will not load any checkpoints "
)
NEW += "and will start from random\n"
OLD = " loading checkpoint from /c at iteration 10\n  successfully loaded checkpoint from /c at iteration 10\n"
TRAINER = ["python", "pretrain_gpt.py", "--train-iters", "20"]
ATTEMPTS = {  # log, command -> is the run whole
    "out of memory at the start": (f"{DUMP}OutOfMemoryError\n{DUMP}" + iterations(1, 10, 20), TRAINER, True),
    "an unknown flag": ("error: unrecognized arguments: --x\n" + DUMP + iterations(1, 10, 20), TRAINER, True),
    "behind a prefix": (f"0: {DUMP}".replace("\n", "\n0: ") + iterations(1, 10, 20), TRAINER, True),
    "resumed": (DUMP + iterations(1, 10) + DUMP + iterations(11, 20), TRAINER, False),
    "perhaps resumed before the first line": (DUMP + DUMP + iterations(10, 20), TRAINER, False),
    "a trainer that tells nothing": (iterations(1, 10, 20), TRAINER, False),
    "embedded, no checkpoint yet": (NEW + NEW + iterations(1, 10, 20), [*EMBEDDED, "--load", "/c"], True),
    "embedded, resumed": (NEW + iterations(1, 10) + OLD + iterations(11, 20), [*EMBEDDED, "--load", "/c"], False),
    "embedded, which cannot resume": ("Killed\n" + iterations(1, 10, 20), EMBEDDED, True),
    "embedded, rank 0 unheard": (iterations(1, 10, 20), [*EMBEDDED, "--load=/c"], False),
}


@pytest.mark.parametrize("case", ATTEMPTS)
def test_attempts_that_trained_nothing_do_not_make_a_run_a_resumed_one(case, run_directory):
    text, command, whole = ATTEMPTS[case]
    folder = run_directory("bf16", 1, {}, total=20, attempts=2, attempt={"command": command})
    (folder / "log.txt").write_text(text)
    assert [str(mark) for mark in load(folder).marks] == ([] if whole else ["resumed: 2 attempts"])


MARK = "---- quantctl: an attempt begins, 2026-11-21T00:00:00+00:00 ----\n"
BEGUN = {  # log, attempts in the manifest -> marks
    "repeated after Ctrl-C": (MARK + iterations(1, 10) + MARK + iterations(1, 10, 20), 2, []),
    "repeated, no marks, embedded": (iterations(1, 10) + iterations(1, 10, 20), 2, []),
    "goes on from a checkpoint": (MARK + iterations(1, 10) + MARK + iterations(20), 2, ["resumed: 2 attempts"]),
    "goes on from before": (
        MARK + iterations(1, 10) + MARK + iterations(10, 20),
        2,
        ["resumed: iterations were repeated"],
    ),
}


@pytest.mark.parametrize("case", BEGUN)
def test_the_last_attempt_that_began_anew_is_judged(case, run_directory):
    text, attempts, marks = BEGUN[case]
    folder = run_directory("bf16", 1, {}, total=20, attempts=attempts, attempt={"command": EMBEDDED})
    (folder / "log.txt").write_text(text)
    run = load(folder)
    assert ([str(mark) for mark in run.marks], run.losses) == (marks, {1: 7.9, 10: 7.0, 20: 6.0})


def test_a_log_of_megatron_lms_own_to_which_a_new_run_was_appended(tmp_path):
    (tmp_path / "train.log").write_text(DUMP + iterations(1, 10) + DUMP.replace("42", "43") + iterations(1, 10, 20))
    run = load(tmp_path / "train.log")
    assert (run.marks, run.seed, run.losses) == ([], 43, {1: 7.9, 10: 7.0, 20: 6.0})


def test_attempts_on_several_nodes_are_in_no_known_order(run_directory):
    folder = run_directory("bf16", 1, {}, total=20, attempts=2)
    (folder / "log.txt").write_text(DUMP + DUMP)
    (folder / "log-node1.txt").write_text(iterations(1, 10, 20))
    assert [str(mark) for mark in load(folder).marks] == ["resumed: 2 attempts"]


def test_event_files(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    for steps, shift in ((range(1, 6), 0.0), (range(4, 9), 0.5)):  # a resumed run writes a second file
        with SummaryWriter(str(tmp_path / "tensorboard")) as writer:
            for step in steps:
                writer.add_scalar("lm loss", 8.0 - step + shift, step)
                writer.add_scalar("iteration-time", 0.25, step)
            writer.add_scalar("lm loss validation", 3.5, max(steps))
    run = load(tmp_path)
    assert run.losses == {1: 7.0, 2: 6.0, 3: 5.0, 4: 4.5, 5: 3.5, 6: 2.5, 7: 1.5, 8: 0.5}
    assert run.milliseconds == 250.0
    assert run.validation == [(5, 3.5), (8, 3.5)]


def test_a_run_directory_whose_log_holds_no_lines(run_directory):
    from torch.utils.tensorboard import SummaryWriter

    folder = run_directory("bf16", 1, {})
    with SummaryWriter(str(folder / "tensorboard")) as writer:
        writer.add_scalar("lm loss", 5.0, 1)
    assert load(folder).losses == {1: 5.0}


def test_a_folder_of_runs_stands_for_them(run_directory, tmp_path):
    made = [run_directory("bf16", seed, {1: 7.0}) for seed in (1, 2)]
    assert find([tmp_path]) == made
    assert find([made[1], tmp_path]) == [made[1], made[0]]


def test_a_run_killed_before_its_first_iteration(run_directory):
    run = load(run_directory("bf16", 1, {}, attempt={"exit_status": None}))
    assert [str(mark) for mark in run.marks] == [
        "incomplete: no iteration was logged",
        "killed, or still running: the manifest has no end",
    ]
    assert math.isnan(run.final_loss)


NOTHING = {
    "empty folder": (lambda folder: folder, "holds no run"),
    "absent": (lambda folder: folder / "absent", "does not exist"),
    "no log": (lambda folder: _write(folder / "notes.txt", "hello"), "holds no iteration lines of Megatron"),
    "rubbish manifest": (
        lambda folder: _write(folder / "manifest.json", "{}").parent,
        "manifest.json: selectors is missing",
    ),
    "binary": (lambda folder: _write(folder / "x.log", "\0\x01\x02" * 99), "holds no iteration lines of Megatron"),
}


def _write(path, text):
    path.write_text(text)
    return path


@pytest.mark.parametrize("case", NOTHING)
def test_what_holds_no_run_is_said(case, tmp_path):
    make, message = NOTHING[case]
    with pytest.raises(QuantctlError, match=message):
        load(make(tmp_path))


PROOFS = {
    "": "it is no JSON (line 1, column 1)",
    "[]": "it is a list, not an object",
    '{"ok"': "it is no JSON (line 1, column 6)",
    '{"ok": false, "problems": [], "calls": {}}': "proof.json gives no reason",
    '{"ok": 1, "problems": [], "calls": {}}': "ok is a number, not true or false",
    '{"ok": true, "problems": [], "calls": {"qk": {"mxfp4": 3}}}': "calls.qk.mxfp4 is a number, not an object",
}


@pytest.mark.parametrize("text", PROOFS)
def test_a_damaged_proof_proves_nothing(run_directory, text):
    folder = run_directory("bf16", 1, {1: 7.0, 2: 6.0})
    (folder / "proof.json").write_text(text)
    (mark,) = map(str, load(folder).marks)
    assert mark.startswith("formats not proven: proof.json")
    assert mark.endswith(PROOFS[text])
