"""The figures of a comparison, and which runs take part in it."""

from __future__ import annotations

import math
from statistics import stdev

import pytest

from quantctl.report.compare import compare
from quantctl.report.run import Trouble
from quantctl.report.sources import load

STEPS = (10, 20, 30, 40)
BF16 = {1: (7.0, 6.0, 5.0, 4.0), 2: (7.2, 6.2, 5.2, 4.2)}
MXFP8 = {1: (7.0, 6.1, 5.3, 4.5), 2: (7.2, 6.2, 5.1, 4.3)}


def losses(values):
    return dict(zip(STEPS, values, strict=True))


@pytest.fixture
def runs(run_directory):
    made = [run_directory("bf16", seed, losses(values)) for seed, values in BF16.items()]
    made += [run_directory("linear_mxfp8", seed, losses(values), ms=150.0) for seed, values in MXFP8.items()]
    return [load(path) for path in made]


def test_the_largest_gap_is_the_one_farthest_from_zero(run_directory):
    made = [run_directory("bf16", 1, losses((7.0, 6.0, 5.0, 4.0)))]
    made.append(run_directory("linear_mxfp8", 1, losses((9.0, 6.1, 4.5, 4.2))))
    assert compare([load(path) for path in made]).rows[1].largest_gap == pytest.approx(-0.5)


def test_figures(runs):
    reference, row = compare(runs).rows
    assert (reference.mode, row.mode) == ("bf16", "linear_mxfp8")
    assert row.seeds == [1, 2]
    # the last quarter of 40 iterations is what lies behind 30: one value
    assert row.loss.mean == pytest.approx((4.5 + 4.3) / 2)
    assert row.loss.sd == pytest.approx(stdev([4.5, 4.3]))
    assert row.gap.mean == pytest.approx((0.5 + 0.1) / 2)
    assert row.gap.sd == pytest.approx(stdev([0.5, 0.1]))
    assert row.largest_gap == pytest.approx(0.5)
    assert (row.milliseconds, row.slowdown) == (150.0, 1.5)
    assert row.tokens_per_second == pytest.approx(8 * 128 / 0.150)
    assert row.calls == {"linear": {"mxfp8": {"fprop": 10, "dgrad": 10}}}
    assert reference.gap.mean == 0


def test_one_seed_has_no_spread(run_directory):
    row = compare([load(run_directory("bf16", 1, losses(BF16[1])))]).rows[0]
    assert row.loss.mean == 4.0
    assert math.isnan(row.loss.sd)


TROUBLES = {
    "killed": (Trouble.KILLED, {"attempt": {"exit_status": None}}),
    "failed": (Trouble.FAILED, {"attempt": {"exit_status": 9}}),
    "cut short": (Trouble.INCOMPLETE, {"total": 100}),
    "two attempts": (Trouble.RESUMED, {"attempts": 2}),
    "unproven": (Trouble.UNPROVEN, {"proof": {"ok": False, "problems": ["linear should have run in mxfp8"]}}),
    "other data": (Trouble.MISMATCHED, {"flags": {"--data-path": "data/other"}}),
    "other tree": (Trouble.MISMATCHED, {"attempt": {"code": "2222"}}),
    "other torch": (Trouble.MISMATCHED, {"attempt": {"packages": {"torch": "2.6.0", "megatron-core": "0.16.1"}}}),
    "other attention": (Trouble.MISMATCHED, {"selectors": {"attention": "auto"}}),
    "no reference of its seed": (Trouble.ALONE, {"flags": {"--seed": "77"}}),
}


@pytest.mark.parametrize("case", TROUBLES)
def test_runs_with_troubles_are_listed_and_not_averaged(case, runs, run_directory):
    trouble, changed = TROUBLES[case]
    odd = load(run_directory("linear_mxfp8", 3, losses((9.0, 9.0, 9.0, 9.0)), name="odd", **changed))
    comparison = compare([*runs, odd])
    assert trouble in {mark.trouble for mark in odd.marks}
    assert odd in comparison.left_out
    assert comparison.rows[1].seeds == [1, 2]
    assert comparison.rows[1].gap.mean == pytest.approx(0.3)


def test_a_diverged_run(runs, run_directory):
    odd = load(run_directory("linear_mxfp8", 2, {10: 7.0, 20: None, 30: None, 40: None}, name="odd"))
    compare([*runs, odd])
    assert [str(mark) for mark in odd.marks] == ["diverged: no finite loss at iteration 20"]


def test_repeated_iterations_are_a_resumed_run(runs, run_directory):
    more = (run_directory("bf16", 9, losses(BF16[1]), name="x") / "log.txt").read_text()
    odd = load(run_directory("linear_mxfp8", 1, losses(MXFP8[1]), name="odd", more=more))
    assert [mark.trouble for mark in odd.marks] == [Trouble.RESUMED]
    assert odd.losses[40] == 4.0  # the later line counts


def test_a_mismatch_names_what_differs(runs, run_directory):
    odd = load(run_directory("bf16", 3, losses(BF16[1]), name="odd", flags={"--lr": "0.003", "--fp16": ""}))
    compare([*runs, odd])
    assert str(odd.marks[0]) == "another experiment: --fp16 given against absent; --lr 0.003 against 0.004"


def test_where_output_goes_is_no_difference(runs):
    assert not any(run.marks for run in compare(runs).runs)
    assert "save" not in runs[0].recipe
    assert "nproc-per-node" not in runs[0].recipe


def skipping(folder, losses, iterations):
    """The run's log as fp16 leaves it: the loss scaler skips `iterations`."""
    lines = (folder / "log.txt").read_text().splitlines(keepends=True)
    for number, iteration in enumerate(losses):
        if iteration in iterations:
            lines[number] = lines[number].replace("skipped iterations:   0", "skipped iterations:   1")
            lines[number] = lines[number].replace(f" lm loss: {losses[iteration]:.6E} |", " lm loss: 0.000000E+00 |")
    (folder / "log.txt").write_text("".join(lines))
    return load(folder)


def test_steps_that_the_loss_scaler_skips_are_in_no_figure(run_directory):
    curve = losses(BF16[1])
    reference = skipping(run_directory("bf16", 1, curve), curve, {10})
    run = skipping(run_directory("FA_mxfp8", 1, {step: loss + 0.5 for step, loss in curve.items()}, ms=50.0), {}, ())
    first, second = compare([reference, run]).rows
    assert reference.losses == {20: 6.0, 30: 5.0, 40: 4.0}
    assert (first.loss.mean, second.gap.mean, second.largest_gap) == (4.0, 0.5, 0.5)
    assert not reference.marks


def test_a_step_skipped_at_the_end_still_counts_as_reached(run_directory):
    curve = losses(BF16[1])
    run = skipping(run_directory("bf16", 1, curve), curve, {40})
    assert (run.marks, run.curve.last, run.final_loss) == ([], 40, 5.0)


@pytest.mark.parametrize(
    ("skipped", "says"),
    [({30, 40}, "the loss scaler skipped 2 of the last 2 logged iterations"), ({10, 20}, None), ({30}, None)],
    ids=["the last half", "the first half", "one of it"],
)
def test_a_run_whose_end_was_skipped_is_no_finished_one(skipped, says, run_directory):
    curve = losses(BF16[1])
    run = skipping(run_directory("bf16", 1, curve), curve, skipped)
    assert [mark.detail for mark in run.marks] == ([] if says is None else [says])


def test_a_run_that_took_no_step(run_directory, quantctl, tmp_path):
    curve = losses(BF16[1])
    run = skipping(run_directory("bf16", 1, curve), curve, set(STEPS))
    assert [str(mark) for mark in run.marks] == ["incomplete: the loss scaler skipped every logged iteration"]
    assert math.isnan(run.final_loss)
    done = quantctl("report", tmp_path, "--output", tmp_path / "cost")
    assert done.status == 0, done.err


def test_two_logs_of_which_nothing_is_known_are_not_averaged(run_directory, tmp_path):
    paths = []
    for number, values in BF16.items():
        paths.append(tmp_path / f"{number}.log")
        text = (run_directory("bf16", number, losses(values)) / "log.txt").read_text()
        paths[-1].write_text(text)
    runs = [load(path) for path in paths]
    (row,) = compare(runs).rows
    assert (row.mode, row.runs) == ("unknown", runs[:1])
    assert str(runs[1].marks[0]) == "another experiment: a second run of unknown with no known seed"


def test_a_second_run_of_one_mode_and_seed_is_not_counted_twice(runs, run_directory):
    again = load(run_directory("bf16", 1, losses(BF16[1]), name="again"))
    compare([*runs, again])
    assert str(again.marks[0]) == "another experiment: a second run of bf16 with seed 1"


def test_the_experiment_is_what_most_reference_runs_are(run_directory):
    odd = run_directory("bf16", 1, losses(BF16[1]), name="odd", flags={"--lr": "1.0"})
    others = [run_directory("bf16", seed, losses(BF16[1])) for seed in (2, 3)]
    runs = [load(path) for path in (odd, *others)]
    assert compare(runs).left_out == [runs[0]]


def test_without_a_reference_there_are_losses_but_no_gaps(run_directory):
    runs = [load(run_directory("FA_mxfp4", seed, losses(MXFP8[seed]))) for seed in (1, 2)]
    (row,) = compare(runs).rows
    assert row.loss.mean == pytest.approx(4.4)
    assert math.isnan(row.gap.mean)


def test_selectors_that_are_no_mode_name_themselves(run_directory):
    run = load(run_directory("bf16", 1, losses(BF16[1]), selectors={"linear": "mxfp8:scale=floor", "pv": "mxfp4"}))
    assert run.mode == "linear=mxfp8:scale=floor pv=mxfp4"


def test_selectors_of_one_meaning_are_one_mode(run_directory):
    said = ("mxfp8:dgrad.format=mxfp4,wgrad.format=mxfp4", "mxfp4:fprop.format=mxfp8")
    runs = [load(run_directory("bf16", seed, losses(BF16[1]))) for seed in (1, 2)]
    runs += [
        load(run_directory("bf16", seed, losses(BF16[1]), name=f"recipe{seed}", selectors={"linear": text}))
        for seed, text in enumerate(said, 1)
    ]
    row = compare(runs).rows[1]
    assert (row.mode, len(row.runs)) == (f"linear={said[0]}", 2)
