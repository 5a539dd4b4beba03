"""What the pictures show, read back from their pixels."""

import io

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from disback_ray.errors import ConfigError
from disback_ray.pictures import image_grid, score_fields, snapshots

BLUE, VERMILION = np.array([0.0, 0.447, 0.698]), np.array([0.835, 0.369, 0.0])


def decoded(png: bytes) -> np.ndarray:
    """[H, W, 3], 0–1."""
    return imread(io.BytesIO(png))[:, :, :3]


def centre_of(picture: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Where a colour sits: (across, down), each 0–1. The legend below the panels is left out."""
    panel = picture[: int(0.9 * len(picture))]
    down, across = np.nonzero(np.abs(panel - colour).sum(2) < 0.15)
    assert len(down) > 20
    return np.array([across.mean() / picture.shape[1], down.mean() / picture.shape[0]])


class TestImageGrid:
    def test_every_pixel_becomes_a_square_in_its_place(self) -> None:
        levels = torch.linspace(-1, 1, 5 * 2 * 3).reshape(5, 1, 2, 3)
        picture = decoded(image_grid(levels, columns=2, scale=10))
        assert picture.shape == (3 * (20 + 4), 2 * (30 + 4), 3)
        for index in range(5):
            for row in range(2):
                for column in range(3):
                    top, left = index // 2 * 24 + 2 + 10 * row, index % 2 * 34 + 2 + 10 * column
                    square = picture[top : top + 10, left : left + 10]
                    assert np.all(square == square[0, 0])
                    assert square[0, 0, 0] == pytest.approx((levels[index, 0, row, column].item() + 1) / 2, abs=0.003)
        assert np.all(picture[50:, 36:] == 1)  # the place of a sixth is left white

    def test_colour_and_what_lies_outside_the_range(self) -> None:
        image = torch.tensor([3.0, -1.0, float("nan")]).reshape(1, 3, 1, 1).expand(1, 3, 8, 8)
        assert decoded(image_grid(image))[30, 30] == pytest.approx([1, 0, 0.5], abs=0.003)

    def test_small_images_are_shown_large_and_large_ones_as_they_are(self) -> None:
        assert decoded(image_grid(torch.zeros(1, 1, 8, 8))).shape[:2] == (68, 68)
        assert decoded(image_grid(torch.zeros(1, 3, 256, 256))).shape[:2] == (260, 260)

    def test_labels_stand_under_their_images(self) -> None:
        images = -torch.ones(3, 1, 8, 8)
        bare, named = (decoded(image_grid(images, labels=labels)) for labels in (None, ["7", "", "five"]))
        extra = named.shape[0] - bare.shape[0]
        assert extra >= 18
        strips = np.split(named[-extra:] < 0.5, 3, axis=1)
        ink = [int(strip.sum()) for strip in strips]
        assert ink[2] > ink[0] > 0 == ink[1]
        assert np.array_equal(named[:-extra], bare)

    @pytest.mark.parametrize("shape", [(1, 8, 8), (2, 2, 8, 8), (0, 1, 8, 8)])
    def test_other_shapes_are_refused(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ConfigError, match="images have shape"):
            image_grid(np.zeros(shape))


class TestSnapshots:
    def test_points_are_where_they_are(self) -> None:
        """Data below left, generator above right: picture rows count downwards."""
        random = np.random.default_rng(0)
        data, drawn = random.normal(size=(500, 2)) * 0.1 - 1, random.normal(size=(500, 2)) * 0.1 + 1
        picture = decoded(snapshots([("", drawn)], data))
        blue, vermilion = centre_of(picture, BLUE), centre_of(picture, VERMILION)
        assert blue[0] < 0.35 < 0.65 < vermilion[0]
        assert vermilion[1] < 0.35 < 0.55 < blue[1]

    def test_frames_stand_in_even_rows_of_at_most_four(self) -> None:
        data = np.random.default_rng(1).normal(size=(100, 2))
        three, four, five = (decoded(snapshots([("step", data)] * count, data)).shape for count in (3, 4, 5))
        assert three[1] == five[1] < four[1]
        assert five[0] > 1.7 * four[0] == 1.7 * three[0]

    def test_a_point_that_went_astray_does_not_shrink_the_rest(self) -> None:
        data = np.random.default_rng(2).normal(size=(1000, 2))
        astray = np.vstack([data, [[1e6, 0], [np.nan, 0]]])
        picture = decoded(snapshots([("", astray)], data))
        _, across = np.nonzero(np.ptp(picture[: int(0.9 * len(picture))], axis=2) > 0.3)
        assert across.std() > 0.12 * picture.shape[1]  # at a scale that shows the stray point, all would share one column

    def test_without_data_only_the_generator_is_shown(self) -> None:
        picture = decoded(snapshots([("", np.random.default_rng(4).normal(size=(500, 2)).round())], torch.zeros(0, 2)))
        assert not np.any(np.abs(picture - BLUE).sum(2) < 0.15)
        centre_of(picture, VERMILION)

    def test_all_points_in_one_place(self) -> None:
        snapshots([("collapsed", np.zeros((50, 2)))], np.zeros((50, 2)))


class TestScoreFields:
    def test_arrows_where_there_is_a_field_and_dark_where_it_is_strong(self) -> None:
        line = np.linspace(-1, 1, 11)
        grid = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
        right = grid[:, :1] > 0.05
        above = grid[:, 1:] > 0.05
        vectors = np.where(right, np.where(above, 4.0, 1.0), 0.0) * np.array([[1.0, 0.5]])
        picture = decoded(score_fields([("field", grid, vectors, np.full((1, 2), 9.0))]))
        inner = picture[60:620, 60:580]  # within the axes
        coloured = np.ptp(inner, axis=2) > 0.3
        assert coloured[:, :240].sum() < 0.2 * coloured[:, 280:].sum()  # dots against arrows
        above, below = (part[np.ptp(part, axis=2) > 0.3].mean() for part in (inner[:240, 280:], inner[320:, 280:]))
        assert above < 0.8 * below

    def test_a_field_of_zeros(self) -> None:
        grid = np.array([[0.0, 0.0], [1.0, 1.0]])
        score_fields([("none", torch.tensor(grid), torch.zeros(2, 2), torch.zeros(3, 2))])


def test_same_input_same_picture_and_no_global_generator() -> None:
    points = np.random.default_rng(3).normal(size=(5000, 2))  # enough to be thinned
    state = np.random.get_state()[1].copy()
    assert snapshots([("", points)], points) == snapshots([("", points)], points)
    assert np.array_equal(state, np.random.get_state()[1])
