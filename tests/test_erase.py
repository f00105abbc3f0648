"""Logits that tell nothing of a class, and what erases it from features and head."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

import ignpx
from closeness import assert_sums_close
from ignpx import Classifier, InvalidArgumentError, Request, UnlearningError, steps, targets

CLASSES, INPUTS, FEATURES = 4, 6, 9
KEY = jax.random.key(0)


def network(params, x):
    return jnp.tanh(x @ params["first"]) @ params["head"] + params["bias"]


def model(targets=("first", "head", "bias")):
    keys = jax.random.split(KEY, 3)
    params = {
        "first": jax.random.normal(keys[0], (INPUTS, FEATURES)) / 3,
        "head": jax.random.normal(keys[1], (FEATURES, CLASSES)),
        "bias": jax.random.normal(keys[2], (CLASSES,)),
    }
    return Classifier.from_function(
        network, params, input_shape=(INPUTS,), num_classes=CLASSES, targets=targets
    )


def run(*method, forget=(1,), classifier=None, forgotten=()):
    classifier = model() if classifier is None else classifier
    request = Request.classes(list(forget), CLASSES, forgotten=forgotten)
    return ignpx.unlearn(steps.chain(*method), classifier, request, KEY)


@pytest.mark.parametrize("forget", [[1], [0, 2]])
def test_a_neutral_logit_is_as_the_mean_of_the_retained_ones(forget):
    edited, _ = run(steps.neutralise(), forget=forget)
    x = 3 * jax.random.normal(KEY, (500, INPUTS))
    before, after = (np.asarray(one.logits(x), float) for one in (model(), edited))
    retain = np.setdiff1d(np.arange(CLASSES), forget)
    expected = before.copy()
    expected[:, forget] = before[:, retain].mean(1, keepdims=True)
    # The probabilities, whose logarithms are the logits up to a number for each input.
    odds, wanted = (z - z[:, retain].mean(1, keepdims=True) for z in (after, expected))
    assert_sums_close(odds, wanted, 1e-6)
    np.testing.assert_array_equal(after[:, forget], 0)
    assert not np.isin(after.argmax(1), forget).any()
    assert np.isin(before.argmax(1), forget).any()


def test_a_class_that_is_forgotten_later_does_not_bring_an_earlier_one_back():
    """The later one was among those whose mean the logit of the earlier one stood for."""
    once, _ = run(steps.neutralise(), forget=[1])
    twice, _ = run(steps.neutralise(), forget=[2], forgotten=[1], classifier=once)
    together, _ = run(steps.neutralise(), forget=[1, 2])
    x = 3 * jax.random.normal(KEY, (500, INPUTS))
    assert_sums_close(twice.logits(x), together.logits(x), 1e-6)


@pytest.mark.parametrize("retained", [0, 3])
def test_one_retained_class_has_no_others_to_be_compared_with(retained):
    others = [index for index in range(CLASSES) if index != retained]
    with pytest.raises(UnlearningError, match="one class is retained"):
        run(steps.neutralise(), forget=others)
    with pytest.raises(UnlearningError, match="one class is retained"):
        run(steps.neutralise(), forget=others[:1], forgotten=others[1:])


def test_a_head_that_computes_in_bfloat16():
    """Its logits and those of the same head in float32 differ by the rounding of bfloat16."""

    class Net(linen.Module):
        @linen.compact
        def __call__(self, x):
            half = {"dtype": jnp.bfloat16}
            return linen.Dense(CLASSES, **half)(jnp.tanh(linen.Dense(FEATURES, **half)(x)))

    for seed in range(5):
        variables = Net().init(jax.random.key(seed), jnp.ones((1, INPUTS)))
        given = Classifier.from_linen(Net(), variables, input_shape=(INPUTS,), num_classes=CLASSES)
        edited, _ = run(steps.neutralise(), classifier=given)
        x = 3 * jax.random.normal(KEY, (500, INPUTS))
        np.testing.assert_array_equal(edited.logits(x)[:, 1], 0)
        assert not (np.argmax(edited.logits(x), -1) == 1).any()


def test_a_head_that_may_not_be_edited():
    with pytest.raises(InvalidArgumentError, match=r"classifier\.targets.*leave out.*head"):
        run(steps.neutralise(), classifier=model(targets=("first",)))


def targets_of(classifier, wanted):
    leaves = zip(targets.paths(classifier.params), jax.tree.leaves(classifier.params), strict=True)
    return {path: np.asarray(leaf) for path, leaf in leaves if path in wanted}


def test_the_eraser_forgets_the_digits(digits, trained):
    """With data and without: no zero is left, and the other digits stay."""
    zeros = digits.train.labels == 0
    parts = [ignpx.samples.taken(digits.train, np.flatnonzero(one)) for one in (zeros, ~zeros)]
    given = Request.classes([0], 10, forget_data=parts[0], retain_data=parts[1])

    def accuracy(classifier, gone):
        images, labels = digits.test
        chosen = (labels == 0) == gone
        logits = classifier.logits(classifier.preprocess(jnp.asarray(images[chosen])))
        return np.mean(np.argmax(logits, -1) == labels[chosen])

    before = accuracy(trained, gone=False)
    assert accuracy(trained, gone=True) > 0.9
    quick = {"samples": 10, "held_out": 5, "synthesis_steps": 40}
    for method, request in (
        (ignpx.methods.erase(samples=30), given),
        (ignpx.methods.erase_zs(**quick), Request.classes([0], 10)),
    ):
        edited, info = ignpx.unlearn(method, trained, request, KEY)
        assert accuracy(edited, gone=True) == 0
        # The head alone would forget, too: every layer before it was projected.
        hidden = set(info.strengths) - set(ignpx.embeddings.paths(trained))
        assert hidden
        moved = targets_of(edited, hidden)
        for path, kernel in targets_of(trained, hidden).items():
            assert info.strengths[path] > 0.05, path
            assert np.abs(moved[path] - kernel).max() > 1e-3, path
        # Nine images of the 324, which rounding and seeds do not explain.
        assert accuracy(edited, gone=False) > before - 0.03


@pytest.mark.parametrize("method", [ignpx.methods.erase, ignpx.methods.erase_zs])
@pytest.mark.parametrize("depth", [-0.1, 1.1, float("nan")])
def test_bad_depth(method, depth):
    with pytest.raises(InvalidArgumentError, match="depth"):
        method(depth=depth)


def test_the_dial_turns_from_the_head_alone_to_the_whole_projection(mlp):
    """At depth 0 nothing is projected, at half of it half."""
    settings = {"samples": 4, "held_out": 2, "synthesis_steps": 10}
    request = Request.classes([1], mlp.num_classes)
    edited = [
        ignpx.methods.erase_zs(depth=depth, targets=(".*",), **settings).unlearn(mlp, request, KEY)
        for depth in (0.0, 0.5, 1.0)
    ]
    head, half, whole = (np.asarray(one.params["hidden"]["w"], float) for one, _ in edited)
    np.testing.assert_array_equal(head, mlp.params["hidden"]["w"])
    assert_sums_close(half, (head + whole) / 2, 1e-5)
    assert np.linalg.norm(whole) < np.linalg.norm(head)
