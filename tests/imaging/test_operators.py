"""Operators: adjoints by dot products, least squares by its normal equations."""

import pytest
import torch
from scipy.signal import convolve2d

from ppl_zoo.core.errors import DataError
from ppl_zoo.imaging import Blur, Downsample, Identity, LinearOperator, Mask

SHAPE = (24, 18)
KERNEL = torch.rand(5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
OPERATORS = {
    "identity": Identity(),
    "valid": Blur(KERNEL),
    "circular": Blur(KERNEL, "circular"),
    "mask": Mask(torch.rand(SHAPE, generator=torch.Generator().manual_seed(2)) > 0.5),
    "downsample": Downsample(3),
}


@pytest.fixture(params=OPERATORS)
def operator(request):
    """Return each operator."""
    return OPERATORS[request.param]


@pytest.mark.parametrize("lead", [(), (3,)])
def test_adjoint_by_dot_product(operator, lead):
    x = torch.randn(*lead, *SHAPE, dtype=torch.float64)
    seen = operator(x)
    y = torch.randn_like(seen)
    torch.testing.assert_close((seen * y).sum(), (x * operator.adjoint(y)).sum())
    assert operator.image_shape(tuple(seen.shape[-2:])) == SHAPE
    assert operator.first_guess(seen).shape == x.shape


def test_fit_minimises_the_sum_of_squares(operator):
    x = torch.randn(SHAPE, dtype=torch.float64)
    y, average = operator(x), torch.randn(SHAPE, dtype=torch.float64)
    found = operator.fit(y, 50.0, average, 2.0)
    gradient = 50.0 * operator.adjoint(operator(found) - y) + 2.0 * (found - average)
    assert gradient.norm() < 1e-4 * (50.0 * operator.adjoint(y)).norm()
    general = LinearOperator.fit(operator, y, 50.0, average, 2.0)
    torch.testing.assert_close(found, general, rtol=1e-3, atol=1e-3)


def test_blur_is_the_convolution_of_scipy():
    x = torch.randn(SHAPE, dtype=torch.float64)
    kernel = (KERNEL / KERNEL.sum()).numpy()
    valid = convolve2d(x.numpy(), kernel, mode="valid")
    torch.testing.assert_close(Blur(KERNEL)(x), torch.from_numpy(valid))
    odd = kernel[:, :3] / kernel[:, :3].sum()
    around = convolve2d(x.numpy(), odd, mode="same", boundary="wrap")
    torch.testing.assert_close(Blur(odd, "circular")(x), torch.from_numpy(around))


def test_downsampling_averages_squares_and_flat_images_stay_flat():
    x = torch.arange(16.0).reshape(4, 4)
    assert Downsample(2)(x).tolist() == [[2.5, 4.5], [10.5, 12.5]]
    flat = torch.full((1, *SHAPE), 0.3)
    for operator in OPERATORS.values():
        if not isinstance(operator, Mask):
            seen = operator(flat)
            torch.testing.assert_close(seen, torch.full_like(seen, 0.3))
            torch.testing.assert_close(operator.first_guess(seen), flat)


def test_the_first_guess_of_a_mask_keeps_seen_pixels_and_fills_the_others():
    x = torch.rand(SHAPE)
    seen = torch.zeros(SHAPE, dtype=torch.bool)
    seen[3, 4] = seen[20, 10] = True
    guess = Mask(seen).first_guess(Mask(seen)(x))
    assert torch.equal(guess[seen], x[seen])
    low, high = sorted(x[seen].tolist())
    assert bool((guess >= low - 1e-5).all()) and bool((guess <= high + 1e-5).all())
    assert torch.equal(
        Mask(torch.zeros(4, 4)).first_guess(torch.zeros(4, 4)), torch.full((4, 4), 0.5)
    )


def test_a_user_operator_needs_two_methods():
    class Double(LinearOperator):
        def __call__(self, image):
            return 2.0 * image

        def adjoint(self, data):
            return 2.0 * data

    y, average = torch.rand(4, 4), torch.rand(4, 4)
    found = Double().fit(y, 1.0, average, 1.0)
    torch.testing.assert_close(found, (2.0 * y + average) / 5.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Blur(torch.zeros(3, 3)), "kernel: got shape .* positive sum"),
        (lambda: Blur(torch.tensor([[1.0, float("nan")]])), "finite"),
        (lambda: Blur(torch.ones(3, 3), "reflect"), "boundary: got 'reflect'"),
        (lambda: Blur(torch.ones(3, 3))(torch.ones(2, 9)), "at most the size of the image"),
        (lambda: Mask(torch.full((3, 3), 0.5)), "true and false"),
        (lambda: Mask(torch.ones(3, 3))(torch.ones(3, 4)), "the size of the image"),
        (lambda: Downsample(0), "factor: got 0"),
        (lambda: Downsample(2)(torch.ones(3, 4)), "multiples of 2"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(DataError, match=message):
        make()
