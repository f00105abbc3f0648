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


def test_maps_lie_over_their_images():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 8, 8, 1)).astype(np.uint8)
    maps = {"before": rng.random((3, 2, 2)), "after": np.zeros((3, 2, 2))}
    figure = pictures.grad_cam(images, maps, ["3", "3", "3"])
    axes = np.reshape(figure.axes, (3, 3))
    assert [axis.get_ylabel() for axis in axes[:, 0]] == ["image", "before", "after"]
    assert [axis.get_title() for axis in axes[0]] == ["3", "3", "3"]
    over = axes[1, 2].images[1]
    shown = np.asarray(over.get_array())
    np.testing.assert_allclose(shown, maps["before"][2] / maps["before"][2].max())
    assert over.get_extent() == axes[1, 2].images[0].get_extent()
    assert not np.any(axes[2, 0].images[1].get_alpha())  # nothing to see


def test_an_embedding_shows_every_sample_by_class():
    coordinates = np.random.default_rng(0).normal(size=(9, 2))
    labels, synthetic = np.arange(9) % 3, np.arange(9) >= 6
    figure = pictures.embedding(coordinates, labels, synthetic, ["cat", "dog", "hen"], [1])
    [axis], [legend] = figure.axes, figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["cat", "hen", "dog (forget)", "synthetic"]
    drawn = np.concatenate([part.get_offsets() for part in axis.collections])
    assert len(drawn) == 9
    real, made = axis.collections[4:6]  # of the last class that is drawn
    np.testing.assert_allclose(real.get_offsets(), coordinates[[1, 4]])
    np.testing.assert_allclose(made.get_offsets(), coordinates[[7]])
    assert (real.get_facecolor()[0, :3] == to_rgb(pictures.FORGET)).all()
