import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

from ignpx import Classifier, InvalidArgumentError, models, synthesis
from ignpx.losses import cross_entropy as sample_cross_entropy


def view(classifier, inputs, labels=None):
    labels = jnp.arange(inputs.shape[0]) if labels is None else labels
    return synthesis.View.of(classifier, inputs, labels)


def test_diversity_is_equations_1_and_2(mlp):
    inputs = jax.random.normal(jax.random.key(0), (4, 5, 6))
    x = np.asarray(inputs, np.float64)
    expected = 0.0
    for c in range(4):
        pairs = [np.linalg.norm(x[c, i] - x[c, j]) for i in range(5) for j in range(i + 1, 5)]
        expected += 7.0 / np.mean(pairs) / 4
    actual = synthesis.diversity(7.0)(view(mlp, inputs))
    assert float(actual) == pytest.approx(expected, rel=1e-5)


def test_the_gradient_of_diversity_is_that_of_the_pairs(mlp):
    inputs = jax.random.normal(jax.random.key(3), (3, 5, 6))

    def by_index(x):
        first, second = jnp.triu_indices(5, k=1)
        distances = jnp.linalg.norm(x[:, first] - x[:, second], axis=-1)
        return jnp.mean(7.0 / jnp.mean(distances, axis=1))

    found = jax.grad(lambda x: synthesis.diversity(7.0)(view(mlp, x)))(inputs)
    np.testing.assert_allclose(found, jax.grad(by_index)(inputs), rtol=1e-5, atol=1e-7)


def test_terms_have_finite_gradients_where_prototypes_coincide(mlp):
    same = jnp.ones((4, 3, 6))
    for term in (synthesis.cross_entropy(), synthesis.total_variation()):
        gradient = jax.grad(lambda x, term=term: term(view(mlp, x)))(same)
        assert np.all(np.isfinite(gradient))
    one = jax.grad(lambda x: synthesis.diversity()(view(mlp, x)))(jnp.ones((4, 1, 6)))
    assert np.all(np.asarray(one) == 0)


def test_total_variation_of_a_step_edge():
    classifier = models.create("lenet", input_shape=(16, 16, 1), num_classes=2, width=0.2)
    inputs = jnp.zeros((2, 1, 16, 16, 1)).at[0, :, :, 8:].set(3.0)
    # One of 15 differences across is 3 in the first class, none in the second.
    actual = synthesis.total_variation(spread=1.0)(view(classifier, inputs))
    assert float(actual) == pytest.approx(3.0 / 15 / 2)
    # Twenty equal inputs: the mean of the weights, 0.1 to 10 on a log scale.
    many = jnp.repeat(inputs, 20, axis=1)
    actual = synthesis.total_variation(spread=100.0)(view(classifier, many))
    places = np.arange(20) * 0.6180339887 % 1
    assert float(actual) == pytest.approx(3.0 / 15 / 2 * np.mean(100 ** (places - 0.5)), rel=1e-4)


def test_images_of_one_column_have_neighbours_down_alone():
    classifier = Classifier.from_function(
        lambda params, x: x[:, :2, 0, 0] * params["w"],
        {"w": jnp.ones(2)},
        input_shape=(8, 1, 1),
        num_classes=2,
    )
    inputs = jnp.zeros((2, 1, 8, 1, 1)).at[:, :, 4:].set(3.0)
    found = synthesis.total_variation(spread=1.0)(view(classifier, inputs))
    assert float(found) == pytest.approx(3.0 / 7)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"labels": [0, 9]}, "labels=9"),
        ({"labels": jnp.asarray([-1])}, "labels=-1"),
        ({"steps": 0}, "steps=0"),
        ({"samples": 0}, "samples=0"),
    ],
)
def test_bad_arguments(mlp, changes, said):
    given = {"terms": [synthesis.cross_entropy()], "samples": 2, "steps": 2, **changes}
    with pytest.raises(InvalidArgumentError, match=said):
        synthesis.synthesise(mlp, jax.random.key(0), **given)


def test_a_list_of_labels_is_taken(mlp):
    made = synthesis.synthesise(
        mlp,
        jax.random.key(0),
        terms=[synthesis.cross_entropy()],
        samples=2,
        steps=2,
        labels=[2, 0],
    )
    np.testing.assert_array_equal(made.labels, [2, 0])


def test_inputs_stay_within_bounds(mlp):
    bounds = (jnp.asarray([-0.5, -1, -1, -1, -1, -1.0]), jnp.float32(0.7))
    made = synthesis.synthesise(
        mlp,
        jax.random.key(0),
        terms=(synthesis.cross_entropy(),),
        samples=3,
        steps=20,
        optimizer=optax.sgd(5.0),
        bounds=bounds,
    )
    assert float(made.inputs[..., 0].min()) == -0.5
    assert float(made.inputs[..., 1:].min()) == -1.0
    assert float(made.inputs.max()) == pytest.approx(0.7)


class LinenNet(linen.Module):
    @linen.compact
    def __call__(self, x, train: bool):
        x = linen.Conv(4, (3, 3))(x)
        x = linen.BatchNorm(use_running_average=not train, momentum=0.7)(x)
        x = linen.Dense(3)(linen.relu(x).mean(axis=(1, 2)))
        return x


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(2, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, momentum=0.9, rngs=rngs)
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.norm(self.conv(x))).mean(axis=(1, 2)))


@pytest.mark.parametrize("kind", ["linen", "nnx"])
def test_batch_statistics_of_any_model_equal_the_formula(kind):
    fields = {"input_shape": (8, 8, 2), "num_classes": 3}
    if kind == "linen":
        module = LinenNet()
        variables = module.init(jax.random.key(0), jnp.zeros((1, 8, 8, 2)), train=False)
        classifier = Classifier.from_linen(module, variables, **fields)
        conv = variables["params"]["Conv_0"]
    else:
        net = NnxNet(nnx.Rngs(0))
        classifier = Classifier.from_nnx(net, **fields)
        conv = classifier.params["conv"]
    inputs = jax.random.normal(jax.random.key(1), (3, 5, 8, 8, 2))
    into_norm = (
        jax.lax.conv_general_dilated(
            inputs.reshape(-1, 8, 8, 2),
            conv["kernel"],
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        + conv["bias"]
    )
    into_norm = np.asarray(into_norm, np.float64)
    mean, variance = into_norm.mean(axis=(0, 1, 2)), into_norm.var(axis=(0, 1, 2))
    # The running statistics of a new model: mean 0, variance 1.
    expected = 0.5 * (np.linalg.norm(mean) + np.linalg.norm(variance - 1))
    term = synthesis.batch_statistics(0.5)
    assert float(term(view(classifier, inputs))) == pytest.approx(expected, rel=1e-4)
    gradient = jax.grad(lambda x: term(view(classifier, x)))(inputs)
    assert np.all(np.isfinite(gradient))
    assert np.any(np.asarray(gradient) != 0)


def test_logits_and_statistics_are_of_one_pass():
    classifier = Classifier.from_nnx(NnxNet(nnx.Rngs(0)), input_shape=(8, 8, 2), num_classes=3)
    terms = (synthesis.cross_entropy(), synthesis.batch_statistics())

    def objective(inputs):
        seen = view(classifier, inputs)
        return sum(term(seen) for term in terms)

    jaxpr = str(jax.make_jaxpr(jax.grad(objective))(jnp.ones((3, 5, 8, 8, 2))))
    # One forward and one in the inputs.
    assert jaxpr.count("conv_general_dilated[") == 2


def test_batch_statistics_are_absent_from_a_model_without_them(mlp):
    inputs = jax.random.normal(jax.random.key(0), (4, 3, 6))
    assert float(synthesis.batch_statistics()(view(mlp, inputs))) == 0.0


def test_descends_as_a_plain_loop_does(mlp):
    terms = (synthesis.cross_entropy(), synthesis.diversity(2.0))
    actual = synthesis.synthesise(
        mlp, jax.random.key(3), terms=terms, samples=4, steps=6, optimizer=optax.sgd(0.5)
    )
    inputs = jax.random.normal(jax.random.key(3), (4, 4, 6))
    for _ in range(6):
        gradient = jax.grad(lambda x: sum(term(view(mlp, x)) for term in terms))(inputs)
        inputs = inputs - 0.5 * gradient
    np.testing.assert_allclose(actual.inputs, inputs, rtol=1e-4, atol=1e-5)
    losses = sample_cross_entropy(view(mlp, inputs).logits, jnp.arange(4)[:, None])
    np.testing.assert_allclose(actual.loss, losses.mean(axis=1), rtol=1e-4)
    assert actual.trace.shape == (6, 4)


def test_classes_do_not_influence_each_other(mlp):
    terms = (synthesis.cross_entropy(), synthesis.diversity(20.0))
    optimizer = optax.adam(0.1)
    every = synthesis.synthesise(
        mlp, jax.random.key(0), terms=terms, samples=3, steps=5, optimizer=optimizer
    )
    other = mlp.replace(params={**mlp.params})
    swapped = synthesis.synthesise(
        other,
        jax.random.key(0),
        terms=terms,
        samples=3,
        steps=5,
        optimizer=optimizer,
        labels=jnp.asarray([0, 3, 2, 1]),
    )
    np.testing.assert_allclose(every.inputs[0], swapped.inputs[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(every.inputs[2], swapped.inputs[2], rtol=1e-4, atol=1e-5)
    assert np.max(np.abs(every.inputs[1] - swapped.inputs[1])) > 1e-2


def test_the_default_terms_leave_no_class_saturated_and_no_prototype_rough(trained):
    """The two failures of the plain objective, and their cure."""
    plain = (synthesis.cross_entropy(), synthesis.diversity())
    cured = (*plain, synthesis.total_variation())
    rough, smooth = (
        synthesis.synthesise(trained, jax.random.key(0), terms=terms, samples=5)
        for terms in (plain, cured)
    )
    assert np.all(np.asarray(rough.recognised) == 1)
    assert np.all(np.asarray(smooth.recognised) == 1)
    assert np.min(rough.roughness) > 0.75
    assert np.max(smooth.roughness) < 0.4
    assert np.min(rough.loss) < 1e-4
    assert np.min(smooth.loss) > 1e-3
    assert np.max(smooth.loss) / np.min(smooth.loss) < 10


def test_entropy_is_raised_for_the_first_share_of_each_class(mlp):
    inputs = jax.random.normal(jax.random.key(0), (3, 6, 6))
    seen = view(mlp, inputs)
    logits = np.asarray(seen.logits, np.float64)[:, :2]
    p = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    expected = -0.3 * np.mean(-np.sum(p * np.log(p), axis=-1))
    term = synthesis.entropy(0.3, share=1 / 3)
    assert float(term(seen)) == pytest.approx(expected, rel=1e-5)

    gradient = jax.grad(lambda x: term(view(mlp, x)))(inputs)
    assert np.all(np.asarray(gradient[:, 2:]) == 0)
    # By finite differences, and downhill the entropy rises.
    step = 1e-2 * jnp.sign(gradient)
    up, down = (float(term(view(mlp, inputs + s))) for s in (step, -step))
    assert up - down == pytest.approx(2e-2 * float(jnp.abs(gradient).sum()), rel=1e-2)
    assert float(synthesis.entropy()(view(mlp, inputs - step))) < float(
        synthesis.entropy()(view(mlp, inputs + step))
    )


def test_figures_of_a_half_precision_model_are_float32(mlp):
    half = mlp.replace(params=jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), mlp.params))
    half = half.replace(apply=lambda *args, **kw: _half(mlp.apply(*args, **kw)))
    made = synthesis.synthesise(
        half, jax.random.key(0), terms=[synthesis.cross_entropy()], samples=2, steps=3
    )
    assert half.logits(made.inputs[0]).dtype == jnp.bfloat16
    for figure in (made.loss, made.confidence, made.noise_confidence, made.trace):
        assert figure.dtype == jnp.float32
        # More digits than bfloat16 has.
        assert np.any(figure != figure.astype(jnp.bfloat16))


def _half(output):
    logits, state = output
    return logits.astype(jnp.bfloat16), state
