"""Pictures show what they are given."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from ignpx.experiments import pictures


@pytest.mark.parametrize("shape", [(32, 32, 1), (64, 48, 3)])
def test_prototypes_by_class_with_those_to_forget_framed(shape):
    images = np.random.default_rng(0).normal(size=(3, 5, *shape)).astype(np.float32)
    figure = pictures.prototypes(images, ["cat", "dog", "hen"], [1], rows=2)
    [axis] = figure.axes
    [drawn] = axis.images
    grid = np.asarray(drawn.get_array())
    assert [text.get_text() for text in axis.texts] == ["cat", "dog (forget)", "hen"]
    edge = 2 * (shape[0] // 32)
    rows, columns = shape[0] + 2 * edge, shape[1] + 2 * edge
    assert grid.shape == (2 * rows, 3 * columns, 3)
    for index in range(3):
        for row in range(2):
            cell = grid[row * rows : (row + 1) * rows, index * columns : (index + 1) * columns]
            image = images[index, row]
            stretched = (image - image.min()) / (image.max() - image.min())
            # Half a level of 256.
            inner = cell[edge:-edge, edge:-edge] / 255
            assert np.abs(inner - stretched).max() < 0.5001 / 255
            line = to_rgb(pictures.FORGET if index == 1 else "white")
            assert (cell[edge - 1, edge:-edge] / 255 == line).all()
            assert (cell[0] == 255).all()
    width, height = figure.get_size_inches() * axis.get_position().size
    assert height / width == pytest.approx(2 * rows / (3 * columns))
