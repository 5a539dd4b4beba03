"""The judge knows digits it has not seen, and is the same judge every time; what is measured with it is of the class asked for."""

import numpy as np
import pytest
import torch

from disback_ray.algorithms.records import Drawn
from disback_ray.data.digits import Digits, load_digits
from disback_ray.errors import CheckpointError
from disback_ray.evaluation.digit_judge import DigitJudge
from disback_ray.evaluation.digit_measures import DigitMeasures
from disback_ray.evaluation.frechet import frechet_between_halves, frechet_distance


@pytest.fixture(scope="module")
def digits() -> Digits:
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(0))
    return load_digits().subset(order)


@pytest.fixture(scope="module")
def judge(digits: Digits) -> DigitJudge:
    """Knows the first 1,437; the last 360 are held out."""
    return DigitJudge.train(seed=0, digits=digits.subset(torch.arange(1437)))


def test_it_knows_digits_held_out(judge: DigitJudge, digits: Digits) -> None:
    held_out = digits.subset(torch.arange(1437, 1797))
    assert judge.accuracy(held_out.images, held_out.labels) >= 0.97


def test_accuracy_is_the_share_recognised(judge: DigitJudge, digits: Digits) -> None:
    some = digits.subset(torch.arange(1437, 1537))
    said = judge.classify(some.images)
    assert said.dtype == torch.int64
    assert judge.accuracy(some.images, said) == 1.0
    said[:25] = (said[:25] + 1) % 10
    assert judge.accuracy(some.images, said) == 0.75


def test_features_are_the_last_hidden_layer(judge: DigitJudge, digits: Digits) -> None:
    features = judge.features(digits.images)
    assert features.shape == (1797, 64)
    assert features.dtype == np.float32
    assert features.min() == 0  # after a ReLU
    # The digit is a linear function of them: least squares finds it again.
    ones = np.hstack([features, np.ones((1797, 1), np.float32)])
    target = np.eye(10)[judge.classify(digits.images)]
    fitted = ones @ np.linalg.lstsq(ones, target, rcond=None)[0]
    assert (fitted.argmax(1) == target.argmax(1)).mean() > 0.97


def test_the_distance_orders_what_the_eye_orders(judge: DigitJudge, digits: Digits) -> None:
    """Halves of the real digits < faded digits < class means (all recognised, no variety) < noise."""
    real = judge.features(digits.images)
    noise = torch.rand(digits.images.shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    means = torch.stack([digits.images[digits.labels == k].mean(0) for k in range(10)])[digits.labels]
    faded, averaged, noisy = (frechet_distance(judge.features(images), real) for images in (digits.images * 0.9, means, noise))
    assert frechet_between_halves(real) < faded < averaged < noisy
    assert judge.accuracy(means, digits.labels) > 0.98


def test_same_seed_same_judge_whatever_the_threads_and_the_global_generator(digits: Digits) -> None:
    some = digits.subset(torch.arange(192))
    threads = torch.get_num_threads()
    first = DigitJudge.train(seed=3, digits=some)
    state = torch.random.get_rng_state()
    torch.set_num_threads(threads + 1)
    second = DigitJudge.train(seed=3, digits=some)
    assert torch.get_num_threads() == threads + 1
    features = first.features(digits.images)
    torch.set_num_threads(threads)
    assert torch.equal(state, torch.random.get_rng_state())  # the global generator was left alone
    assert first.to_bytes() == second.to_bytes()
    assert np.array_equal(features, first.features(digits.images))
    assert first.to_bytes() != DigitJudge.train(seed=4, digits=some).to_bytes()


def test_bytes_round_trip(judge: DigitJudge, digits: Digits) -> None:
    again = DigitJudge.from_bytes(judge.to_bytes())
    assert np.array_equal(again.features(digits.images), judge.features(digits.images))
    assert again.to_bytes() == judge.to_bytes()


def test_other_bytes_are_refused(judge: DigitJudge) -> None:
    import safetensors.torch

    whole = judge.to_bytes()
    other = safetensors.torch.save({"0.weight": torch.zeros(16, 1, 3, 3)})
    for data in (b"", b"not a file", whole[:-10], other):
        with pytest.raises(CheckpointError, match="digit judge") as refusal:
            DigitJudge.from_bytes(data)
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("samples", [None, 300])
def test_each_sample_is_asked_for_and_judged_by_a_real_image_s_class(judge: DigitJudge, samples: int | None) -> None:
    measures = DigitMeasures(judge, conditional=True, samples=samples, seed=3)
    real, asked = measures.real_data(), measures.wanted().condition
    assert asked is not None
    assert len(real.x) == len(asked) == (samples or 1797)
    shown = judge.classify(real.x)
    right, wrong = (measures.measure(Drawn(real.x, (asked + shift) % 10)) for shift in (0, 1))
    assert right["accuracy"] == pytest.approx((shown == asked).double().mean().item())
    assert right["accuracy"] > 0.97
    assert wrong["accuracy"] < 0.03
    if samples is None:
        assert right["frechet"] < 1e-2, "they are what is measured against"
    assert measures.wanted_pictures(12).condition.tolist() == [*range(10), 0, 1]  # type: ignore[union-attr]


def test_the_halves_are_of_real_images(judge: DigitJudge) -> None:
    """What chance makes, again with splits of our own."""
    told = DigitMeasures(judge, conditional=True, samples=100, seed=3).real_halves()
    features, shuffle = judge.features(load_digits().images), np.random.default_rng(5)
    parts = [np.array_split(shuffle.permutation(features), 2) for _ in range(6)]
    again = [frechet_distance(*halves) for halves in parts]
    assert told["frechet_mean"] == pytest.approx(np.mean(again), rel=0.3)
    assert 0.5 * min(again) < told["frechet_least"] <= told["frechet"] < 2 * max(again)
