"""Models as users have them: modes as arguments, lifted transformations, outputs of many kinds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from closeness import assert_sums_close
from ignpx import Classifier, InvalidArgumentError, Request, Samples, training
from ignpx.methods import ignp
from ignpx.training import Recipe

FIELDS = {"input_shape": (4,), "num_classes": 3}
X = jax.random.normal(jax.random.key(0), (6, 4)) * 3 + 1


class Base(nnx.Module):
    def __init__(self, rngs):
        self.norm, self.head = nnx.BatchNorm(4, rngs=rngs), nnx.Linear(4, 3, rngs=rngs)
        self.drop = nnx.Dropout(0.5)
        self.norm.mean[...] = jnp.linspace(-1, 2, 4)


def with_call(parameters, body):
    """An instance of `Base` whose call has these parameters after the inputs."""
    scope = {"nnx": nnx}
    exec(f"def call(self, x, {parameters}):\n    return {body}", scope)
    return type("Net", (Base,), {"__call__": scope["call"]})(nnx.Rngs(0))


MODES = [
    ("train: bool = True", {"train": False}),
    ("train: bool = False", {"train": False}),
    ("*, training", {"training": False}),
    ("is_training=None", {"is_training": False}),
    ("deterministic: bool", {"deterministic": True}),
    ("other=1, use_running_average=False", {"use_running_average": True}),
]


class TestModes:
    @pytest.mark.parametrize(("parameters", "evaluation"), MODES, ids=[mode for mode, _ in MODES])
    def test_are_arguments_of_the_call(self, parameters, evaluation):
        (name, value), *_ = evaluation.items()
        average = name if value else f"not {name}"
        body = f"self.head(self.norm(x, use_running_average={average}))"
        model = with_call(parameters, body)
        classifier = Classifier.from_nnx(model, **FIELDS)
        expected = model(X, **evaluation)
        np.testing.assert_allclose(classifier.logits(X), expected, rtol=1e-5, atol=1e-6)
        one_by_one = jnp.concatenate([classifier.logits(x[None]) for x in X])
        np.testing.assert_allclose(classifier.logits(X), one_by_one, rtol=1e-5, atol=1e-6)
        _, state = classifier.apply(classifier.params, classifier.state, X, train=True)
        mean = 0.99 * np.linspace(-1, 2, 4) + 0.01 * np.mean(X, 0)
        assert_sums_close(state["norm"]["mean"], mean, 1e-5)
        held = classifier.apply.holding(frozenset({"norm/mean", "norm/var"}))  # type: ignore[attr-defined]
        logits, state = held(classifier.params, classifier.state, X, train=True)
        np.testing.assert_array_equal(state["norm"]["mean"], classifier.state["norm"]["mean"])
        np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("parameters", ["rngs", "train=True, *, rngs=None"])
    def test_random_streams_are_given_where_the_call_asks_for_them(self, parameters):
        body = "self.head(self.norm(self.drop(x, rngs=rngs)))"
        model = with_call(parameters, body)

        def initialise(key):
            return classifier_of(nnx.Rngs(key))

        def classifier_of(rngs):
            made = type(model)(rngs)
            _, params, state = nnx.split(made, nnx.Param, ...)
            return nnx.to_pure_dict(params), nnx.to_pure_dict(state)

        classifier = Classifier.from_nnx(model, initialise=initialise, **FIELDS)
        model.eval()
        rngs = nnx.Rngs(1)
        np.testing.assert_allclose(classifier.logits(X), model(X, rngs=rngs), rtol=1e-5, atol=1e-6)

        def step(state):
            return classifier.apply(classifier.params, state, X, train=True)

        (first, after), (same, _) = step(classifier.state), step(classifier.state)
        np.testing.assert_array_equal(first, same)
        assert np.any(first != step(after)[0])
        made = classifier.fresh(jax.random.key(3))
        assert jax.tree.structure(made) == jax.tree.structure(classifier)
        nnx.update(model, classifier.replace(state=after).variables())
        np.testing.assert_array_equal(model.norm.mean[...], after["norm"]["mean"])

    def test_of_a_parameter_that_nobody_knows(self):
        model = with_call("mask", "self.head(x) * mask")
        with pytest.raises(InvalidArgumentError, match=r"^model=.*requires the argument `mask`"):
            Classifier.from_nnx(model, **FIELDS)

    def test_a_state_of_strictly_equal_dtypes(self):
        with jax.numpy_dtype_promotion("strict"):
            model = with_call(
                "train=True", "self.head(self.norm(x, use_running_average=not train))"
            )
            classifier = Classifier.from_nnx(model, **FIELDS)
            for one in (classifier, classifier.computing_in("bfloat16")):
                one.with_statistics(X)
                for train in (False, True):
                    logits, _, _ = one.observed(X, train=train)
                    assert logits.dtype == jnp.float32


class LinenNet(linen.Module):
    """Two blocks of a convolution and batch norm, which `lift` may transform, and dropout."""

    lift: str = "none"

    @linen.compact
    def __call__(self, x, train: bool = False):
        block = BLOCKS[self.lift]
        for index in range(2):
            x = block(name=f"block{index}")(x, train)
        return linen.Dense(3, name="head")(x)


class LinenBlock(linen.Module):
    @linen.compact
    def __call__(self, x, train):
        x = linen.Conv(4, (3,), name="conv")(x[..., None]).mean(-1) + x
        return linen.BatchNorm(use_running_average=not train, name="norm")(x)


BLOCKS = {
    "none": LinenBlock,
    "remat": linen.remat(LinenBlock, static_argnums=(2,)),
    "jit": linen.jit(LinenBlock, static_argnums=(2,)),
}


class NnxBlock(nnx.Module):
    def __init__(self, rngs):
        self.conv, self.norm = nnx.Conv(1, 4, (3,), rngs=rngs), nnx.BatchNorm(4, rngs=rngs)

    def __call__(self, x):
        return self.norm(self.conv(x[..., None]).mean(-1) + x)


class NnxNet(nnx.Module):
    def __init__(self, lift, rngs):
        self.blocks = nnx.List([NnxBlock(rngs) for _ in range(2)])
        self.head = nnx.Linear(4, 3, rngs=rngs)
        self.lift = lift

    def __call__(self, x):
        run = {"none": lambda f: f, "remat": nnx.remat, "jit": nnx.jit}[self.lift]
        for block in self.blocks:
            x = run(call_block)(block, x)
        return self.head(x)


def call_block(block, x):
    return block(x)


class WholeNnx(nnx.Module):
    def __init__(self, rngs):
        self.norm, self.head = nnx.BatchNorm(4, rngs=rngs), nnx.Linear(4, 3, rngs=rngs)

    @nnx.remat(static_argnums=(2,))
    def __call__(self, x, train):
        return self.head(self.norm(x, use_running_average=not train))


def lifted(kind, lift):
    if kind == "nnx":
        classifier = Classifier.from_nnx(NnxNet(lift, nnx.Rngs(0)), **FIELDS)
    else:
        variables = LinenNet().init(jax.random.key(0), X)
        classifier = Classifier.from_linen(LinenNet(lift), variables, **FIELDS)
    # Running statistics other than the initial ones.
    state = jax.tree.map(lambda leaf: leaf + jnp.linspace(0.1, 0.5, leaf.size), classifier.state)
    return classifier.replace(state=state)


def assert_close(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("lift", ["remat", "jit"])
@pytest.mark.parametrize("kind", ["nnx", "linen"])
class TestLifted:
    def test_layers_are_observed(self, kind, lift):
        plain, other = lifted(kind, "none"), lifted(kind, lift)
        # Traced before without tags, and not to be taken for what has them.
        assert_close(other.logits(X), plain.logits(X))
        statistics = plain.with_statistics(X)
        assert len(statistics[1]) == 2
        assert_close(other.with_statistics(X), statistics)
        for train in (False, True):
            outputs = plain.observed(X, train=train)
            assert len(outputs[2]) == 2
            assert_close(other.observed(X, train=train), outputs)
        lower = [one.computing_in("bfloat16").observed(X, train=True)[1] for one in (other, plain)]
        for a, e in zip(*map(jax.tree.leaves, lower), strict=True):
            np.testing.assert_allclose(a, e, rtol=2**-6, atol=2**-6)

    def test_some_are_held(self, kind, lift):
        plain, other = lifted(kind, "none"), lifted(kind, lift)
        path = "blocks/0/norm/mean" if kind == "nnx" else "batch_stats/block0/norm/mean"
        results = []
        for one in (plain, other):
            one.apply(one.params, one.state, X, train=True)
            held = one.apply.holding(frozenset({path}))
            results.append(held(one.params, one.state, X, train=True))
        assert_close(results[1], results[0])
        moved = [np.any(a != b) for a, b in zip(*norms(results[1][1], other.state), strict=True)]
        assert moved == [False, True]

    def test_gradients_of_what_is_observed(self, kind, lift):
        def gradient(one):
            def loss(x):
                logits, seen = one.with_statistics(x)
                return jnp.sum(logits**2) + sum(jnp.sum(each.mean**2) for each in seen)

            return jax.jit(jax.grad(loss))(X)

        assert_close(gradient(lifted(kind, lift)), gradient(lifted(kind, "none")))

    def test_ignp_forgets_the_same(self, kind, lift):
        method = ignp(samples=2, held_out=2, steps=2, coverage=(0.05, 0.5))
        request = Request.classes([1], 3)
        edited = [
            method.unlearn(lifted(kind, how), request, jax.random.key(0))[0].params
            for how in ("none", lift)
        ]
        assert_close(edited[1], edited[0])


def norms(*states):
    """The running means of the two blocks, for each state."""
    for state in states:
        blocks = state.get("batch_stats", state)
        blocks = blocks["blocks"].values() if "blocks" in blocks else blocks.values()
        yield [block["norm"]["mean"] for block in blocks]


def test_whole_models_that_are_lifted():
    model = WholeNnx(nnx.Rngs(0))
    classifier = Classifier.from_nnx(model, **FIELDS)
    np.testing.assert_allclose(classifier.logits(X), model(X, False), rtol=1e-5, atol=1e-6)
    variables = LinenNet().init(jax.random.key(0), X)
    expected = LinenNet().apply(variables, X)
    for lift, how in [(linen.remat, "static_argnums"), (linen.jit, "static_argnames")]:
        static = {how: (2,) if how == "static_argnums" else ("train",)}
        module = lift(LinenNet, **static)()
        classifier = Classifier.from_linen(module, variables, **FIELDS)
        np.testing.assert_allclose(classifier.logits(X), expected, rtol=1e-5, atol=1e-6)
        made = classifier.fresh(jax.random.key(1))
        assert jax.tree.structure(made) == jax.tree.structure(classifier)


def test_layers_of_a_scan_are_observed_in_every_step():
    class Scanned(linen.Module):
        @linen.compact
        def __call__(self, x, train: bool = False):
            axes = {"params": 0, "batch_stats": 0}
            scan = linen.scan(
                lambda block, x, _: (block(x, train), None),
                variable_axes=axes,
                split_rngs={"params": True},
                length=2,
            )
            return linen.Dense(3)(scan(LinenBlock(name="blocks"), x, None)[0])

    variables = Scanned().init(jax.random.key(0), X)
    classifier = Classifier.from_linen(Scanned(), variables, **FIELDS)
    _, _, outputs = classifier.observed(X, train=False)
    block = jax.tree.map(
        lambda leaf: leaf[0], {k: v["blocks"] for k, v in variables.items() if "blocks" in v}
    )
    expected = LinenBlock().apply(block, X, False)
    assert len(outputs) == len(classifier.with_statistics(X)[1]) == 2
    np.testing.assert_allclose(outputs[0], expected, rtol=1e-5, atol=1e-6)


class NnxTwo(nnx.Module):
    def __init__(self, form, rngs):
        self.head, self.form = nnx.Linear(4, 3, rngs=rngs), form

    def __call__(self, x):
        return OUTPUTS[self.form](self.head(x))


class LinenTwo(linen.Module):
    form: str

    @linen.compact
    def __call__(self, x):
        return OUTPUTS[self.form](linen.Dense(3)(x))


OUTPUTS = {
    "tuple": lambda z: (z, z.sum()),
    "dict": lambda z: {"logits": z},
    "NoneType": lambda z: None,
    "int32": lambda z: jnp.argmax(z, 1),
    r"shape \(3,\)": lambda z: z[0],
}


class TestOutputs:
    @pytest.mark.parametrize("form", OUTPUTS)
    def test_that_are_no_array_of_logits(self, form):
        with pytest.raises(InvalidArgumentError, match=f"^model=.*returns.*{form}"):
            Classifier.from_nnx(NnxTwo(form, nnx.Rngs(0)), **FIELDS)
        variables = LinenTwo(form).init(jax.random.key(0), X)
        with pytest.raises(InvalidArgumentError, match=f"^module=.*returns.*{form}"):
            Classifier.from_linen(LinenTwo(form), variables, **FIELDS)
        with pytest.raises(InvalidArgumentError, match=f"^function=.*returns.*{form}"):
            Classifier.from_function(lambda p, x: OUTPUTS[form](x @ p), jnp.ones((4, 3)), **FIELDS)

    def test_logits_are_found_where_they_are_said_to_be(self):
        model, module = NnxTwo("tuple", nnx.Rngs(0)), LinenTwo("dict")
        classifier = Classifier.from_nnx(model, logits=lambda outputs: outputs[0], **FIELDS)
        assert_sums_close(classifier.logits(X), model(X)[0], 1e-6)
        variables = module.init(jax.random.key(0), X)
        classifier = Classifier.from_linen(
            module, variables, logits=lambda outputs: outputs["logits"], **FIELDS
        )
        expected = module.apply(variables, X)["logits"]
        assert_sums_close(classifier.logits(X), expected, 1e-6)

    @pytest.mark.parametrize("num_classes", [1, 2])
    @pytest.mark.parametrize("form", [lambda z: z, lambda z: z[:, 0]])
    def test_of_one_logit_for_two_classes(self, form, num_classes):
        with pytest.raises(InvalidArgumentError, match=r"num_classes=.*\(0, z\)"):
            Classifier.from_function(
                lambda p, x: form(x * p), jnp.float32(1), input_shape=(1,), num_classes=num_classes
            )
        two = Classifier.from_function(
            lambda p, x: jnp.pad((x * p).reshape(-1, 1), ((0, 0), (1, 0))),
            jnp.float32(1),
            input_shape=(1,),
            num_classes=2,
        )
        np.testing.assert_array_equal(two.logits(jnp.array([[2.0], [-3.0]])), [[0, 2], [0, -3]])


class Tabled(linen.Module):
    """Attributes as users write them, which have no hash."""

    sizes: list
    table: dict
    scale: np.ndarray

    @linen.compact
    def __call__(self, x):
        layers = [linen.Dense(size) for size in self.sizes]
        return linen.Sequential([*layers, getattr(linen, self.table["act"])])(x * self.scale)


def test_lists_and_dicts_among_the_attributes_of_modules():
    """Linen modules compare by their values."""
    scale = np.ones(4)

    def made(sizes, act="relu", scale=scale):
        module = linen.Sequential([Tabled(sizes, {"act": act}, scale), linen.Dense(3)])
        return Classifier.from_linen(module, module.init(jax.random.key(0), X), **FIELDS)

    first, same = made([5, 4]), made([5, 4])
    assert first.apply == same.apply
    assert hash(first.apply) == hash(same.apply)
    for other in (made([5, 3]), made([5, 4], act="tanh"), made([5, 4], scale=2 * scale)):
        assert first.apply != other.apply
    run = jax.jit(Classifier.logits)
    np.testing.assert_array_equal(run(first, X), run(same, X))
    assert first.fresh(jax.random.key(1)).apply == first.apply
    model = with_call("", "self.head(x) * len(self.sizes)")
    model.sizes, model.table = [5, 4], {"act": "relu"}
    classifier = Classifier.from_nnx(model, **FIELDS)
    assert_sums_close(run(classifier, X), model(X), 1e-5)
    assert classifier.replace(params=classifier.params).apply == classifier.apply


class Leaves(nnx.Module):
    def __init__(self, rngs):
        self.head = nnx.Linear(4, 3, rngs=rngs)
        self.scale, self.steps = nnx.Param(5.0), nnx.Variable(0)

    def __call__(self, x):
        self.steps.set_value(self.steps.get_value() + 1)
        return self.head(x) * self.scale.get_value()


class TestLeaves:
    def test_numbers_become_arrays(self):
        classifier = Classifier.from_nnx(Leaves(nnx.Rngs(0)), **FIELDS)
        assert classifier.params["scale"].dtype == jnp.float32
        assert classifier.state["steps"].dtype == jnp.int32
        _, state = classifier.apply(classifier.params, classifier.state, X, train=True)
        assert state["steps"] == 1
        params = {"w": np.ones((4, 3)), "scale": 2.0}
        classifier = Classifier.from_function(
            lambda p, x: x @ p["w"] * p["scale"], params, **FIELDS
        )
        for leaf in jax.tree.leaves(classifier.params):
            assert isinstance(leaf, jax.Array)
            assert leaf.dtype == jnp.float32
            assert not leaf.weak_type

    @pytest.mark.parametrize(
        "leaf", [jnp.arange(3), 3, True, 1j, "relu", np.array("relu"), jax.random.key(0), object()]
    )
    def test_others_are_refused_with_their_path(self, leaf):
        params = {"w": jnp.ones((4, 3)), "inner": {"odd": leaf}}
        with pytest.raises(InvalidArgumentError, match=r"^params/inner/odd="):
            Classifier.from_function(lambda p, x: x @ p["w"], params, **FIELDS)

    def test_integers_of_modules(self):
        model = Leaves(nnx.Rngs(0))
        model.scale = nnx.Param(jnp.arange(3))
        with pytest.raises(InvalidArgumentError, match=r"^params/scale=.*int32.*nnx.Variable"):
            Classifier.from_nnx(model, **FIELDS)


class LinenSows(linen.Module):
    @linen.compact
    def __call__(self, x, train: bool = False):
        self.sow("intermediates", "seen", x)
        x = linen.BatchNorm(use_running_average=not train)(x)
        self.sow("batch_stats", "largest", x.max())
        return linen.Dense(3)(x)


class NnxSows(Base):
    def __call__(self, x):
        x = self.norm(x)
        self.largest = nnx.BatchStat(x.max())
        return self.head(x)


@pytest.mark.parametrize("kind", ["nnx", "linen"])
def test_what_a_model_adds_to_its_state_is_dropped(kind):
    if kind == "nnx":
        classifier = Classifier.from_nnx(NnxSows(nnx.Rngs(0)), **FIELDS)
    else:
        variables = LinenSows().init(jax.random.key(0), X)
        classifier = Classifier.from_linen(LinenSows(), variables, **FIELDS)
    _, state = classifier.apply(classifier.params, classifier.state, X, train=True)
    assert jax.tree.structure(state) == jax.tree.structure(classifier.state)
    samples, recipe = Samples(X, jnp.arange(6) % 3), Recipe(epochs=1, batch_size=3)
    trained, _ = training.fit(classifier, samples, recipe, jax.random.key(0))
    moved = jax.tree.map(lambda a, b: np.any(a != b), trained.params, classifier.params)
    assert any(jax.tree.leaves(moved))


class Dropping(linen.Module):
    @linen.compact
    def __call__(self, x, train: bool):
        x = linen.BatchNorm(use_running_average=not train)(linen.Dense(8)(x))
        return linen.Dense(3)(linen.Dropout(0.5)(x, deterministic=not train))


def test_variables_go_back_the_way_they_came():
    module = Dropping()
    variables = module.init(jax.random.key(0), X, train=False)
    classifier = Classifier.from_linen(module, variables, **FIELDS)
    for one in (classifier, classifier.computing_in("bfloat16")):
        back = one.variables()
        assert jax.tree.structure(back) == jax.tree.structure(variables)
        logits = module.apply(back, X, train=False)
        np.testing.assert_array_equal(logits, classifier.logits(X))
    model, other = (NnxNet("none", nnx.Rngs(seed)) for seed in (0, 1))
    nnx.update(other, Classifier.from_nnx(model, **FIELDS).variables())
    np.testing.assert_array_equal(model(X), other(X))
    params = jnp.ones((4, 3))
    assert Classifier.from_function(lambda p, x: x @ p, params, **FIELDS).variables() is params
