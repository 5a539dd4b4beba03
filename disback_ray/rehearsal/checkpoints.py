"""A stage's checkpoints: when one is due, how it is kept, and how the cast goes on from one."""

from collections.abc import Sequence
from typing import Any

from disback_ray.actors.company import Company
from disback_ray.algorithms.cast import Step
from disback_ray.auto_path import keyed
from disback_ray.following import Follower
from disback_ray.production import Production
from disback_ray.rehearsal.targets import Targets
from disback_ray.run_folder import CHECKPOINTS, STAGES, Checkpoint, checkpoint_name, drop_checkpoints, roles_of, save_checkpoint
from disback_ray.storage import Folder


class Checkpoints:
    """asked, kept: after how many steps of the present stage the last one was asked for, and the last one that is whole."""

    def __init__(self, production: Production, company: Company, follower: Follower, targets: Targets) -> None:
        self.production, self.company, self.follower, self.targets = production, company, follower, targets
        self.asked = self.kept = 0

    def enter(self, stage: str, found: Checkpoint | None, *, node: int | None, order: Sequence[str] = STAGES) -> None:
        """Puts the cast where the stage begins, or where its checkpoint left it.

        node: what s_φ begins as, None for random weights. order: of the stages that are to be played from here.
        """
        self.asked = self.kept = found.step if found else 0
        self.targets.go_on_from(found)
        self.production.metrics.forget_after(stage, self.asked, order=order)
        later = []
        if found is None:
            later.append(self.company.fake_score.begin(keyed(stage), node=node))
        else:
            self.production.say(f"going on from {stage} step {found.step}")
            for role, proof in found.files.items():
                args, kwargs = _loads(role, found.folder, stage, proof)
                later.append(getattr(self.company, role).load(*args, **kwargs))
        self.company.wait(later)
        self.company.kept()

    def is_due(self, step: Step) -> bool:
        """At the recipe's steps, before the log of the roles' calls grows beyond its budget, and before a machine goes."""
        if leaving := self.company.leaving():
            self.production.say(f"{', '.join(leaving)} is to go: checkpoint now")
            return True
        done, most = step.step + 1, self.company.log_steps
        return done % self.production.recipe.checkpoint_every == 0 or (most is not None and done - self.asked >= most)

    def keep(self, stage: str, done: int) -> None:
        """Asks for it; it is written in passing, but the steps wait for the one before where the log would hold two budgets' worth.

        What the log held before it is forgotten in its turn, once the looks before it are there. Where looks may be left out, the
        checkpoint itself doesn't wait for them: the evaluator may be long at one.
        """
        self.production.lock.require()
        most = self.company.log_steps
        if most is not None and done - self.kept > most:
            self.follower.finish()
        folder = self.production.folder / CHECKPOINTS / checkpoint_name(stage, done)
        roles = roles_of(stage)
        taken = [getattr(self.company, role).snapshot() for role in roles]
        written = [getattr(self.company, role).write(snapshot, folder) for role, snapshot in zip(roles, taken, strict=True)]
        self.asked = done
        whole = False

        def is_written(proofs: list[dict[str, Any]]) -> None:
            nonlocal whole
            if whole:
                return
            self.production.metrics.flush()  # before the manifest: whoever goes on from it finds all that came before
            self.production.save_summary()
            gaps = [(at, gap) for at, gap in sorted(self.targets.gaps.items()) if at <= done]
            save_checkpoint(self.production.folder, stage, done, dict(zip(roles, proofs, strict=True)), gaps=gaps)
            whole = True

        def is_kept(proofs: list[dict[str, Any]]) -> None:
            is_written(proofs)
            loads = (_loads(role, folder, stage, proof) for role, proof in zip(roles, proofs, strict=True))
            self.company.kept([(snapshot, *load) for snapshot, load in zip(taken, loads, strict=True)])
            self.kept = done
            drop_checkpoints(self.production.folder, stage, done, keep=self.production.keep)

        if self.production.leaves_looks_out:
            self.follower.ask(written, is_written, apart=True)
        self.follower.ask(written, is_kept)


def _loads(role: str, folder: Folder, stage: str, proof: dict[str, Any]) -> tuple[tuple[Folder], dict[str, str]]:
    """What a role's load() takes to go on from its file in a checkpoint."""
    return (folder,), {"sha256": proof["sha256"]} | ({"stage": keyed(stage)} if role == "fake_score" else {})
