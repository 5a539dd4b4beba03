"""What is measured of the teacher and the untrained generator at the start, and of the trained one at the end."""

import hashlib
from typing import Any

from disback_ray.rehearsal.crew import Crew


def look_at_the_start(crew: Crew) -> None:
    """What the teacher makes in many steps, the untrained generator in one, and real data against itself."""
    samples, summary, evaluator = crew.samples, crew.production.summary, crew.company.evaluator
    seen = summary.metrics if samples.measured else {picture["file"] for picture in summary.pictures}
    if ("untrained" if samples.measured else "samples/untrained.png") in seen or (not crew.pictures.wanted and summary.bounds):
        return
    if samples.judged:
        summary.measured_by = crew.company.wait(evaluator.measured_by())
        crew.production.say("; ".join(f"{name}: {what}" for name, what in summary.measured_by.items()))
    crew.production.watch.stage("measuring the teacher" if samples.measured else "drawing from the teacher")
    figures: dict[str, Any] = {}
    if samples.measured:
        figures["teacher"] = evaluator.measure(samples.of_teacher())
    if (untrained := samples.figures()) is not None:
        figures["untrained"] = untrained
    if samples.measured:
        figures["real_halves"] = evaluator.real_halves()
    bounds = crew.looks.bounds()
    crew.pictures.of_teacher()
    crew.pictures.of_generator("untrained", "The generator, untrained")
    crew.follower.finish()
    summary.metrics |= {name: crew.company.wait(later) for name, later in figures.items()}
    summary.bounds = crew.company.wait(bounds)


def evaluate(crew: Crew) -> None:
    """The final generator, its pictures and its weights."""
    samples, summary, wait = crew.samples, crew.production.summary, crew.company.wait
    crew.production.watch.stage("measuring the generator" if samples.measured else "drawing from the generator")
    final = samples.figures()
    crew.pictures.at_the_end()
    crew.follower.ask(crew.company.generator.export(crew.production.folder / "generator"))
    crew.follower.finish()
    digests = wait([crew.company.generator.digest(), crew.company.fake_score.digest()])
    if final is not None:
        summary.metrics["generator"] = wait(final)
    summary.verdict = crew.looks.verdict()
    summary.digest = hashlib.sha256("".join(digests).encode()).hexdigest()
