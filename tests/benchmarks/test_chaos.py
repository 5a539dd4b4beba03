"""The faults of the chaos benchmark: as many as asked for, the same for a seed, and never the benchmark itself."""

import random

from benchmarks.chaos import runs
from benchmarks.chaos import saboteur as chaos


def test_the_faults_of_a_run() -> None:
    for seed in range(50):
        for kills in range(1, 8):
            found = chaos.faults(random.Random(seed), kills=kills)
            assert found == chaos.faults(random.Random(seed), kills=kills)
            assert sum(1 + fault.again for fault in found) == kills
            assert len({(fault.stage, fault.step) for fault in found}) == len(found)
            for fault in found:
                assert 1 <= fault.step < runs.STEPS[fault.stage]
                assert fault.step % 10 == 0 or fault.moment != "checkpoint"
                assert fault.step in runs.SWITCHES[fault.stage] or fault.moment != "switch"


def test_no_process_is_no_target() -> None:
    """For kill(2), 0 is whoever asks, and all that were started with it."""
    assert not chaos.killed(None)
