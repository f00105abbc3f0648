"""The verbs as steps: what a chain makes of them, and of functions of one's own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ignpx
from ignpx import (
    Changes,
    Forgets,
    InvalidArgumentError,
    Request,
    Sees,
    UnlearningError,
    importance,
    selection,
    steps,
    synthesis,
)
from ignpx.methods import ignp

pytestmark = pytest.mark.filterwarnings("ignore::ignpx.UnlearningWarning")
KEY = jax.random.key(0)
MADE = steps.synthesise([synthesis.cross_entropy()], samples=4, held_out=2, steps=20)
COVERAGE = (0.05, 0.2)


def leaves(classifier):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(classifier.params)]


def run(classifier, *chained, forget=(2,)):
    request = Request.classes(list(forget), classifier.num_classes)
    return ignpx.unlearn(steps.chain(*chained), classifier, request, KEY)


def by_hand(classifier, info, forget):
    """Mean squared gradients on what was synthesised, one class after another."""
    inputs = info.prototypes.inputs[:, :4]
    classes = range(classifier.num_classes)
    each = [
        importance.sensitivity(classifier, inputs[c], jnp.full(4, c), patterns=classifier.targets)
        for c in classes
    ]
    mean = [
        jax.tree.map(lambda *squares: sum(squares) / len(squares), *(each[c] for c in side))
        for side in ([forget], [c for c in classes if c != forget])
    ]
    return mean


# Both ways to a squared gradient multiply and add fewer than a hundred float32 numbers, and a ratio
# has two of them: its logarithm differs by less than 200 times 2^-24.
ROUNDING = 200 * 2.0**-24


def noting(seen):
    """A step that notes the selection, and changes nothing."""

    def noted(state):
        seen.append(state.selected)
        return state

    return noted


def assert_equal_away_from_alpha(first, second, selected):
    """Two edits may differ where rounding can take a ratio over the threshold, and nowhere else."""
    ratios = map(np.asarray, jax.tree.leaves(selected.log_ratios))
    for a, b, ratio in zip(leaves(first), leaves(second), ratios, strict=True):
        near = np.abs(ratio - np.float32(selected.log_alpha)) <= ROUNDING
        np.testing.assert_array_equal(a[~near], b[~near])
        assert near.mean() < 0.01  # so that something is compared


def test_a_chain_is_what_its_verbs_are_one_after_another(mlp):
    edited, info = run(
        mlp,
        MADE,
        steps.weigh(loss=ignpx.losses.cross_entropy, supporting=False),
        steps.threshold(3.0),
        steps.edit(steps.Dampen(10.0)),
    )
    forget, retain = map(jax.tree.leaves, by_hand(mlp, info, 2))
    for before, after, f, r in zip(leaves(mlp), leaves(edited), forget, retain, strict=True):
        f, r = np.float64(f), np.float64(r)
        close = np.abs(f - 3 * r) < 1e-4 * f  # on either side of alpha, by rounding
        expected = np.where(f > 3 * r, before * 3 / 10 * r / np.where(f > 0, f, 1), before)
        np.testing.assert_allclose(after[~close], expected[~close], rtol=1e-4, atol=1e-7)
        assert (f > 3 * r).any()


def test_a_line_is_replaced_and_nothing_else_changes(mlp):
    """SSD's scaling under IGNP's selection is IGNP's but for a factor of alpha / strength."""
    kept = MADE, steps.weigh(), steps.calibrate(COVERAGE, within="middle")
    first, info = run(mlp, *kept, steps.edit(steps.Dampen(10.0)))
    second, again = run(mlp, *kept, steps.edit(steps.CappedDampen(1.0)))
    third, _ = run(mlp, *kept, steps.edit(steps.Zero()))
    alpha = float(info.calibration.alpha)
    assert alpha == float(again.calibration.alpha)
    for before, a, b, c in zip(*map(leaves, (mlp, first, second, third)), strict=True):
        changed = (a != before) & (b != before)
        capped = np.minimum(a[changed] / before[changed] * 10 / alpha, 1)
        np.testing.assert_allclose(b[changed] / before[changed], capped, rtol=1e-5)
        assert (c[a != before] == 0).all()


def test_functions_of_ones_own_are_steps_as_they_are(mlp):
    seen = []

    def brightness(view):
        return 0.01 * jnp.mean(jnp.square(view.inputs))

    def halves(forget, retain):
        return jax.tree.map(lambda f, r: f > jnp.median(f), forget, retain)

    def turned(params, selected, key):
        return jax.tree.map(lambda p, m: jnp.where(m, -p, p), params, selected.masks)

    def noted(state):
        seen.append(state.selected.log_alpha)
        return state

    edited, info = run(
        mlp,
        steps.synthesise([synthesis.cross_entropy(), brightness], samples=4, steps=20),
        steps.weigh(importance.sensitivity, targets=("out",)),
        steps.select(halves),
        noted,
        steps.edit(turned),
    )
    assert seen == [None]
    for part in mlp.params:
        before, after = mlp.params[part], edited.params[part]
        for name, values in before.items():
            same = np.abs(np.asarray(after[name])) == np.abs(np.asarray(values))
            assert same.all()
            if part != "out":
                np.testing.assert_array_equal(after[name], values)
    assert int(sum(jax.tree.leaves(info.selected))) > 0


def test_a_weighing_of_ones_own_is_called_for_either_side(mlp):
    """With the same loss it is what the pass over both finds."""
    seen = []
    rest = steps.threshold(2.0), noting(seen), steps.edit(steps.Zero())
    together = steps.weigh(loss=ignpx.losses.cross_entropy, supporting=False)
    one, _ = run(mlp, MADE, together, *rest)
    two, _ = run(mlp, MADE, steps.weigh(importance.sensitivity), *rest)
    assert_equal_away_from_alpha(one, two, seen[0])


def test_a_loss_of_ones_own_has_the_labels_that_it_asks_for(mlp):
    """Class ids; or all classes that are right, of which several can be one."""
    shapes = []

    def own(logits, label):
        shapes.append((label.shape, label.dtype.kind))
        return -jax.nn.log_softmax(logits)[label]

    @ignpx.losses.joining_classes
    def joined(logits, right):
        shapes.append((right.shape, right.dtype.kind))
        return ignpx.losses.negative_log_odds(logits, right)

    def importances(loss):
        found = []
        weighing = steps.weigh(loss=loss, supporting=False)
        run(
            mlp,
            MADE,
            weighing,
            lambda state: found.append(state.importance) or state,
            forget=(0, 2),
        )
        return jax.tree.leaves(found)

    for loss, like in (
        (own, ignpx.losses.cross_entropy),
        (joined, ignpx.losses.negative_log_odds),
    ):
        for a, b in zip(importances(loss), importances(like), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6 * float(jnp.max(b)))
    assert set(shapes) == {((), "i"), ((4,), "b")}


def test_the_importance_can_be_changed_in_between(mlp):
    """By what matters to the class alone, the largest are selected."""
    seen = []

    def alone(forget, retain):
        seen.append(forget)
        return forget, jax.tree.map(jnp.ones_like, retain)

    _, info = run(mlp, MADE, steps.weigh(), steps.reweigh(alone), steps.threshold(1e-3))
    (forget,) = seen
    counts = jax.tree.map(lambda f: int(jnp.sum(f > 1e-3)), forget)
    assert counts == jax.tree.map(int, info.selected)


def test_a_chain_sees_and_changes_what_its_steps_do(mlp):
    chained = steps.chain(MADE, steps.weigh(), steps.judge())
    assert (chained.sees, chained.changes, chained.forgets) == (
        Sees.NOTHING,
        Changes(0),
        Forgets.CLASSES,
    )
    assert chained.prepare is not None
    both = steps.chain(
        steps.Step("data", lambda state, key, _: (state, None), sees=Sees.FORGET),
        lambda state: state,
        forgets=Forgets.ANY,
    )
    assert (both.sees, both.forgets, both.prepare) == (Sees.FORGET, Forgets.ANY, None)
    assert Changes.STATE not in both.changes
    assert Changes.TARGETS in both.changes


def test_a_chain_maps_over_all_classes(mlp):
    seen = []
    selecting = MADE, steps.weigh(), steps.calibrate(COVERAGE, within="middle")
    chained = steps.chain(*selecting, steps.edit(steps.Zero()))
    noted = steps.chain(*selecting, noting(seen), steps.edit(steps.Zero()))

    @jax.jit
    @jax.vmap
    def forget(classes):
        return chained.unlearn(mlp, Request(classes, ~classes), KEY)[0].params

    every = forget(jnp.eye(4, dtype=bool))
    for c in range(4):
        alone, _ = ignpx.unlearn(noted, mlp, Request.classes([c], 4), KEY)
        mapped = mlp.replace(params=jax.tree.map(lambda leaf, c=c: leaf[c], every))
        assert_equal_away_from_alpha(mapped, alone, seen[c])


def test_keys_are_those_that_are_said(mlp):
    seen = []

    def noting(name):
        return steps.Step(name, lambda state, key, _: (seen.append(key) or state, None))

    request = Request.classes([0], 4)
    steps.chain(noting("a"), noting("b")).unlearn(mlp, request, KEY)
    assert seen == [KEY, jax.random.fold_in(KEY, 1)]
    seen.clear()
    keys = functools.partial(jax.random.split, num=2)
    steps.chain(noting("a"), noting("b"), keys=keys).unlearn(mlp, request, KEY)
    assert [bool(a == b) for a, b in zip(seen, jax.random.split(KEY), strict=True)] == [True] * 2


def test_the_diagnostics_of_steps_are_those_of_the_chain(mlp):
    _, info = run(mlp, MADE, steps.weigh(), steps.threshold(1.0), steps.judge())
    assert info.prototypes.inputs.shape == (4, 6, 6)
    assert 0 < float(info.coverage) < 1
    assert info.held_out.shape == (4,)
    assert {"prototype_loss", "coverage", "held_out_recognised"} <= set(info.summary())
    with pytest.raises(AttributeError, match="no step of the chain reports 'calibration'"):
        info.calibration  # noqa: B018
    assert jax.tree.leaves(info)


def test_nothing_selected_is_a_failure(mlp):
    with pytest.raises(UnlearningError, match="no parameter was selected"):
        run(mlp, MADE, steps.weigh(), steps.threshold(1e30), steps.edit(steps.Zero()))


@pytest.mark.parametrize(
    ("chained", "said"),
    [
        ((), "name at least one step"),
        ((3,), "must be a step"),
        ((steps.judge(), MADE), "put those that prepare first"),
    ],
)
def test_what_is_no_chain(chained, said):
    with pytest.raises(InvalidArgumentError, match=said):
        steps.chain(*chained)


@pytest.mark.parametrize(
    ("chained", "said"),
    [
        ((steps.weigh(),), "no examples.*steps.synthesise"),
        ((MADE, steps.threshold(1.0)), "no importance.*steps.weigh"),
        ((MADE, steps.edit(steps.Zero())), "no selected.*steps.calibrate"),
        ((MADE, steps.weigh(targets=("conv9",))), "targets='conv9'"),
        (
            (
                MADE,
                steps.weigh(),
                steps.select(functools.partial(selection.outweighed, alpha=1.0)),
                steps.edit(steps.Dampen()),
            ),
            "scales by a threshold",
        ),
    ],
)
def test_a_step_that_lacks_what_it_needs(mlp, chained, said):
    with pytest.raises(InvalidArgumentError, match=said):
        run(mlp, *chained)


def test_an_edit_is_judged_by_examples_that_were_held_out(mlp):
    made = steps.synthesise([synthesis.cross_entropy()], samples=2, steps=2)
    dampen = steps.Dampen(10.0)
    for judging in (steps.judge(), steps.calibrate(trial=dampen)):
        with pytest.raises(InvalidArgumentError, match="held_out=0"):
            run(mlp, made, steps.weigh(), judging)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: steps.calibrate("all"), "coverage="),
        (lambda: steps.calibrate(), "trial=None"),
        (lambda: steps.calibrate(within="top", trial=steps.Zero()), "within="),
        (lambda: steps.threshold(0.0), "alpha=0.0"),
        (lambda: steps.Dampen(0.0), "strength=0.0"),
        (lambda: steps.CappedDampen(-1.0), "strength=-1.0"),
        (lambda: steps.edit("zero"), "by='zero'"),
        (lambda: steps.select(0.5), "by=0.5"),
        (lambda: steps.weigh(microbatch=0), "microbatch=0"),
        (lambda: steps.weigh(targets="out"), "targets='out'"),
        (lambda: steps.synthesise([], samples=0), "samples=0"),
        (lambda: steps.synthesise([], held_out=-1), "held_out=-1"),
        (lambda: steps.synthesise([], precision="float16"), "precision='float16'"),
    ],
)
def test_bad_settings(build, said):
    with pytest.raises(InvalidArgumentError, match=said):
        build()


def test_the_flagship_is_a_chain_of_five(mlp):
    """Composed by hand it gives the same bits."""
    dampen = steps.Dampen(10.0)
    terms = [
        synthesis.cross_entropy(),
        synthesis.diversity(1.0),
        synthesis.total_variation(1.0),
        synthesis.batch_statistics(1.0),
    ]
    edited, _ = run(
        mlp,
        steps.synthesise(terms, samples=4, held_out=2, steps=20),
        steps.weigh(),
        steps.calibrate(COVERAGE, trial=dampen),
        steps.edit(dampen),
    )
    settings = {"samples": 4, "held_out": 2, "steps": 20, "coverage": COVERAGE}
    expected, _ = ignpx.unlearn(ignp(**settings), mlp, Request.classes([2], 4), KEY)
    for a, e in zip(leaves(edited), leaves(expected), strict=True):
        np.testing.assert_array_equal(a, e)
