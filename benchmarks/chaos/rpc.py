"""Calls between processes that get lost or come late: Ray's two variables for tests."""

import json
from collections.abc import Iterator

from benchmarks.chaos.runs import Outcome, Stage, last_line

LOST = {"CoreWorkerService.grpc_client.PushTask": {"num_failures": 4, "req_failure_prob": 5, "resp_failure_prob": 5}}
"""Of each process's calls of others, 5 % don't arrive and the answers of 5 % don't, until there were four."""
LATE = "CoreWorkerService.grpc_server.PushTask=2000:30000"
"""Microseconds that a call waits before it is taken."""


def rpc(stage: Stage) -> Iterator[Outcome]:
    """The run is a process of its own: Ray reads the variables once in each."""
    for fault, name, value in (
        ("calls and answers lost (RAY_testing_rpc_failure)", "RAY_testing_rpc_failure", json.dumps(LOST)),
        ("calls 2 … 30 ms late (RAY_testing_asio_delay_us)", "RAY_testing_asio_delay_us", LATE),
    ):
        found, folder = Outcome(fault, injected=1), stage.new_folder()
        ended = stage.command(stage.words(folder=folder), **{name: value})
        found.expect(ended.returncode == 0, last_line(ended.stderr))
        summary = stage.judge(found, folder=folder)
        if value != LATE:
            found.injected = summary.get("losses", 0)
            found.expect(found.injected, "no call was lost")
        yield found
