"""Patches: adjoint, average, every size and stride; and the cosine basis."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.fft import dctn

from ppl_zoo.core.errors import DataError
from ppl_zoo.imaging import PatchGrid, average_patches, cosine_basis, extract_patches, sum_patches


@st.composite
def grids(draw):
    """Draw arguments of a grid of any shape, stride and offset."""
    size = draw(st.integers(2, 8))
    shape = draw(st.integers(size, 25)), draw(st.integers(size, 25))
    stride = draw(st.integers(1, size))
    offset = draw(st.integers(0, stride - 1)), draw(st.integers(0, stride - 1))
    return shape, size, stride, offset


@settings(max_examples=60, deadline=None)
@given(grids())
def test_sum_is_the_adjoint_of_extract_and_the_average_of_patches_is_the_image(arguments):
    grid = PatchGrid(*arguments)
    image = torch.randn(grid.shape, dtype=torch.float64)
    patches = grid.extract(image)
    other = torch.randn_like(patches)
    assert patches.shape == (len(grid), grid.size**2)
    torch.testing.assert_close((patches * other).sum(), (image * grid.sum(other)).sum())
    torch.testing.assert_close(grid.average(patches), image)
    weights = torch.rand(len(grid), dtype=torch.float64)
    spread = weights[:, None].expand_as(patches)
    torch.testing.assert_close(grid.spread(weights), grid.sum(spread))


@settings(max_examples=30, deadline=None)
@given(grids(), st.integers(1, 5))
def test_bands_of_rows_add_up(arguments, height):
    grid = PatchGrid(*arguments)
    image = torch.randn(grid.shape, dtype=torch.float64)
    total, parts = torch.zeros_like(image), []
    for first in range(0, grid.num_rows, height):
        part = slice(first, min(first + height, grid.num_rows))
        parts.append(grid.extract(image, part))
        grid.sum(parts[-1], part, out=total)
    torch.testing.assert_close(torch.cat(parts), grid.extract(image))
    torch.testing.assert_close(total, grid.sum(torch.cat(parts)))


def test_patches_are_the_windows_of_the_image():
    image = torch.arange(30.0).reshape(5, 6)
    patches = extract_patches(image, 3, 2)
    expected = [image[i : i + 3, j : j + 3].flatten() for i in (0, 2) for j in (0, 2, 3)]
    assert torch.equal(patches, torch.stack(expected))
    assert torch.equal(average_patches(patches, (5, 6), 3, 2), image)
    assert sum_patches(torch.ones_like(patches), (5, 6), 3, 2)[0].tolist() == [1, 1, 2, 2, 2, 1]


def test_every_pixel_is_covered_whatever_the_offset():
    for offset in range(7):
        count = PatchGrid((30, 23), 8, 7, (offset, 6 - offset)).count(torch.zeros(()))
        assert count.min() >= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((7, 20), 8), "got 7 x 20 pixels, expected 8 x 8"),
        (((20, 20), 8, 9), "stride: got 9"),
        (((20, 20), 8, 2, (0, 2)), "offset"),
    ],
)
def test_what_has_no_patches_is_refused(arguments, message):
    with pytest.raises(DataError, match=message):
        PatchGrid(*arguments)


def test_the_cosine_basis_is_orthonormal_and_that_of_scipy():
    basis = cosine_basis(8, dtype=torch.float64)
    torch.testing.assert_close(basis @ basis.T, torch.eye(64, dtype=torch.float64))
    patch = torch.randn(8, 8, dtype=torch.float64)
    expected = torch.from_numpy(dctn(patch.numpy(), norm="ortho")).flatten()
    torch.testing.assert_close(basis @ patch.flatten(), expected)
