"""What IGNP edits, by its variants; the contract and the real data have their own files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ignpx
from ignpx import (
    Classifier,
    InvalidArgumentError,
    Request,
    UnlearningError,
    importance,
    losses,
    selection,
    steps,
    synthesis,
    targets,
)
from ignpx.data import Normalise
from ignpx.methods import METHODS, ignp
from ignpx.steps.calibrating import LEAST, LOSS, MOST, Calibrated, Estimate, auto_coverage

pytestmark = pytest.mark.filterwarnings("ignore::ignpx.UnlearningWarning")
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


def weighing(seen, samples, **settings):
    """The first steps of IGNP, and one that notes the importance."""

    def look(state):
        seen.append(state.importance)
        return state

    terms = [synthesis.cross_entropy()]
    synthesised = steps.synthesise(terms, samples=samples, held_out=2, steps=2)
    return steps.chain(synthesised, steps.weigh(**settings), look)


@pytest.mark.parametrize("forgotten", [[], [1]])
@pytest.mark.parametrize("forget", [[2], [0, 3]])
def test_sensitivities_are_means_over_what_is_forgotten_and_what_is_retained(
    mlp, forget, forgotten
):
    """Against a pass over the retained prototypes themselves, which are never visited alone."""
    seen = []
    unlearner = weighing(seen, samples=4, supporting=False)
    request = Request.classes(forget, 4, forgotten=forgotten)
    _, info = unlearner.unlearn(mlp, request, jax.random.key(0))
    retained = np.flatnonzero(request.retain)
    sides = (
        (forget, jnp.tile(request.forget, (4 * len(forget), 1))),
        (
            retained,
            jnp.repeat(retained, 4),
        ),
    )
    for (classes, right), actual in zip(sides, seen[0], strict=True):
        expected = importance.sensitivity(
            mlp,
            info.prototypes.inputs[jnp.asarray(classes), :4].reshape(-1, 6),
            right,
            loss=losses.negative_log_odds,
        )
        for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-6 * float(e.max()))


@pytest.mark.parametrize("prepare", [False, True])
def test_a_parameter_counts_as_in_the_draw_that_depends_on_it_least(mlp, prepare):
    seen, key = [], jax.random.key(0)
    unlearner = weighing(seen, samples=21, draws=3)
    prepared = [unlearner.prepare(mlp, key)] if prepare else []
    _, info = unlearner.unlearn(mlp, Request.classes([2], 4), key, *prepared)
    inputs, right = info.prototypes.inputs[:, :21], jnp.full(21, 2)
    loss, sides = losses.negative_log_odds, []
    # Not in three, of seven each.
    for part in (slice(0, 11), slice(11, 21)):
        share = jnp.full(len(right[part]), 1 / len(right[part]))
        gradient = importance.mean_gradient(mlp, inputs[2, part], right[part], share, loss=loss)
        square = importance.sensitivity(mlp, inputs[2, part], right[part], loss=loss)
        sides.append(selection.supporting(square, gradient, mlp.params))
    expected = jax.tree.map(jnp.minimum, *sides)
    for a, e in zip(*map(jax.tree.leaves, (seen[0][0], expected)), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-6 * float(e.max()))
    retained = importance.sensitivity(
        mlp, inputs[jnp.array([0, 1, 3])].reshape(63, 6), jnp.repeat(jnp.array([0, 1, 3]), 21),
        loss=loss,
    )  # fmt: skip
    for a, e in zip(*map(jax.tree.leaves, (seen[0][1], retained)), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-5 * float(e.max()))


def test_prepared_once_forgets_any_class(mlp):
    """As without: retained is what is left of a total, rather than what was weighed."""
    unlearner, key = ignp(**QUICK), jax.random.key(0)
    prepared = unlearner.prepare(mlp, key)
    for forget in ([0], [3], [1, 2]):
        request = Request.classes(forget, 4)
        expected, _ = ignpx.unlearn(unlearner, mlp, request, key)
        actual, _ = ignpx.unlearn(unlearner, mlp, request, key, prepared)
        leaves = (jax.tree.leaves(c.params) for c in (actual, expected, mlp))
        for a, e, before in zip(*leaves, strict=True):
            # What is left of a total has the rounding of the total. A factor, alpha * retained /
            # forgotten, changes by that times alpha / forgotten, however small the factor is.
            assert np.all(np.abs(a - e) <= 1e-5 * np.abs(before))


def test_what_was_prepared_of_something_else(mlp):
    unlearner, key, request = ignp(**QUICK), jax.random.key(0), Request.classes([0], 4)
    with pytest.raises(InvalidArgumentError, match=r"^key=0: "):
        unlearner.prepare(mlp, 0)
    with pytest.raises(InvalidArgumentError, match=r"^classifier='dict'"):
        unlearner.prepare(mlp.params, key)
    prepared = unlearner.prepare(mlp, key)
    weight = mlp.params["out"]["w"]
    for other in (weight.at[3, 1].add(1e-6), weight * 0, weight.astype(jnp.bfloat16)):
        params = {**mlp.params, "out": {**mlp.params["out"], "w": other}}
        with pytest.raises(InvalidArgumentError, match=r"^prepared=.*another classifier"):
            ignpx.unlearn(unlearner, mlp.replace(params=params), request, key, prepared)
    for settings, said in (
        ({"samples": 5}, r"\['samples'\]: .* other values"),
        ({"samples": 5, "held_out": 1}, r"\['samples', 'held_out'\]"),
        ({"steps": 21}, r"\['steps'\]"),
        ({"diversity": 2.0}, r"\['terms'\]"),
        ({"total_variation": 0.0}, r"\['terms'\]"),
        ({"optimizer": "sgd"}, r"\['optimizer'\]"),
        ({"learning_rate": 0.2}, r"\['optimizer'\]"),
        ({"pixel_range": False, "precision": "bfloat16"}, r"\['pixel_range', 'precision'\]"),
        ({"sensitivity_loss": "cross_entropy"}, r"\['loss'\]"),
        ({"targets": ("out",)}, ".*other targets"),
    ):
        others = ignp(**QUICK | settings)
        with pytest.raises(InvalidArgumentError, match="^prepared=" + said):
            ignpx.unlearn(others, mlp, request, key, prepared)
    for nothing in (3, "prepared", prepared.parts, prepared._replace(made_of=None), (1, 2)):
        with pytest.raises(InvalidArgumentError, match=r"^prepared=.*unlearner.prepare"):
            ignpx.unlearn(unlearner, mlp, request, key, nothing)


def test_settings_that_nothing_was_prepared_with_are_free(mlp):
    key, request = jax.random.key(0), Request.classes([0], 4)
    # As it is when it was read from a file.
    prepared = jax.device_put(ignp(**QUICK).prepare(mlp, key))
    free = {
        "coverage": (0.1, 0.2),
        "within": "middle",
        "strength": 3.0,
        "direction": "any",
        "microbatch": 2,
        "targets": mlp.targets,
    }
    for name, value in free.items():
        ignpx.unlearn(ignp(**QUICK | {name: value}), mlp, request, key, prepared)


def test_a_fingerprint_is_of_all_arrays_and_of_every_bit():
    rng = np.random.default_rng(0)
    params = {
        "float": jnp.float32(rng.normal(size=(3, 4))),
        "half": jnp.bfloat16(rng.normal(size=5)),
        "byte": jnp.uint8(rng.integers(0, 256, 7)),
        "truth": rng.normal(size=3) > 0,
        "scalar": jnp.float32(3),
        "none": jnp.zeros((0, 2)),
    }
    state = {"key": jax.random.key(3), "count": jnp.int32(4)}

    def of(params, state):
        fields = {"input_shape": (4,), "num_classes": 3}
        return Classifier(params, state, None, **fields).fingerprint()

    def mixed(word):
        """The finaliser of MurmurHash3, in whole numbers of Python."""
        word = (word ^ word >> 16) * 0x85EBCA6B % 2**32
        word = (word ^ word >> 13) * 0xC2B2AE35 % 2**32
        return word ^ word >> 16

    leaves = jax.tree.leaves((params, {**state, "key": jax.random.key_data(state["key"])}))
    expected = 0
    for place, leaf in enumerate(leaves):
        words = np.asarray(leaf).ravel().view(f"u{leaf.dtype.itemsize}").tolist()
        salt = mixed(place)
        expected += sum(mixed(word ^ mixed((at + salt) % 2**32)) for at, word in enumerate(words))
    assert int(of(params, state)) == int(jax.jit(of)(params, state)) == expected % 2**32


def test_a_fingerprint_sees_signs_orders_and_halves(mlp):
    """Which a sum of words does not: an even number of signs adds up to nothing."""
    changes = (lambda w: -w, lambda w: w[::-1], lambda w: w / 2)
    made = [mlp.replace(params=jax.tree.map(change, mlp.params)) for change in changes]
    assert len({int(one.fingerprint()) for one in (mlp, *made)}) == 4


def test_a_prepared_method_maps_over_requests(mlp):
    unlearner, key = ignp(**QUICK), jax.random.key(0)
    prepared = unlearner.prepare(mlp, key)

    @jax.jit
    @jax.vmap
    def forget(classes):
        return unlearner.unlearn(mlp, Request(classes, ~classes), key, prepared)[0].params

    every = forget(jnp.eye(4, dtype=bool))
    for c in range(4):
        alone, _ = ignpx.unlearn(unlearner, mlp, Request.classes([c], 4), key, prepared)
        for a, e in zip(jax.tree.leaves(every), jax.tree.leaves(alone.params), strict=True):
            # Where the retained classes add little to the sum, taking the rest from it again
            # multiplies what is rounded differently.
            np.testing.assert_allclose(a[c], e, rtol=1e-3, atol=1e-6)


def test_a_method_that_prepares_nothing_takes_nothing_prepared(mlp):
    with pytest.raises(InvalidArgumentError, match="prepares nothing"):
        ignpx.unlearn(METHODS["gkt"](), mlp, Request.classes([0], 4), jax.random.key(0), "prepared")


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
        {"within": "top"},
        {"draws": 0},
        {"held_out": 0},
    ],
)
def test_bad_settings(setting):
    with pytest.raises(InvalidArgumentError, match=next(iter(setting))):
        ignp(**setting)


def test_one_class_of_two_is_forgotten_by_default(two_classes):
    """By more parameters than the range holds, which the one retained class does without."""
    for forget in (0, 1):
        request = Request.classes([forget], 2)
        unlearner = ignp(samples=6, held_out=6, steps=40)
        _, info = ignpx.unlearn(unlearner, two_classes, request, jax.random.key(0))
        low, high = auto_coverage(2)
        assert float(info.calibration.coverage) > high
        tried = np.asarray(info.search.coverages)
        growth, within = (
            tried[1:] / tried[:-1],
            (tried[1:] > 1.01 * low) & (tried[1:] < 1.01 * high),
        )
        least = max(LEAST, 1 / targets.size(two_classes.params))  # one parameter
        assert (tried[0], tried[-1]) == pytest.approx((least, MOST))
        assert 1 < growth.min() <= growth.max() < 2.001
        assert growth[within].max() < 1.251
        assert float(info.held_out[forget]) == 0.0
        assert float(info.held_out[1 - forget]) == 1.0


def test_either_class_of_one_logit_is_forgotten():
    """The logits are (0, z), as `Classifier.from_function` asks for them."""
    keys = jax.random.split(jax.random.key(1), 3)
    params = {
        "hidden": jax.random.normal(keys[0], (6, 16)),
        "bias": jax.random.normal(keys[1], (16,)),
        "out": jax.random.normal(keys[2], (16, 1)),
    }
    single = Classifier.from_function(
        lambda p, x: jnp.pad(jax.nn.relu(x @ p["hidden"] + p["bias"]) @ p["out"], ((0, 0), (1, 0))),
        params,
        input_shape=(6,),
        num_classes=2,
    )
    unlearner = ignp(samples=6, held_out=6, steps=40)
    for forget in (0, 1):
        request = Request.classes([forget], 2)
        _, info = ignpx.unlearn(unlearner, single, request, jax.random.key(0))
        assert float(info.held_out[forget]) == 0.0
        assert float(info.held_out[1 - forget]) == 1.0


def test_a_coverage_that_no_alpha_reaches_says_why(two_classes):
    unlearner = ignp(samples=6, held_out=6, steps=40, coverage=(0.001, 0.002))
    request = Request.classes([1], 2)
    with pytest.raises(UnlearningError, match="no sensitivity to the retained classes") as caught:
        ignpx.unlearn(unlearner, two_classes, request, jax.random.key(0))
    message = str(caught.value)
    assert message.count("%") == 1
    assert "classes [1]" in message
    assert "[0]" in message
    assert "auto" in message


def calibrated(*, forget=(1, 0, 0), kept=(1, 1, 1), coverage=0.01, change=0.0):
    """What a search over three coverages tells of a model of three classes."""
    tried = np.array([0.003, 0.01, 0.5])
    search = selection.CoverageSearch(tried, np.array(forget), np.ones(3), np.float32(coverage))
    reached = selection.Calibration(0.0, np.float32(coverage), 1, True, tried[:2], tried[:2])
    estimate = Estimate(np.array([change - 0.01, change, change + 0.01]), np.zeros(3))
    return Calibrated(reached, search, {}, np.float32(0.025), np.array(kept), estimate)


def test_held_out_prototypes_that_disagree_are_an_error_with_the_figures():
    request = Request.classes([1], 3)
    calibrated(forget=(1, 0.5, 0.6)).check(request)
    with pytest.raises(UnlearningError, match=r"up to 50% none forgets more than 40% .* \[1\]"):
        calibrated(forget=(1, 0.6, 0.6)).check(request)


def test_a_loss_of_more_than_a_point_to_expect_is_a_doubt():
    request = Request.classes([1], 3)
    assert calibrated(kept=(0.98, 0.1, 0.5), change=-0.009).doubts(request) == []
    (doubt,) = calibrated(kept=(0.97, 0.1, 0.91), change=-0.023).doubts(request)
    assert "by -2.3 points of accuracy (-3.3 to -1.3 by draws" in doubt
    assert "class 2 keeps the least of its confidence, 91.0%." in doubt
    (doubt,) = calibrated(coverage=0.1).doubts(request)
    assert "10.00%" in doubt
    assert "2.50%" in doubt
    # What is confused where a single class is retained, is not retained.
    single = Request.classes([1], 3, forgotten=[0])
    assert calibrated(coverage=0.1, change=-0.5).doubts(single) == []


def test_failures_and_doubts_are_found_without_a_compilation(compilations):
    request = Request.classes([1], 3)
    failed, doubted = jax.tree.map(
        jnp.asarray, (calibrated(forget=(1, 0.6, 0.6)), calibrated(coverage=0.1, change=-0.5))
    )
    jax.clear_caches()
    compilations.clear()
    with pytest.raises(UnlearningError, match="none forgets more than 40%"):
        failed.check(request)
    assert len(doubted.doubts(request)) == 2
    assert compilations == []


def test_an_estimate_is_of_each_draw_of_held_out_prototypes(two_classes):
    request, classifier = Request.classes([0], 2), two_classes
    unlearner = ignp(samples=6, held_out=6, steps=40)
    edited, info = ignpx.unlearn(unlearner, classifier, request, jax.random.key(0))
    unseen = info.prototypes.inputs[:, 6:]
    logits = (np.asarray(c.logits(unseen[1]), np.float64) for c in (classifier, edited))
    before, after = (one[:, 1] - one[:, 0] for one in logits)  # the log-odds of two classes
    change = LOSS * (after - before) / before.mean()
    expected = [change.min(), change.mean(), change.max()]
    # Of logits with a relative error of a few 2**-24.
    np.testing.assert_allclose(info.estimate.retain_change, expected, rtol=0, atol=2e-6)
    np.testing.assert_array_equal(info.estimate.forget_accuracy, 0)
    assert info.summary()["estimated_forget_accuracy"] == [0, 0, 0]


def test_prototypes_that_are_not_finite_say_what_and_when():
    def norm_at_zero(params, x):
        clipped = jnp.maximum(x - 3.5, 0.0)  # zero everywhere, to begin with
        return x @ params["w"] + jnp.linalg.norm(clipped, axis=-1, keepdims=True) * params["v"]

    params = {"w": jnp.eye(4, 3), "v": jnp.ones(3)}
    classifier = Classifier.from_function(norm_at_zero, params, input_shape=(4,), num_classes=3)
    request = Request.classes([0], 3)
    with pytest.raises(UnlearningError, match="gradient in their inputs") as caught:
        ignpx.unlearn(ignp(steps=5, samples=3, held_out=2), classifier, request, jax.random.key(0))
    assert "from step 1 of 5" in str(caught.value)
    assert "[0, 1, 2]" in str(caught.value)


def test_sensitivities_that_are_not_finite_name_the_parameter():
    def root_at_zero(params, x):
        return x @ params["w"] + jnp.sqrt(params["root"])

    params = {"w": jnp.eye(4, 3), "root": jnp.zeros(3)}
    classifier = Classifier.from_function(root_at_zero, params, input_shape=(4,), num_classes=3)
    with pytest.raises(UnlearningError, match="sensitivities of root are not finite"):
        ignpx.unlearn(ignp(**QUICK), classifier, Request.classes([0], 3), jax.random.key(0))


@pytest.fixture(scope="module")
def two_classes():
    """Each class has hidden units of its own, which the other hardly uses, and a bias."""
    own = np.kron(np.eye(2), np.ones((3, 8)))
    params = {
        "first": own * np.abs(np.random.default_rng(0).normal(size=own.shape)),
        "second": np.kron(np.eye(2), np.ones((8, 1))),
        "bias": np.ones(2),
    }
    return Classifier.from_function(
        lambda p, x: jax.nn.relu(x @ p["first"]) @ p["second"] + p["bias"],
        jax.tree.map(jnp.float32, params),
        input_shape=(6,),
        num_classes=2,
    )


def test_targets_are_patterns_and_not_letters():
    with pytest.raises(InvalidArgumentError, match="targets='out': must be a tuple of patterns"):
        ignp(targets="out")


@pytest.mark.parametrize("limited", [True, False])
def test_prototypes_stay_within_the_range_of_pixels(limited):
    """Images of 0 to 255 are 0 to 1 before they are normalised."""
    weights = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
    classifier = Classifier.from_function(
        lambda w, x: x.reshape(len(x), -1) @ w,
        weights,
        input_shape=(2, 2, 1),
        num_classes=3,
        preprocess=Normalise((0.4,), (0.2,)),
    )
    unlearner = ignp(**QUICK, total_variation=0.0, pixel_range=limited)
    inputs = np.asarray(unlearner.prepare(classifier, jax.random.key(0)).parts[0].inputs)
    lowest, highest = -0.4 / 0.2, 0.6 / 0.2
    assert (inputs.min() >= lowest - 1e-6 and inputs.max() <= highest + 1e-6) == limited
