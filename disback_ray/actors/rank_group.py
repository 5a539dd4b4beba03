"""The ranks of one role as one process: lost together, built together, and taking turns at the micro-batches of a step."""

from collections import Counter
from typing import Any

from disback_ray.actors.hosted import Meeting
from disback_ray.actors.on_ray import OnRay
from disback_ray.actors.parts import Part
from disback_ray.algorithms.ranks import Ranks, Sharding
from disback_ray.storage import Folder

BY_TURNS = ("propose", "score", "difference", "fit", "learn", "descend", "descend_all")
"""The calls that are about one micro-batch, or one rank's share of them: one rank makes each. All others are made by all ranks, and the
first one's result counts."""


class RankGroup:
    """Stands where one OnRay would. Micro-batch m is rank m mod n's, in every call: a step has a multiple of n of them."""

    def __init__(
        self, name: str, part: Part, *, sharding: Sharding, options: list[dict[str, Any]], threads: int,
        shared: Folder, proof: str, timeout: float, trace: bool = False,
    ) -> None:  # fmt: skip
        """options: of each rank's actor; timeout: seconds that ranks wait for one another."""
        role, arguments = part
        self.timeout = timeout
        self.ranks = [Ranks(rank, len(options), sharding) for rank in range(len(options))]
        self.members = [
            OnRay(
                f"{name}/{ranks.rank}", (role, arguments | {"ranks": ranks}), options=mine, threads=threads,
                shared=shared, proof=proof, trace=trace,
            )
            for ranks, mine in zip(self.ranks, options, strict=True)
        ]  # fmt: skip
        self.expected = 0
        self.turns = [0] * len(options)
        self.made: Counter[str] = Counter()

    @property
    def actors(self) -> dict[str, Any]:
        return {name: actor for member in self.members for name, actor in member.actors.items()}

    def build(self) -> dict[str, Any]:
        """Later: where each rank is. They meet at a new port each time."""
        self.expected, self.turns, self.made = 0, [0] * len(self.members), Counter()
        point = self.members[0].meeting_point()
        builds = [
            member.build(Meeting(ranks, self.timeout), point) for ranks, member in zip(self.ranks, self.members, strict=True)
        ]
        return {name: later for build in builds for name, later in build.items()}

    def call(self, turn: int, method: str, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """As OnRay's. A group can't go back to a turn of before, as one process can: it is lost instead, and built again."""
        if turn != self.expected:
            self.kill()
        self.expected += 1
        if method not in BY_TURNS:
            first, *_ = (self._send(rank, method, *args, **kwargs) for rank in range(len(self.members)))
            return first
        rank = self.made[method] % len(self.members)
        self.made[method] += 1
        return self._send(rank, method, *args, **kwargs)

    def aside(self, method: str, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """As OnRay's: what is whole is with the first rank."""
        return self.members[0].aside(method, *args, **kwargs)

    def _send(self, rank: int, method: str, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        turn, self.turns[rank] = self.turns[rank], self.turns[rank] + 1
        return self.members[rank].call(turn, method, *args, **kwargs)

    def dismiss(self, turn: int) -> None:
        """As OnRay's: ranks would wait for the one whose call was not made, so it is lost at once."""
        self.kill()

    def beat(self) -> Any:
        """As OnRay's: where one rank is stuck, the first soon waits for it."""
        return self.members[0].beat()

    def beats(self) -> list[Any]:
        """As OnRay's: until they have met, each is asked."""
        return [member.beat() for member in self.members]

    def has_begun(self) -> bool:
        """As OnRay's: whether all have."""
        return all(member.has_begun() for member in self.members)

    def kill_stuck(self) -> None:
        """As OnRay's."""
        for member in self.members:
            member.kill_stuck()

    def kill(self) -> None:
        for member in self.members:
            member.kill()
