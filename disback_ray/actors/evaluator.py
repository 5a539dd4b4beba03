"""The role that looks: it measures what the generator and the teacher make, and keeps pictures of it in the run's folder."""

import io
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from disback_ray.actors.calls import looks
from disback_ray.actors.generator import draw
from disback_ray.actors.snapshot import Snapshot
from disback_ray.algorithms.records import Drawn, Probe
from disback_ray.data.prepared import DataSpec
from disback_ray.data.prompts import PromptsData
from disback_ray.data.sources import DigitsData, ImagesData, NoData
from disback_ray.device import best_device
from disback_ray.errors import CheckpointError
from disback_ray.evaluation.digit_judge import DigitJudge
from disback_ray.evaluation.digit_measures import DigitMeasures
from disback_ray.evaluation.image_measures import AgainstReference, ImageMeasures
from disback_ray.evaluation.looks import IMAGES, Looks, spread
from disback_ray.evaluation.pictures_only import PicturesOnly
from disback_ray.evaluation.point_measures import PointMeasures
from disback_ray.evaluation.sliced import sliced_distance
from disback_ray.networks.spec import GeneratorSpec
from disback_ray.networks.text_unet import TextUNetSpec
from disback_ray.pictures import score_fields, snapshots
from disback_ray.storage import Folder
from disback_ray.teachers.latents import LatentDecoder

JUDGE = "judge.safetensors"
FRAMES = "frames"
SHOWN_FRAMES = 8


class Evaluator:
    """Measures and pictures for one kind of data. Nothing of the training depends on it."""

    def __init__(
        self,
        data: DataSpec | NoData | PromptsData,
        *,
        shape: tuple[int, ...],
        classes: int,
        run: Folder,
        cache: Folder,
        samples: int | None,
        pictures: int,
        sigmas: Sequence[float],
        seed: int,
        latents: TextUNetSpec | None = None,
        against: AgainstReference | None = None,
        student: GeneratorSpec | None = None,
    ) -> None:
        """shape, classes: of the generator's samples; cache: where the digits' judge is kept; samples: None for the measure's own number.

        latents: the network that they are of, where they are latents. Without data there are pictures and no measures, but against
        a reference: then student is the generator whose weights come. Raises what ImageMeasures does.
        """
        self.run = run
        self.seed = seed
        self.pictures = pictures
        self.looks = Looks(sigmas, seed=seed)
        decode = LatentDecoder(latents) if latents else None
        self.images = ImageMeasures(against, shape=shape, classes=classes, decode=decode) if against else None
        self.student = student
        self.network: nn.Module | None = None
        self.measures: DigitMeasures | PointMeasures | PicturesOnly
        if isinstance(data, NoData | ImagesData | PromptsData):
            self.measures = PicturesOnly(shape, classes, decode)
        elif isinstance(data, DigitsData):
            judge = _judge(cache)
            self.measures = DigitMeasures(judge, conditional=data.conditional, samples=samples, seed=seed)
        else:
            self.measures = PointMeasures(data, samples=samples, seed=seed)

    @looks
    def wanted(self) -> Drawn:
        """What a model is to draw for measure()."""
        assert not isinstance(self.measures, PicturesOnly)
        return self.measures.wanted()

    @looks
    def wanted_pictures(self) -> Drawn:
        """What a model is to draw for picture()."""
        return self.measures.wanted_pictures(self.pictures)

    @looks
    def measure(self, drawn: Drawn) -> dict[str, float]:
        """Raises NonFiniteError where the samples have NaN or Inf, ConfigError where they are too few."""
        assert not isinstance(self.measures, PicturesOnly)
        return self.measures.measure(drawn)

    @looks
    def measured_by(self) -> dict[str, str]:
        """What the Fréchet distances of a run on images are distances of."""
        assert self.images is not None
        reference = self.images.reference
        return {"features": str(reference.kind), "reference": str(reference.origin), "samples": str(self.images.samples)}

    @looks
    def measure_weights(self, weights: Snapshot) -> dict[str, float]:
        """The Fréchet distance of what the generator makes with these weights, drawn here. Raises ConfigError, NonFiniteError."""
        assert self.images is not None
        assert self.student is not None
        device = best_device()
        if self.network is None:
            self.network = self.student.build(seed=self.seed).requires_grad_(False).to(device)
        network = self.network

        def drawn(wanted: Drawn, first: int) -> Tensor:
            return draw(network, weights.tensors, wanted, seed=self.seed, device=device, first=first)

        return self.images.figures(drawn).figures

    @looks
    def wanted_look(self) -> Drawn:
        """What a model is to draw for look(): what measure() has, or where nothing is measured, as many as a look needs."""
        if isinstance(self.measures, PicturesOnly):
            return self.measures.wanted_pictures(min(self.pictures, IMAGES) or IMAGES)
        return self.measures.wanted()

    @looks
    def look(self, drawn: Drawn, probe: Probe, teacher: Tensor, fake: Tensor) -> dict[str, float]:
        """gap_σ, mismatch, fake_mismatch and spread: what says whether the run converges, see looks.py."""
        return self.looks.numbers(drawn, probe, teacher, fake)

    @looks
    def gap(self, probe: Probe, wanted: Tensor, fake: Tensor) -> dict[str, float]:
        """target_gap: rms of σ (s_φ − s_target) over all bands of held noise, the target being the present node."""
        return {"target_gap": float(self.looks.levels(probe, wanted, fake).square().mean().sqrt())}

    @looks
    def apart(self, drawn: Drawn, teacher: Drawn) -> float:
        """Sliced Wasserstein distance between the generator's samples and the teacher's, whatever they are."""
        return sliced_distance(drawn.x, teacher.x, seed=self.seed)

    @looks
    def real(self) -> Drawn:
        """The data that samples are measured against."""
        assert not isinstance(self.measures, PicturesOnly)
        return self.measures.real_data()

    @looks
    def bounds(self, drawn: Drawn, probe: Probe, teacher: Tensor) -> dict[str, float]:
        """Mismatch and spread of real data, or of the teacher's own samples: Eq. (9)'s ideal lower bound, as the paper prints it."""
        return self.looks.mismatches(drawn, probe, mismatch=teacher) | {"spread": spread(drawn)}

    @looks
    def real_halves(self) -> dict[str, float]:
        """The same figures for real data against real data."""
        assert not isinstance(self.measures, PicturesOnly)
        return self.measures.real_halves()

    @looks
    def picture(self, drawn: Drawn, name: str) -> dict[str, float]:
        """Writes samples/name. Raises CheckpointError."""
        (self.run / "samples").write(name, self.measures.picture(drawn))
        return {}

    @looks
    def keep_frame(self, drawn: Drawn, step: int) -> dict[str, float]:
        """Keeps points as they are at a step, for Figure 8. Raises CheckpointError."""
        data = io.BytesIO()
        np.save(data, drawn.x.cpu().numpy(), allow_pickle=False)
        (self.run / "samples" / FRAMES).write(f"{step:08d}.npy", data.getvalue())
        return {}

    @looks
    def figure_8(self, name: str) -> dict[str, float]:
        """The student's distribution along training, as in the paper's Figure 8. Raises CheckpointError."""
        assert isinstance(self.measures, PointMeasures)
        folder = self.run / "samples" / FRAMES
        names = folder.names()
        chosen = sorted({round(index * (len(names) - 1) / (SHOWN_FRAMES - 1)) for index in range(SHOWN_FRAMES)})
        frames = []
        for index in chosen:
            points = np.load(io.BytesIO(folder.read(names[index])), allow_pickle=False)
            frames.append((f"step {int(names[index][:-4])}", torch.from_numpy(points)))
        (self.run / "samples").write(name, snapshots(frames, self.measures.real))
        return {}

    @looks
    def grid(self) -> Tensor:
        """The points at which Figure 9 shows score fields, [M, 2]."""
        assert isinstance(self.measures, PointMeasures)
        return self.measures.grid()

    @looks
    def figure_9(self, teacher: Tensor, fake: Tensor, drawn: Drawn, name: str) -> dict[str, float]:
        """The score fields of s_θ over the data and of s_φ over the generated points, as in Figure 9. Raises CheckpointError."""
        assert isinstance(self.measures, PointMeasures)
        grid = self.measures.grid()
        fields = [
            ("s_θ, towards the data", grid, teacher.cpu(), self.measures.real),
            ("s_φ, towards the generated points", grid, fake.cpu(), drawn.x.cpu()),
        ]
        (self.run / "samples").write(name, score_fields(fields))
        return {}


def _judge(cache: Folder) -> DigitJudge:
    """The digits' judge, trained once for all runs that share a storage."""
    if cache.has(JUDGE):
        try:
            return DigitJudge.from_bytes(cache.read(JUDGE))
        except CheckpointError:
            pass  # damaged: the same one is trained again
    judge = DigitJudge.train()
    cache.write(JUDGE, judge.to_bytes())
    return judge
