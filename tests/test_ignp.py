"""What IGNP edits, by its variants; the contract and the real data have their own files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ignpx import InvalidArgumentError, Request, importance, losses
from ignpx.methods import METHODS, ignp
from ignpx.methods.ignp import auto_coverage

QUICK = {"samples": 4, "held_out": 2, "steps": 20, "coverage": (0.05, 0.2)}


def forgotten(unlearner, classifier):
    request = Request.classes([2], classifier.num_classes)
    edited, info = unlearner.unlearn(classifier, request, jax.random.key(0))
    flat = [
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
        for tree in (classifier.params, edited.params)
    ]
    return *flat, info


def on_forget_prototypes(function, classifier, info):
    """A gradient or a sensitivity over the prototypes that entered IGNP's own."""
    inputs = info.prototypes.inputs[2, :4]
    labels, weights = jnp.full(4, 2), jnp.full(4, 0.25)
    tree = function(classifier, inputs, labels, weights, loss=losses.negative_log_odds)
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def test_only_parameters_that_support_the_class_are_edited(mlp):
    before, after, info = forgotten(ignp(**QUICK), mlp)
    changed = before != after
    gradient = on_forget_prototypes(importance.mean_gradient, mlp, info)
    assert changed.any()
    assert (gradient[changed] * before[changed] < 0).all()


def test_the_rule_of_the_paper_takes_others_too(mlp):
    before, after, info = forgotten(ignp(**QUICK, direction="any"), mlp)
    changed = before != after
    gradient = on_forget_prototypes(importance.mean_gradient, mlp, info)
    assert (gradient[changed] * before[changed] > 0).any()


def test_the_ablation_zeroes_what_matters_most_to_the_class(mlp):
    settings = {**QUICK, "sensitivity_loss": "log_odds"}
    before, after, info = forgotten(METHODS["ignp-zero"](**settings), mlp)
    changed = before != after
    squares = on_forget_prototypes(importance.sensitivity, mlp, info)
    assert (after[changed] == 0).all()
    # Biases are zero to begin with, and stay so.
    assert squares[changed].min() >= squares[~changed & (before != 0)].max()


def test_the_automatic_range_shrinks_as_classes_grow_in_number():
    assert auto_coverage(10) == pytest.approx((0.003, 0.0253), rel=1e-3)
    for few, many in ((2, 10), (10, 100), (100, 1000)):
        assert all(
            more < less for more, less in zip(auto_coverage(many), auto_coverage(few), strict=True)
        )
    for classes in (2, 10, 100, 1000):
        low, high = auto_coverage(classes)
        assert 0 < low < high < 1


@pytest.mark.parametrize(
    "setting",
    [
        {"coverage": "automatic"},
        {"direction": "up"},
        {"ranking": "both"},
        {"edit": "keep"},
        {"within": "top"},
    ],
)
def test_bad_settings(setting):
    with pytest.raises(InvalidArgumentError, match=next(iter(setting))):
        ignp(**setting)
