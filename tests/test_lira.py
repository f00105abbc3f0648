"""The likelihood ratio attack, beside scipy, loops, and a model that memorises."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score, roc_curve

import evidence
from ignpx import (
    Changes,
    Classifier,
    InvalidArgumentError,
    Samples,
    Sees,
    Unlearner,
    audit,
    descent,
    methods,
)
from ignpx.audit import Evidence, NotMeasuredError
from ignpx.audit.attacks import lira
from ignpx.experiments.pictures import PICTURES

INPUTS, CLASSES = 20, 4
BRIEF = {"shadows": 8, "samples": 60, "others": 180, "epochs": 60, "batch_size": 32}


def forward(params, x):
    return jnp.tanh(x @ params["hidden"]) @ params["out"]["w"] + params["out"]["b"]


def initialise(key):
    keys = jax.random.split(key)
    hidden = jax.random.normal(keys[0], (INPUTS, 64)) / INPUTS**0.5
    out = {"w": jax.random.normal(keys[1], (64, CLASSES)) / 8, "b": jnp.zeros(CLASSES)}
    return {"hidden": hidden, "out": out}, {}


def model():
    params, _ = initialise(jax.random.key(0))
    return Classifier.from_function(
        forward, params, input_shape=(INPUTS,), num_classes=CLASSES, initialise=initialise
    )


@functools.cache
def samples():
    """Training and test samples whose classes overlap, so that a model has to memorise them."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(CLASSES), 120).astype(np.int32)
    images = rng.normal(size=(len(labels), INPUTS)).astype(np.float32)
    images[np.arange(len(labels)), labels] += 1
    test = np.arange(len(labels)) % 2 == 1
    return tuple(Samples(images[some], labels[some]) for some in (~test, test))


@functools.cache
def trained(seed, without=()):
    given = samples()[0]
    kept = ~np.isin(given.labels, without)
    fresh = model().fresh(jax.random.key(seed + 100))
    data = Samples(given.images[kept], given.labels[kept])
    order = descent.batches(jax.random.key(seed), int(kept.sum()), 32, 200)
    loss, optimizer = descent.CrossEntropy.of(fresh), descent.optimizer("adam", 5e-3)
    return descent.tune(loss, optimizer, fresh, data, order, jax.random.key(0))[0]


def given(attacked, **others):
    train, test = samples()
    parts = {}
    for name, whole in (("train", train), ("test", test)):
        gone = whole.labels == 0
        parts[f"forget_{name}"] = Samples(whole.images[gone], whole.labels[gone])
        parts[f"retain_{name}"] = Samples(whole.images[~gone], whole.labels[~gone])
    return Evidence(attacked, **{"original": trained(0), "classes": (0,), **parts, **others})


def test_confidences_are_log_odds():
    logits = np.random.default_rng(0).normal(size=(7, 4)) * 3
    labels = np.arange(7) % 4
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    own = p[np.arange(7), labels]
    expected = np.log(own / (1 - own))
    said = lira.confidences(logits, labels)
    np.testing.assert_allclose(said, expected - np.median(expected), atol=1e-4)
    # A constant that is added to a logit of one class, which all of them have, is not seen.
    lowered = logits - 7 * np.eye(4)[1]
    ones = np.ones(7, int)
    np.testing.assert_allclose(
        lira.confidences(lowered, ones), lira.confidences(logits, ones), atol=1e-4
    )
    assert np.isfinite(lira.confidences(np.where(np.eye(4)[1], -np.inf, logits), ones)).all()


@pytest.mark.parametrize("shadows", [8, 64])
def test_scores_are_likelihood_ratios(shadows):
    rng = np.random.default_rng(0)
    held = lira.halves(rng, shadows, 6)
    phi = rng.normal(size=(shadows, 6)) * np.arange(1, 7) + 2 * held
    asked = rng.normal(size=6)
    inside = [phi[held[:, k], k] for k in range(6)]
    outside = [phi[~held[:, k], k] for k in range(6)]
    deviations = [np.array([one.std(ddof=1) for one in part]) for part in (inside, outside)]
    if shadows < 64:
        deviations = [np.sqrt(np.mean(np.square(one))) for one in deviations]
    means = [np.array([one.mean() for one in part]) for part in (inside, outside)]
    first, second = (norm.logpdf(asked, *both) for both in zip(means, deviations, strict=True))
    np.testing.assert_allclose(lira.scores(asked, lira.Shadows(phi, held)), first - second)


def test_halves():
    held = lira.halves(np.random.default_rng(0), 6, 10)
    np.testing.assert_array_equal(held.sum(axis=1), 5)
    np.testing.assert_array_equal(held.sum(axis=0), 3)
    assert len({tuple(row) for row in held}) == 6


def test_the_curve_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    members, others = rng.integers(0, 6, 20) + 1.0, rng.integers(0, 6, 30) + 0.0
    truth, values = np.repeat([1, 0], [20, 30]), np.concatenate([members, others])
    false, true, _ = roc_curve(truth, values, drop_intermediate=False)
    ours = lira.roc(members, others)
    np.testing.assert_allclose(ours, (false, true))
    assert np.trapezoid(ours[1], ours[0]) == pytest.approx(roc_auc_score(truth, values))


def test_a_mapped_shadow_is_the_same_shadow_trained_alone():
    pool = samples()[0]
    held = lira.halves(np.random.default_rng(0), 4, len(pool.labels))
    settings = lira.Settings(None, 4, 60, 180, 2, 32, 5e-3, 3)
    key = jax.random.key(5)
    shadows = lira.train(model(), pool, held, key, settings)
    assert len(shadows) == 4
    for number, shadow in enumerate(shadows):
        init_key, order_key, step_key = jax.random.split(jax.random.split(key, 4)[number], 3)
        own = Samples(*(array[held[number]] for array in pool))
        fresh = model().fresh(init_key)
        order = descent.batches(order_key, len(own.labels), 32, 2)
        loss, optimizer = descent.CrossEntropy.of(fresh), descent.optimizer("adam", 5e-3)
        alone, _ = descent.tune(loss, optimizer, fresh, own, order, step_key)
        for ours, theirs in zip(*map(jax.tree.leaves, (shadow.params, alone.params)), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_finds_members_where_the_class_is_known_or_merely_hidden():
    attack = audit.build("lira", BRIEF)
    original = trained(0)
    out = original.params["out"]
    bias = out["b"].at[0].add(-100.0)
    hidden = original.replace(params={**original.params, "out": {**out, "b": bias}})
    start = given(original)
    knows, hides, never, neither = (
        attack(start.of(one))
        for one in (original, hidden, trained(0, without=(0,)), trained(1, without=(0,)))
    )
    assert knows.low > 0.6
    assert hides.value == pytest.approx(knows.value, abs=1e-2)
    for one in (never, neither):
        assert one.low <= 0.5 <= one.high
    assert never.low <= neither.high
    assert neither.low <= never.high
    assert knows.details["needed_for_0.1_percent"] == 1000
    assert knows.details["needed_for_1_percent"] == 100


def test_rates_of_true_positives():
    rng = np.random.default_rng(0)
    members, others = rng.normal(size=500) + 2, rng.normal(size=2000)
    found = lira._finding(members, others, 0)
    false, true, _ = roc_curve(np.repeat([1, 0], [500, 2000]), np.concatenate([members, others]))
    for name, rate in lira.RATES.items():
        assert found.details[f"tpr_at_{name}"] == pytest.approx(true[false <= rate].max())
        low, high = (found.details[f"tpr_at_{name}_{end}"] for end in ("low", "high"))
        assert low < found.details[f"tpr_at_{name}"] < high
        # Wider than that of the members alone, since the threshold is uncertain, too.
        alone = audit.intervals.of_share(round(500 * found.details[f"tpr_at_{name}"]), 500)
        assert high - low > alone[1] - alone[0]
    assert found.value == pytest.approx(
        roc_auc_score(np.repeat([1, 0], [500, 2000]), np.concatenate([members, others]))
    )
    few = lira._finding(members, others[:999], 0)
    assert few.details["needed_for_0.1_percent"] == 1000
    assert "tpr_at_1_percent" in few.details


def blank():
    """A method that forgets everything."""

    def unlearn(classifier, request, key):
        seen.append((set(request.forget_data.labels), set(request.retain_data.labels)))
        params = jax.tree.map(jnp.zeros_like, classifier.params)
        return classifier.replace(params=params), descent.DescentInfo(np.zeros(1))

    return Unlearner(Sees.BOTH, unlearn, Changes.ALL)


seen: list[tuple[set[int], set[int]]] = []


def test_shadows_can_be_unlearned_first():
    methods.register("blank", blank)
    settings = {"shadows": 4, "samples": 20, "others": 60, "epochs": 5}
    assert audit.build("lira", settings)(given(trained(0))).value != 0.5
    # Shadows that know nothing leave the attacker nothing to go by.
    assert audit.build("lira", {**settings, "method": "blank"})(given(trained(0))).value == 0.5
    assert seen == [({0}, {1, 2, 3})] * 4


def test_shadows_are_trained_once_for_all_models(monkeypatch):
    calls = []
    train = lira.train
    monkeypatch.setattr(lira, "train", lambda *args: calls.append(1) or train(*args))
    attack = audit.build("lira", {"shadows": 4, "samples": 20, "others": 60, "epochs": 2})
    start = given(trained(0))
    first = attack(start)
    attack(start.of(trained(1, without=(0,))))
    assert attack(start).value == first.value
    assert len(calls) == 1


def test_other_architectures_have_other_shadows(monkeypatch):
    """Those of one function and other widths, and of another preprocessing."""
    calls = []
    monkeypatch.setattr(lira, "train", lambda *args: calls.append(args[0]) or [args[0]] * 4)
    attack = audit.build("lira", {"shadows": 4, "samples": 20, "others": 60, "epochs": 2})
    model = trained(0)
    wide = jax.tree.map(lambda leaf: np.concatenate([leaf, leaf]), model.params)
    other = [model.replace(preprocess=lambda images: images), model.replace(state={"wide": wide})]
    start = given(model)
    for one in (model, *other, model):
        attack(start.of(one))
    assert list(map(id, calls)) == list(map(id, [model, *other]))


def test_a_shadow_is_unlearned_with_a_key_of_its_own(monkeypatch):
    """Not with that of its training, from which a retraining would be the same again."""
    keys, first = [], []
    unlearned = lira._unlearned
    monkeypatch.setattr(lira, "_unlearned", lambda *a: keys.append(a[-1]) or unlearned(*a))
    train = lira.train
    monkeypatch.setattr(lira, "train", lambda *a: first.append(a[3]) or train(*a))
    settings = {"shadows": 4, "samples": 20, "others": 60, "epochs": 2, "method": "blank"}
    methods.register("blank", blank)
    audit.build("lira", settings)(given(trained(0)))
    trainings = jax.random.key_data(jax.random.split(first[0], 4))
    asked = np.stack([jax.random.key_data(key) for key in keys])
    assert len({tuple(key) for key in np.concatenate([trainings, asked]).tolist()}) == 8


def test_the_picture_says_how_many_samples_a_small_rate_needs():
    found = lira._finding(np.arange(50.0), np.arange(200.0) - 100, 0)
    figure = PICTURES["lira"](found.arrays, ["a"], [0])
    [axis] = figure.axes
    assert axis.get_xscale() == axis.get_yscale() == "log"
    assert "200 samples that are no members" in axis.get_title()
    assert "0.1 % needs 1,000" in axis.get_title()
    drawn = axis.lines[1].get_xdata()
    assert np.min(drawn) >= 1 / 200 - 1e-12
    assert np.max(drawn) == 1


def test_bad_input():
    for settings, said in (
        ({"shadows": 3}, "even and at least 4"),
        ({"learning_rate": 0.0}, "above zero"),
        ({"method": "ignq"}, "did you mean ignp"),
    ):
        with pytest.raises(InvalidArgumentError, match=said):
            audit.build("lira", settings)
    start = given(trained(0))
    few = Samples(*(array[:9] for array in start.forget_test))
    with pytest.raises(NotMeasuredError, match="at least 10 are needed"):
        audit.build("lira")(given(trained(0), forget_test=few))
    with pytest.raises(NotMeasuredError, match="no class was forgotten"):
        audit.build("lira")(given(trained(0), classes=()))
    unmade = evidence.reader(INPUTS)
    with pytest.raises(InvalidArgumentError, match="initialise"):
        audit.build("lira")(
            Evidence(
                unmade,
                classes=(0,),
                **{p: getattr(start, p) for p in ("forget_train", "retain_train", "forget_test")},
            )
        )
