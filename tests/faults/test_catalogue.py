"""Every row of the fault catalogue has a test, and its promise in docs/reliability.md."""

import re

from tests.conftest import ROOT

ROWS = set(range(1, 93))
TESTS: dict[str, str] = {}
for _path in [path for folder in (".", "faults", "parity") for path in (ROOT / "tests" / folder).glob("*.py")]:
    TESTS[_path.name] = TESTS.get(_path.name, "") + _path.read_text()


def test_every_row_has_a_test():
    code = "".join(TESTS.values())
    assert {
        int(row) for row in re.findall(r"^@pytest\.mark\.fault\((\d+)\)|row=(\d+)\)$", code, re.M) for row in row if row
    } == ROWS


def test_every_row_is_promised_beside_the_file_that_tests_it():
    rows = re.findall(r"^\| (\d+) \|.*\| (.*) \|$", (ROOT / "docs" / "reliability.md").read_text(), re.M)
    assert {int(row) for row, _ in rows} == ROWS
    for row, files in rows:
        tests = [TESTS[name] for name in re.findall(r"`(\w+\.py)`", files)]
        attacks = TESTS["attacks.py"] if "test_hostile.py" in files else ""
        assert any(f"fault({row})" in text for text in tests) or f"row={row})" in attacks, row
