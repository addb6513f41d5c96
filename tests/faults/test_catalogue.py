"""Every row of the fault catalogue has a test here, and its promise in docs/reliability.md."""

import re

from tests.conftest import ROOT

ROWS = set(range(1, 63))


def test_every_row_has_a_test():
    code = "".join(path.read_text() for path in (ROOT / "tests" / "faults").glob("*.py"))
    assert {
        int(row) for row in re.findall(r"^@pytest\.mark\.fault\((\d+)\)|row=(\d+)\)$", code, re.M) for row in row if row
    } == ROWS


def test_every_row_is_promised_beside_the_file_that_tests_it():
    rows = re.findall(r"^\| (\d+) \|.*\| (.*) \|$", (ROOT / "docs" / "reliability.md").read_text(), re.M)
    assert {int(row) for row, _ in rows} == ROWS
    for row, files in rows:
        tests = [(ROOT / "tests" / "faults" / name).read_text() for name in re.findall(r"`(\w+\.py)`", files)]
        attacks = (ROOT / "tests" / "faults" / "attacks.py").read_text() if "test_hostile.py" in files else ""
        assert any(f"fault({row})" in text for text in tests) or f"row={row})" in attacks, row
