import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import ignpx
from ignpx import (
    Forgets,
    InvalidArgumentError,
    Request,
    Sees,
    Unlearner,
    UnlearningError,
    UnlearningWarning,
    data,
    stages,
)
from ignpx.audit import count_correct
from ignpx.methods import METHODS, ignp, neggrad

QUICK = {"samples": 10, "steps": 100, "held_out": 4}


def test_request_masks():
    request = Request.classes([2, 0], 5, forgotten=[4])
    assert request.forget.tolist() == [True, False, True, False, False]
    assert request.retain.tolist() == [False, True, False, True, False]


@pytest.mark.parametrize(
    ("forget", "forgotten", "said"),
    [
        ([5], [], "forget=5: is not a class; the classes are 0 to 4"),
        ([-1], [], "forget=-1"),
        ([1, 1], [], "names a class twice"),
        ([], [], "at least one"),
        ([0, 1, 2, 3, 4], [], "leaves no class"),
        ([0, 1], [2, 3, 4], "leaves no class"),
        ([3], [3], "already forgotten"),
        ([1], [9], "forgotten=9"),
    ],
)
def test_bad_requests(forget, forgotten, said):
    with pytest.raises(InvalidArgumentError) as caught:
        Request.classes(forget, 5, forgotten=forgotten)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "forget", [3, np.int64(3), "3", b"3", None, {3: 1}, True, [True], [3.0], ["3"], [[3]], [None]]
)
def test_classes_are_a_list_of_whole_numbers(forget):
    for name in ("forget", "forgotten"):
        classes = {"forget": [0], "forgotten": [], name: forget}
        with pytest.raises(InvalidArgumentError, match=f"^{name}="):
            Request.classes(classes["forget"], 10, forgotten=classes["forgotten"])
        if name == "forget":
            with pytest.raises(InvalidArgumentError, match=r"^(forget|classes)="):
                data.retained(ignpx.Samples(np.zeros(3), np.arange(3)), forget)
            with pytest.raises(InvalidArgumentError, match=r"^classes="):
                data.only(ignpx.Samples(np.zeros(3), np.arange(3)), forget)
    with pytest.raises(InvalidArgumentError, match=r"^forget="):
        jax.jit(lambda classes: Request.classes(classes, 10).forget)(np.array([3]))


@pytest.mark.parametrize(
    "forget", [(3,), {3}, range(3, 4), np.array([3]), jnp.array([3]), [np.uint8(3)], iter([3])]
)
def test_classes_of_any_make(forget):
    assert np.flatnonzero(Request.classes(forget, 10).forget).tolist() == [3]


@pytest.mark.parametrize("num_classes", ["10", 0, True, 10.0, None])
def test_a_number_of_classes_that_is_none(num_classes):
    for ask in (
        lambda: Request.classes([0], num_classes),
        lambda: Request.samples(num_classes, ignpx.Samples(np.zeros(3), np.arange(3))),
    ):
        with pytest.raises(InvalidArgumentError, match=r"^num_classes="):
            ask()


@pytest.mark.parametrize("forgotten", [[12], [-1], [0, 4]])
def test_a_request_of_samples_knows_its_classes(mlp, forgotten):
    given = ignpx.Samples(np.zeros((1, 6), np.float32), np.zeros(1, np.int32))
    with pytest.raises(InvalidArgumentError, match=f"forgotten={forgotten[-1]}: is not a class"):
        Request.samples(4, given, forgotten=forgotten)
    assert Request.samples(4, given, forgotten=[3]).retain.tolist() == [True, True, True, False]


def test_data_that_a_method_needs_must_be_there(mlp):
    needy = Unlearner(Sees.BOTH, lambda *_: pytest.fail("was run"))
    with pytest.raises(InvalidArgumentError, match="forget_data=None"):
        ignpx.unlearn(needy, mlp, Request.classes([0], 4), jax.random.key(0))


def test_every_class_to_be_forgotten_needs_a_sample(mlp):
    given = ignpx.Samples(np.zeros((3, 6), np.float32), np.array([0, 0, 2], np.int32))
    request = Request.classes([0, 1], 4, forget_data=given)
    with pytest.raises(InvalidArgumentError, match=r"forget_data=\[1\]: .*have no sample"):
        ignpx.unlearn(neggrad(), mlp, request, jax.random.key(0))


def samples_of(*classes):
    labels = np.repeat(np.array(classes, np.int32), 2)
    return ignpx.Samples(np.zeros((len(labels), 6), np.float32), labels)


class Fine:
    def check(self, request):
        pass


IDLE = Unlearner(Sees.BOTH, lambda classifier, *_: (classifier, Fine()), forgets=Forgets.ANY)


def asked(**data):
    data = {"forget_data": samples_of(0), "retain_data": samples_of(1, 2, 3), **data}
    return Request.classes([0], 4, **data)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"retain_data": samples_of(0, 1, 2)}, r"^retain_data=\[0\]: .*data.retained"),
        ({"forget_data": samples_of(0, 1, 3)}, r"^forget_data=\[1, 3\]: .*data.only"),
        ({"forget_data": samples_of(1)}, r"^forget_data=\[0\]: .*no sample"),
        ({"forget_data": samples_of()}, r"^forget_data=0: needs at least one"),
        ({"retain_data": samples_of(1, 4)}, r"^retain_data.labels='1 to 4'"),
    ],
)
def test_data_that_are_not_those_of_the_request(mlp, data, said):
    with pytest.raises(InvalidArgumentError, match=said):
        ignpx.unlearn(IDLE, mlp, asked(**data), jax.random.key(0))
    with pytest.raises(InvalidArgumentError, match=said):
        asked(**data).granted(Sees.BOTH)


def test_a_class_that_was_forgotten_before_is_not_retained(mlp):
    request = Request.classes(
        [0], 4, forgotten=[3], forget_data=samples_of(0), retain_data=samples_of(1, 2, 3)
    )
    with pytest.raises(InvalidArgumentError, match=r"^retain_data=\[3\]"):
        ignpx.unlearn(IDLE, mlp, request, jax.random.key(0))


def test_samples_to_forget_may_be_of_any_class(mlp):
    request = Request.samples(4, samples_of(0, 1), samples_of(0, 1, 2, 3))
    ignpx.unlearn(IDLE, mlp, request, jax.random.key(0))
    with pytest.raises(InvalidArgumentError, match=r"^forget_data=None"):
        Request.samples(4, None)


@pytest.mark.parametrize(
    "method", [ignp, "ignp", None, ignpx.methods, METHODS["ignp-paper"], lambda *_: None, IDLE[1]]
)
def test_what_is_no_method(mlp, method):
    with pytest.raises(InvalidArgumentError, match=r"^unlearner=.*must be a method") as caught:
        ignpx.unlearn(method, mlp, Request.classes([0], 4), jax.random.key(0))
    assert ("call the factory" in str(caught.value)) == callable(method)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"classifier": asked()}, r"^classifier='ignpx.request.Request'"),
        ({"classifier": {"w": jnp.ones(3)}}, r"^classifier='dict'"),
        ({"classifier": nnx.Linear(6, 4, rngs=nnx.Rngs(0))}, r"^classifier='flax.nnx.*from_nnx"),
        ({"classifier": linen.Dense(4)}, r"^classifier='flax.linen.*from_linen"),
        ({"request": [0]}, r"^request='list'"),
        ({"request": 0}, r"^request=0"),
        ({"key": 0}, r"^key=0: .*jax.random.key"),
        ({"key": None}, r"^key=None"),
        ({"key": jax.random.split(jax.random.key(0))}, r"^key=.*\(2,\)"),
        ({"key": jnp.zeros(2)}, r"^key=.*float32"),
        ({"prepared": 3}, r"^prepared="),
    ],
)
def test_arguments_that_are_something_else(mlp, changes, said):
    arguments = {"classifier": mlp, "request": asked(), "key": jax.random.key(0), **changes}
    with pytest.raises(InvalidArgumentError, match=said):
        ignpx.unlearn(IDLE, **arguments)


def test_a_key_of_the_older_kind(mlp):
    drawing = IDLE._replace(unlearn=lambda classifier, _, key: (classifier, Drawn(key)))
    drawn = [
        jax.random.normal(ignpx.unlearn(drawing, mlp, asked(), key)[1].key)
        for key in (jax.random.key(3), jax.random.PRNGKey(3))
    ]
    assert drawn[0] == drawn[1]


class Drawn(Fine):
    def __init__(self, key):
        self.key = key


ONE = np.array([True, False, False, False])


@pytest.mark.parametrize(
    ("masks", "said"),
    [
        ((ONE, ONE | True), r"^request.retain=\[0\]: are to be forgotten as well"),
        ((ONE, ONE & False), r"^request.retain=\[\]: leaves no class"),
        ((ONE & False, ~ONE), r"^request.forget=\[\]: asks for nothing"),
        ((ONE.astype(int), ~ONE), r"^request.forget='numpy.ndarray int64 \(4,\)'"),
        ((ONE, 1.0 - ONE), r"^request.retain="),
        ((ONE.tolist(), ~ONE), r"^request.forget='list'"),
        ((ONE, None), r"^request.retain=None"),
        ((ONE[:3], ~ONE[:3]), r"^request.forget=\(3,\): .*classifier has 4"),
        ((ONE, ~ONE[:3]), r"^request.retain=\(3,\)"),
        ((ONE[None], ~ONE[None]), r"^request.forget=\(1, 4\)"),
    ],
)
def test_masks_made_by_hand(mlp, masks, said):
    with pytest.raises(InvalidArgumentError, match=said):
        ignpx.unlearn(IDLE._replace(sees=Sees.NOTHING), mlp, Request(*masks), jax.random.key(0))


@pytest.mark.parametrize("transformation", [jax.jit, jax.vmap, jax.grad])
def test_under_a_transformation_the_pure_function_is_to_be_called(mlp, transformation):
    def forget(share):
        edited, _ = ignpx.unlearn(
            IDLE._replace(sees=Sees.NOTHING),
            mlp.replace(params=jax.tree.map(lambda leaf: share * leaf, mlp.params)),
            Request(ONE, ~ONE),
            jax.random.key(0),
        )
        return edited.params["out"]["b"].sum()

    with pytest.raises(InvalidArgumentError, match=r"traced.* call unlearner.unlearn\("):
        transformation(forget)(jnp.ones(3) if transformation is jax.vmap else 1.0)


def test_forgets_digits_without_data(trained, digits):
    before = count_correct(trained, digits.test)
    edited, info = ignpx.unlearn(
        ignp(**QUICK), trained, Request.classes([6], 10), jax.random.key(0)
    )
    after = count_correct(edited, digits.test)
    assert before.accuracy([6]) > 0.9
    assert after.accuracy([6]) == 0.0
    assert after.accuracy_without([6]) >= before.accuracy_without([6]) - 0.02
    assert bool(info.calibration.converged)
    assert info.held_out[6] == 0
    assert float(info.calibration.coverage) == pytest.approx(float(info.search.chosen), rel=0.05)
    assert int(sum(jax.tree.leaves(info.selected))) == round(
        float(info.calibration.coverage) * 61706
    )


def test_several_classes_at_once_and_in_sequence(trained, digits):
    method = ignp(**QUICK)
    both, _ = ignpx.unlearn(method, trained, Request.classes([0, 6], 10), jax.random.key(0))
    assert count_correct(both, digits.test).accuracy([0, 6]) == 0.0
    first, _ = ignpx.unlearn(method, trained, Request.classes([6], 10), jax.random.key(0))
    second, _ = ignpx.unlearn(
        method, first, Request.classes([0], 10, forgotten=[6]), jax.random.key(1)
    )
    counts = count_correct(second, digits.test)
    assert counts.accuracy([0, 6]) == 0.0
    assert counts.accuracy_without([0, 6]) > 0.85


def test_constant_model_is_refused(mlp):
    dead = mlp.replace(params=jax.tree.map(jnp.zeros_like, mlp.params))
    with pytest.raises(UnlearningError, match="did not reach their class"):
        ignpx.unlearn(ignp(**QUICK), dead, Request.classes([1], 4), jax.random.key(0))


@pytest.mark.parametrize(
    ("targets", "message"),
    # The biases are 0, which shrinking leaves as they are; the weights are 36 % of the model.
    [
        ("out/b", "no target is sensitive"),
        ("out/w", r"only [12]?\d\.\d+% of the parameters are"),
    ],
)
def test_unreachable_coverage_is_an_error_with_the_figures(mlp, targets, message):
    method = ignp(**QUICK, targets=(targets,), coverage=(0.5, 0.6))
    with pytest.raises(UnlearningError, match=message):
        ignpx.unlearn(method, mlp, Request.classes([0], 4), jax.random.key(0))


def test_parameters_that_are_not_finite(mlp):
    broken = mlp.replace(
        params={**mlp.params, "out": {"w": mlp.params["out"]["w"] * jnp.nan, "b": jnp.zeros(4)}}
    )
    with pytest.raises(InvalidArgumentError, match="params/out/w"):
        ignpx.unlearn(ignp(**QUICK), broken, Request.classes([0], 4), jax.random.key(0))


def test_a_method_that_breaks_the_parameters_is_stopped(mlp):
    breaks = Unlearner(
        Sees.NOTHING,
        lambda c, *_: (c.replace(params=jax.tree.map(lambda p: p / 0, c.params)), Fine()),
    )
    with pytest.raises(UnlearningError, match="not finite"):
        ignpx.unlearn(breaks, mlp, Request.classes([0], 4), jax.random.key(0))


def test_a_request_for_another_number_of_classes(mlp):
    with pytest.raises(InvalidArgumentError, match="classifier has 4"):
        ignpx.unlearn(ignp(**QUICK), mlp, Request.classes([0], 5), jax.random.key(0))


def test_the_plain_objective_says_that_its_prototypes_are_noise(trained):
    plain = ignp(**QUICK, total_variation=0.0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ignpx.unlearn(plain, trained, Request.classes([6], 10), jax.random.key(0))
    assert any("as rough as noise" in str(w.message) for w in caught)
    assert all(w.category is UnlearningWarning for w in caught)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"coverage": (0.05, 0.04)}, "coverage="),
        ({"coverage": (0.0, 0.1)}, "coverage="),
        ({"within": "top"}, "within='top'"),
        ({"strength": 0}, "strength=0"),
        ({"strength": float("nan")}, "strength=nan"),
        ({"learning_rate": -0.1}, "learning_rate=-0.1"),
        ({"samples": 0}, "samples=0"),
        ({"steps": 2.5}, "steps=2.5"),
        ({"steps": True}, "steps=True"),
        ({"diversity": -1.0}, "diversity=-1.0"),
        ({"sensitivity_loss": "hinge"}, "sensitivity_loss='hinge'"),
        ({"optimizer": "adamm"}, "optimizer='adamm'"),
        ({"optimizer": "scale"}, "optimizer='scale'"),  # of optax, but no optimiser
    ],
)
def test_bad_settings(setting, said):
    with pytest.raises(InvalidArgumentError) as caught:
        ignp(**setting)
    assert said in str(caught.value)


def test_integers_of_numpy_are_whole_numbers():
    ignp(samples=np.int64(20), steps=np.uint8(100))


def test_a_target_that_matches_nothing(trained):
    with pytest.raises(InvalidArgumentError, match="targets='conv9'"):
        ignpx.unlearn(
            ignp(**QUICK, targets=("conv9",)), trained, Request.classes([0], 10), jax.random.key(0)
        )


@pytest.mark.filterwarnings("ignore::ignpx.UnlearningWarning")
def test_a_callback_is_told_of_each_stage_and_changes_no_bit(mlp):
    told = []
    request, key = Request.classes([0], 4), jax.random.key(0)
    method = ignp(samples=4, steps=40, held_out=4, coverage=(0.01, 0.2))
    silent, _ = ignpx.unlearn(method, mlp, request, key)
    heard, _ = ignpx.unlearn(method, mlp, request, key, on_stage=lambda *one: told.append(one))
    jax.tree.map(np.testing.assert_array_equal, silent.params, heard.params)
    synthesis = [share for name, share in told if name == "synthesis"]
    assert synthesis == [0.0, *(share / 20 for share in range(1, 21)), 1.0]
    names = list(dict.fromkeys(name for name, _ in told))
    assert names[:3] == ["synthesis", "sensitivity", "calibration"]
    assert {share for _, share in told if _ != "synthesis"} == {0.0, 1.0}
    assert not stages.reported()


def test_stages_are_timed_apart(mlp):
    method = ignp(samples=3, steps=5, held_out=1, coverage=(0.01, 0.9), learning_rate=0.5)
    request = Request.classes([0], 4)
    names = {"compile", "synthesis", "sensitivity", "calibration", "dampening", "diagnosis"}
    with stages.recording() as cold:
        method.unlearn(mlp, request, jax.random.key(0))
    with stages.recording() as warm:
        method.unlearn(mlp, request, jax.random.key(1))
    assert set(cold) == set(warm) == names
    assert cold["compile"] > 0
    assert warm["compile"] == 0
    assert all(seconds >= 0 for seconds in (cold | warm).values())


@pytest.mark.filterwarnings("ignore::ignpx.UnlearningWarning")
def test_each_of_many_requests_is_served_from_the_original(mlp, compilations):
    method, key = ignp(samples=4, held_out=2, steps=20, coverage=(0.05, 0.2)), jax.random.key(0)
    ids, sound = (0, 3, 1), Request.classes([2], 4)
    requests = [Request.classes([index], 4) for index in ids]
    none = Request(jnp.zeros(4, bool), jnp.ones(4, bool))
    results = ignpx.unlearn_each(method, mlp, iter([*requests, none, sound]), key)
    first, _ = next(results)
    compilations.clear()
    others = [next(results)[0] for _ in ids[1:]]
    assert compilations == []
    prepared = method.prepare(mlp, key)
    for request, actual in zip(requests, [first, *others], strict=True):
        expected, _ = ignpx.unlearn(method, mlp, request, key, prepared)
        for a, e in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
            np.testing.assert_array_equal(a, e)
    with pytest.raises(InvalidArgumentError, match="asks for nothing"):
        next(results)
    edited, _ = next(results)
    with pytest.raises(StopIteration):
        next(results)
    # A sequence needs no prepared state of the edited model: the original's serves both classes.
    with pytest.raises(InvalidArgumentError, match="ask the other to forget everything"):
        ignpx.unlearn(method, edited, Request.classes([1], 4, forgotten=[2]), key, prepared)
