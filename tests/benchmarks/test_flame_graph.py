"""Shares of functions in recorded stacks."""

import pytest

from benchmarks.flame_graph import self_shares, short_name


def test_share_is_that_of_the_function_at_the_top() -> None:
    stacks = "\n".join(
        [
            "run (threading.py:10);work (service/a.py:3);decode (/x/site-packages/lib/jpeg.py:7) 6",
            "run (threading.py:10);work (service/a.py:9) 1",
            "run (threading.py:11);decode (/x/site-packages/lib/jpeg.py:99) 1",
        ]
    )
    assert self_shares(stacks) == {"lib/jpeg.py: decode": 0.75 + 0.125, "service/a.py: work": 0.125}


@pytest.mark.parametrize(
    ("frame", "expected"),
    [("main (cli/main.py:3)", "cli/main.py: main"), ("<lambda> (b.py)", "b.py: <lambda>"), ("idle", "idle")],
)
def test_names_have_no_path_of_the_machine(frame: str, expected: str) -> None:
    assert short_name(frame) == expected
