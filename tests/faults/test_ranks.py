"""One of several processes is killed, stopped or stuck: rows 44 and 46."""

import re
import signal
import sys
import time

import pytest

from tests.faults import ranks
from tests.processes import PATIENCE, ended, small_run, start
from train.run import watchdog
from train.run.watchdog import FACTOR, LONG, SHORT, Watchdog


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    return small_run(tmp_path_factory.mktemp("ranks"))


@pytest.fixture
def disturbed(train, tmp_path):
    """Disturb a run, which must end and go on; what the processes print on standard error."""

    def run(count, kind, victim, step=20):
        ranks.disturb(train, tmp_path / "run", tmp_path, count, kind, victim, step, within=PATIENCE)
        return [(tmp_path / f"err{i}").read_text() for i in range(count)]

    return run


@pytest.mark.fault(44)
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.slow
def test_44_one_process_is_killed_the_others_end_and_the_same_commands_go_on(disturbed, victim):
    errors = disturbed(2, "killed", victim)
    if victim:  # where it is the first, JAX may be the one that notices, and has its own words
        assert re.fullmatch(
            "error: process 0 of 2 cannot go on, another one may have ended: .*; "
            "the same commands go on from the newest checkpoint\n",
            errors[0],
        )


@pytest.mark.fault(46)
@pytest.mark.slow
def test_46_a_process_that_is_stuck_ends_all_with_stacks(disturbed):
    _, stuck = disturbed(2, "stuck", 1)
    assert "in stuck" in stuck.split("(most recent call first)")[-1]
    # One look more than the limit, which is longer where a step took longer than it should.
    idle = re.search(r"error: process 1 of 2 has made no progress for (\d+) s at step", stuck.splitlines()[-1])
    assert idle
    assert int(idle[1]) > SHORT * watchdog.TICK
    assert "the same commands go on from the newest checkpoint" in stuck.splitlines()[-1]


@pytest.mark.fault(46)
@pytest.mark.slow
def test_46_a_process_that_is_stopped_ends_all(disturbed):
    disturbed(2, "stopped", 0)


@pytest.mark.fault(46)
def test_46_the_limit_is_the_runs_own_and_long_where_that_must_be():
    dog = Watchdog()

    def laps(ticks, count=1):
        for _ in range(count):
            dog._ticks += ticks
            dog.lap()

    assert dog.limit == LONG
    laps(500)  # it compiled: no measure
    assert dog.limit == LONG
    laps(0)
    assert dog.limit == SHORT
    laps(3)
    assert dog.limit == 3 * FACTOR
    laps(1, 5)
    assert dog.limit == 3 * FACTOR
    with dog.long():
        assert dog.limit == LONG
        dog._ticks += 100
    assert dog.limit == 3 * FACTOR
    for expected in (LONG, LONG, 5 * FACTOR):  # evaluations: one compiles, one is measured
        with dog.evaluation():
            assert dog.limit == expected
            dog._ticks += 5
        assert dog.limit == (3 if expected == LONG and dog._evaluations == 1 else 5) * FACTOR
    dog.unknown()
    assert dog.limit == LONG
    laps(100)
    laps(0)
    assert dog.limit == 5 * FACTOR


SCRIPT = """
import sys, time
from train.run import watchdog
from train.step.hosts import HEARTBEAT
watchdog.jax.process_count, watchdog.jax.process_index = lambda: 2, lambda: 1
watchdog.TICK = 0.05
with watchdog.Watchdog() as dog:
    dog.lap()
    dog.lap()
    print("begun", flush=True)
    for _ in range(60 if sys.argv[1] == "moves" else 0):
        time.sleep(0.05)
        dog.beat()
    if sys.argv[1] == "stuck":
        time.sleep(3600)
print("done")
"""


@pytest.mark.fault(46)
def test_46_a_pause_is_not_what_it_ends_but_standing_still_is():
    moves, stuck = (start([sys.executable, "-c", SCRIPT, how]) for how in ("moves", "stuck"))
    for process in (moves, stuck):
        assert process.stdout.readline() == "begun\n"
    time.sleep(0.2)
    moves.send_signal(signal.SIGSTOP)
    time.sleep(2)  # 40 ticks
    moves.send_signal(signal.SIGCONT)
    (code, out, err), (code_stuck, _, err_stuck) = ended([moves, stuck])
    assert (code, out, err) == (0, "done\n", "")
    assert code_stuck == 1
    assert "error: process 1 of 2 has made no progress" in err_stuck
    assert 'File "<string>", line 15 in <module>' in err_stuck


def test_of_one_process_nothing_is_watched():
    with Watchdog() as dog:
        assert not dog._thread.is_alive()
    assert watchdog.TICK * SHORT < ranks.WITHIN
