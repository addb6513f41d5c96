"""Whatever table comes in is read as pandas reads it, or refused by name."""

import pytest

from tests.front_door import run


@pytest.mark.fault(70)
def test_tables_nobody_chose():
    counts = run(150)
    assert counts["read"] > counts["refused"] / 3


@pytest.mark.slow
def test_many_tables_nobody_chose():
    run(1000)
