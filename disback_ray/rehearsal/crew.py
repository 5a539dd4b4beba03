"""Those behind the scenes of a run: each does one thing for all stages."""

from dataclasses import dataclass
from typing import Self

from disback_ray.actors.company import Company
from disback_ray.following import Follower
from disback_ray.production import Production
from disback_ray.rehearsal.checkpoints import Checkpoints
from disback_ray.rehearsal.looks import Looks
from disback_ray.rehearsal.pictures import Pictures
from disback_ray.rehearsal.playing import Player
from disback_ray.rehearsal.samples import Samples
from disback_ray.rehearsal.targets import Targets


@dataclass(frozen=True)
class Crew:
    """production: what is played; company: who plays it; the others: see their files. A stage is a function of all of them."""

    production: Production
    company: Company
    follower: Follower
    samples: Samples
    targets: Targets
    checkpoints: Checkpoints
    looks: Looks
    pictures: Pictures
    player: Player

    @classmethod
    def of(cls, production: Production, company: Company) -> Self:
        production.summary.roles = company.seats
        follower = Follower(company, production.metrics, production.watch, stop=production.stop, trace=production.trace)
        samples = Samples(production, company)
        targets = Targets(production, company, follower, samples)
        checkpoints = Checkpoints(production, company, follower, targets)
        looks = Looks(production, company, follower, samples)
        pictures = Pictures(production, company, follower, samples)
        player = Player(production, company, follower, samples, checkpoints)
        return cls(production, company, follower, samples, targets, checkpoints, looks, pictures, player)
