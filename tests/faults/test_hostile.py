"""Hostile repositories: rows 7, 13, 16, 25, 26, 56, 57 and 62."""

import pytest

from tests.faults.attacks import ATTACKS
from tests.faults.hostile import run


def _numbered(each):
    marks = [pytest.mark.fault(each.row)] if each.row else []
    return pytest.param(each, id=f"{each.row or ''} {each.name}".strip(), marks=marks)


@pytest.mark.parametrize("each", [_numbered(each) for each in ATTACKS])
def test_a_hostile_repository_is_refused_or_harmless(each, tmp_path):
    found, problems = run(each, tmp_path)
    assert not problems, found.err


def test_there_are_enough_of_them():
    assert len(ATTACKS) >= 30
