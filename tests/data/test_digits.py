"""The digits against what UCI says of them."""

import torch

from disback_ray.data.digits import load_digits


def test_shapes_types_and_range() -> None:
    digits = load_digits()
    assert digits.images.shape == (1797, 1, 8, 8)
    assert digits.images.dtype == torch.float32
    assert digits.labels.shape == (1797,)
    assert digits.labels.dtype == torch.int64
    assert digits.images.min() == -1.0
    assert digits.images.max() == 1.0
    assert len(digits) == 1797


def test_pixels_are_the_seventeen_levels_and_ink_is_bright() -> None:
    images = load_digits().images
    levels = (images + 1) * 8
    assert torch.equal(levels, levels.round())
    assert levels.unique().numel() == 17
    assert images[:, 0, :, 0].mean() < -0.9  # the left margin is empty in nearly all


def test_labels_are_balanced_and_belong_to_their_images() -> None:
    digits = load_digits()
    counts = digits.labels.bincount()
    assert len(counts) == 10
    assert counts.min() >= 170
    means = torch.stack([digits.images[digits.labels == k].mean(0).flatten() for k in range(10)])
    nearest = torch.cdist(digits.images.flatten(1), means).argmin(1)  # nearest class mean: about 90 % on this set
    assert (nearest == digits.labels).float().mean() > 0.85


def test_subset_keeps_pairs_together() -> None:
    digits = load_digits()
    threes = digits.subset(digits.labels == 3)
    assert set(threes.labels.tolist()) == {3}
    assert torch.equal(threes.images, digits.images[digits.labels == 3])
    assert torch.equal(digits.subset(torch.tensor([5, 2])).labels, digits.labels[[5, 2]])
