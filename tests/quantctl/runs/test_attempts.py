"""Which part of a log is judged when a run was started more than once."""

from __future__ import annotations

import pytest

from quantctl.runs.attempts import joined, mark
from quantctl.runs.runlog import follow, parse_line

MARK = mark("2026-11-21T00:00:00+00:00") + "\n"
DUMP = "------------------------ arguments ------------------------\n  lr ... 1\n"
RANDOM = "    will not load any checkpoints and will start from random\n"
NOTHING = DUMP + f"  load {'.' * 44} None\n  no_load_optim {'.' * 35} None\n"
LOADED = " loading checkpoint from /c at iteration 10\n"


def rows(*numbers: int) -> str:
    return "".join(
        f" [2026-11-21 10:00:00] iteration {number:8d}/      20 | lm loss: 5.0E+00 |\n" for number in numbers
    )


class Part:
    """The lines that are judged."""

    def __init__(self):
        self.lines = []

    def take(self, line, point):
        self.lines.append(line)

    @property
    def text(self):
        return "\n".join(self.lines)

    @property
    def iterations(self):
        return [point.iteration for point in map(parse_line, self.lines) if point]


def judged(*texts: str):
    """The part of the logs of so many nodes that counts, and whether marks say that one attempt wrote all of it."""
    part, follower = follow(joined([text.splitlines for text in texts]), Part)
    return part, follower.is_whole


CASES = {  # log -> iterations that are judged, whether marks say that one attempt wrote all of them
    "one attempt": (MARK + rows(1, 2), [1, 2], True),
    "begun anew": (MARK + rows(1, 2) + MARK + rows(1, 2, 3), [1, 2, 3], True),
    "begun anew and cut short": (MARK + rows(1, 2, 3) + MARK + rows(1), [1], True),
    "resumed": (MARK + rows(1, 2) + MARK + rows(3, 4), [1, 2, 3, 4], False),
    "resumed a little before": (MARK + rows(1, 2, 3) + MARK + rows(3, 4), [1, 2, 3, 3, 4], False),
    "begun anew, then resumed": (MARK + rows(1, 2) + MARK + rows(1) + MARK + rows(2), [1, 2], False),
    "resumed, then begun anew": (MARK + rows(1) + MARK + rows(2) + MARK + rows(1, 2), [1, 2], True),
    "nothing trained, then all": (MARK + DUMP + MARK + "Killed\n" + MARK + DUMP + rows(1, 2), [1, 2], True),
    "all, then nothing": (MARK + rows(1, 2) + MARK + DUMP + "Killed\n", [1, 2], True),
    "every tenth logged, from random": (MARK + rows(10) + MARK + DUMP + RANDOM + rows(10, 20), [10, 20], True),
    "every tenth logged, from a checkpoint": (MARK + RANDOM + rows(10) + MARK + LOADED + rows(20), [10, 20], False),
    "every tenth logged, from who knows where": (MARK + DUMP + rows(10) + MARK + DUMP + rows(10), [10, 10], False),
    "every tenth logged, with nothing to load": (MARK + NOTHING + rows(10) + MARK + NOTHING + rows(10), [10], True),
    "the same, without marks": (NOTHING + rows(10) + NOTHING + rows(10, 20), [10, 20], False),
    "no mark, begun anew": (DUMP + rows(1, 2) + DUMP + rows(1, 2, 3), [1, 2, 3], False),
    "no mark, nothing told, begun anew": (rows(1, 2) + "Killed\n" + rows(1, 2, 3), [1, 2, 3], False),
    "no mark, from random": (RANDOM + rows(10) + RANDOM + rows(10, 20), [10, 20], False),
    "no mark, resumed": (DUMP + rows(1, 2) + DUMP + LOADED + rows(3), [1, 2, 3], False),
    "no mark yet, then begun anew": (rows(1, 2) + MARK + rows(1, 2), [1, 2], True),
    "no mark yet, then resumed": (rows(1, 2) + MARK + rows(3), [1, 2, 3], False),
    "killed within a line": (MARK + rows(1) + rows(2)[:-30] + "\n" + MARK + rows(1, 2), [1, 2], True),
    "no line at all": ("", [], False),
}


@pytest.mark.parametrize("case", CASES)
def test_the_last_attempt_that_began_at_iteration_1_is_judged(case):
    text, iterations, whole = CASES[case]
    part, is_whole = judged(text)
    assert part.iterations == iterations
    assert is_whole == whole


def test_what_an_attempt_was_told_belongs_to_it():
    part, _ = judged(MARK + "first\n" + rows(1) + MARK + "second\n" + rows(1))
    assert ("first" in part.text, "second" in part.text) == (False, True)
    part, _ = judged("first\n" + rows(1) + DUMP + "second\n" + rows(1))
    assert ("first" in part.text, "second" in part.text) == (False, True)


NODES = {
    "both in every attempt": ([MARK + "a\n" + MARK + "b\n", MARK + rows(1, 2) + MARK + rows(1, 2)], [1, 2], True),
    "both, resumed": ([MARK + "a\n" + MARK + "b\n", MARK + rows(1, 2) + MARK + rows(3)], [1, 2, 3], False),
    "one came later": ([MARK + "a\n" + MARK + "b\n", MARK + rows(1, 2)], [1, 2], False),
    "no marks": (["a\n", rows(1, 2)], [1, 2], False),
}


@pytest.mark.parametrize("case", NODES)
def test_the_logs_of_several_nodes(case):
    texts, iterations, whole = NODES[case]
    part, is_whole = judged(*texts)
    assert part.iterations == iterations
    assert is_whole == whole
