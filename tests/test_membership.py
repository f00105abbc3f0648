import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedShuffleSplit
from sklearn.svm import SVC

from ignpx import Classifier, InvalidArgumentError, Samples
from ignpx.audit import (
    Evidence,
    NotMeasuredError,
    attack,
    build,
    entropies,
    intervals,
    membership_inference,
    membership_loss,
    membership_salun,
)

CLASSES = 3


# Inputs are finite, and logits need not be: of these a model makes infinity, and not a number.
INFINITE, BROKEN = 3e38, 2e38


@pytest.fixture(scope="module")
def as_they_are():
    """A model whose logits are its inputs, so that a test chooses the entropies."""

    def logits(params, x):
        x = jnp.where(jnp.abs(x) == INFINITE, x * jnp.inf, params * x)
        return jnp.where(x == BROKEN, jnp.nan, x)

    return Classifier.from_function(
        logits, jnp.float32(1.0), input_shape=(CLASSES,), num_classes=CLASSES
    )


def samples(logits):
    logits = np.asarray(logits, np.float32)
    return Samples(logits, np.zeros(len(logits), np.int32))


def sure(count):
    return np.tile([30.0, 0.0, 0.0], (count, 1))


def unsure(count):
    return np.zeros((count, CLASSES))


def drawn(seed, count, scale):
    return scale * np.random.default_rng(seed).normal(size=(count, CLASSES))


def entropy_by_scipy(logits):
    logits = np.asarray(logits, np.float32).astype(np.float64)
    return stats.entropy(np.exp(logits), axis=1)


def test_entropies_are_the_formula(as_they_are):
    logits = np.concatenate([drawn(0, 20, 3.0), unsure(1), sure(1)])
    actual = entropies(as_they_are, samples(logits))
    assert actual.dtype == np.float64
    np.testing.assert_allclose(actual, entropy_by_scipy(logits), atol=1e-6)
    assert actual[20] == pytest.approx(np.log(CLASSES))


def test_entropies_of_saturated_logits_are_zero(as_they_are):
    logits = [[300.0, 0, -300.0], [0, 1e30, 0], [-INFINITE, 0, -INFINITE]]
    np.testing.assert_array_equal(entropies(as_they_are, samples(logits)), 0.0)


def test_entropies_keep_a_breakdown_visible(as_they_are):
    actual = entropies(as_they_are, samples([[BROKEN, 0, 0], [0, 0, 0], [INFINITE, 0, 0]]))
    np.testing.assert_array_equal(np.isnan(actual), [True, False, True])


def test_entropies_see_what_the_preprocessing_makes(as_they_are):
    halved = as_they_are.replace(preprocess=lambda images: images / 2)
    logits = drawn(1, 5, 4.0)
    actual = entropies(halved, samples(logits))
    np.testing.assert_allclose(actual, entropy_by_scipy(logits / 2), atol=1e-6)


def test_entropies_do_not_depend_on_the_batch(as_they_are):
    logits = drawn(2, 11, 2.0)
    expected = entropy_by_scipy(logits)
    for batch_size in (1, 4, 11, 500):
        actual = entropies(as_they_are, samples(logits), batch_size=batch_size)
        np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_a_remainder_is_not_compiled_anew(as_they_are, compilations):
    entropies(as_they_are, samples(unsure(6)), batch_size=6)
    compilations.clear()
    entropies(as_they_are, samples(unsure(8)), batch_size=6)
    assert compilations == []
    entropies(as_they_are, samples(unsure(8)), batch_size=5)
    assert len(compilations) == 1


@pytest.mark.parametrize("attack", ["logistic", "svc"])
def test_known_members_are_found(as_they_are, attack):
    def share(forget_train):
        return membership_inference(
            as_they_are,
            retain_train=samples(sure(30)),
            test=samples(unsure(10)),
            forget_train=samples(forget_train),
            attack=attack,
        )

    remembered = share(sure(8))
    assert (remembered.share, remembered.attack_accuracy) == (1.0, 1.0)
    assert remembered.flipped is (False if attack == "logistic" else None)
    assert share(unsure(8)).share == 0.0
    assert share(np.concatenate([sure(6), unsure(2)])).share == 0.75


def test_a_flipped_attack_says_so(as_they_are):
    """Where the test set is the surer one, being unsure is what makes a member."""
    result = membership_inference(
        as_they_are,
        retain_train=samples(unsure(30)),
        test=samples(sure(10)),
        forget_train=samples(np.concatenate([sure(6), unsure(2)])),
    )
    assert result.flipped is True
    assert result.share == 0.25
    assert result.attack_accuracy == 1.0


@pytest.mark.parametrize("attack", ["logistic", "svc"])
def test_an_attack_without_anything_to_go_by_has_accuracy_one_half(as_they_are, attack):
    same = samples(drawn(3, 40, 2.0))
    result = membership_inference(
        as_they_are, retain_train=same, test=same, forget_train=same, attack=attack
    )
    assert result.attack_accuracy == pytest.approx(0.5)


@pytest.mark.parametrize("attack", ["logistic", "svc"])
def test_agrees_with_scikit_learn_alone(as_they_are, attack):
    members, others, forgotten = drawn(18, 60, 3.0), drawn(19, 50, 2.0), drawn(20, 50, 3.0)
    features = [entropy_by_scipy(logits).reshape(-1, 1) for logits in (members, others, forgotten)]
    fitted_to = np.vstack(features[:2])
    truth = np.repeat([1, 0], [60, 50])
    reference = {
        "logistic": LogisticRegression(class_weight="balanced"),
        "svc": SVC(C=3, gamma="auto"),
    }[attack].fit(fitted_to, truth)
    for batch_size in (500, 33):
        actual = membership_inference(
            as_they_are,
            retain_train=samples(members),
            test=samples(others),
            forget_train=samples(forgotten),
            attack=attack,
            batch_size=batch_size,
        )
        assert actual.share == pytest.approx(reference.predict(features[2]).mean())
        assert actual.attack_accuracy == pytest.approx(
            balanced_accuracy_score(truth, reference.predict(fitted_to))
        )
    # The sets are such that the settings of the attack matter.
    differently = {
        "logistic": [LogisticRegression()],
        "svc": [SVC(C=1, gamma="auto"), SVC(C=3, gamma="scale")],
    }[attack]
    for other in differently:
        share = other.fit(fitted_to, truth).predict(features[2]).mean()
        assert abs(share - actual.share) > 0.05


def test_bad_input_is_refused(as_they_are):
    good = {name: samples(drawn(0, 4, 1.0)) for name in ("retain_train", "test", "forget_train")}
    for name in good:
        with pytest.raises(InvalidArgumentError, match=f"^{name}=0"):
            membership_inference(as_they_are, **{**good, name: samples(np.zeros((0, CLASSES)))})
        broken = samples([[0, 0, 0], [BROKEN, 0, 0]])
        with pytest.raises(InvalidArgumentError, match=f"^{name}='1 of 2 entropies"):
            membership_inference(as_they_are, **{**good, name: broken})
    with pytest.raises(InvalidArgumentError, match=r"^attack='forest'"):
        membership_inference(as_they_are, **good, attack="forest")
    with pytest.raises(InvalidArgumentError, match=r"^batch_size=0"):
        membership_inference(as_they_are, **good, batch_size=0)


ATTACKS = [
    "membership-confidence",
    "membership-correctness",
    "membership-entropy",
    "membership-modified-entropy",
    "mia",
]


def enough(hits, repetitions):
    """Whether so many hits are no sign of a coverage below 95 %, by 1 in 10,000."""
    return hits >= stats.binom.ppf(1e-4, repetitions, 0.95)


def labelled(logits, labels):
    return samples(logits)._replace(labels=np.asarray(labels, np.int32))


@pytest.fixture
def known(as_they_are):
    """Evidence of members that are surer than the rest, and of forgotten samples of both kinds."""
    rng = np.random.default_rng(21)

    def drawn(count, scale):
        labels = rng.integers(0, CLASSES, count)
        logits = scale * rng.normal(size=(count, CLASSES))
        logits[np.arange(count), labels] += scale
        return labelled(logits, labels)

    return Evidence(
        as_they_are,
        retain_train=drawn(110, 3.0),
        forget_test=drawn(40, 2.0),
        retain_test=drawn(70, 2.0),
        forget_train=drawn(50, 2.5),
    )


def probabilities(logits):
    powers = np.exp(np.asarray(logits, np.float64))
    return powers / powers.sum(axis=-1, keepdims=True)


def test_modified_entropies_are_the_formula():
    # By hand, of the probabilities 0.7, 0.2, 0.1 and the labels 0 and 2.
    logits = np.log([[0.7, 0.2, 0.1]] * 2)
    right = -0.3 * np.log(0.7) - 0.2 * np.log(0.8) - 0.1 * np.log(0.9)
    wrong = -0.9 * np.log(0.1) - 0.7 * np.log(0.3) - 0.2 * np.log(0.8)
    found = membership_salun.modified_entropies(logits, np.array([0, 2]))
    np.testing.assert_allclose(found, [right, wrong])


def test_modified_entropies_keep_their_precision():
    # Of two classes it is twice -(1 - p) log p, which is (1 - p)^2 near one.
    found = membership_salun.modified_entropies(np.array([[40.0, 0.0]]), np.array([0]))
    np.testing.assert_allclose(found, 2 * np.exp(-80.0), rtol=1e-12)
    wrong = membership_salun.modified_entropies(np.array([[300.0, 0.0]]), np.array([1]))
    np.testing.assert_allclose(wrong, -2 * np.log(1e-30))


def test_confidences():
    logits, labels = drawn(4, 20, 3.0), np.arange(20) % CLASSES
    found = membership_salun.confidences(logits, labels)
    np.testing.assert_allclose(found, probabilities(logits)[np.arange(20), labels], rtol=1e-5)


@pytest.mark.parametrize("name", ATTACKS)
def test_the_value_is_that_of_scikit_learn_alone(known, name):
    """The sets are of equal size, so that none is subsampled."""

    def numbers(*parts):
        logits = np.concatenate([known.samples(part).images for part in parts])
        labels = np.concatenate([known.labels(part) for part in parts])
        p, rows = probabilities(logits), np.arange(len(labels))
        modified = np.where(np.arange(CLASSES) == labels[:, None], 1 - p, p)
        other = np.where(np.arange(CLASSES) == labels[:, None], p, 1 - p)
        return {
            "membership-confidence": p[rows, labels],
            "membership-correctness": (p.argmax(1) == labels).astype(float),
            "membership-modified-entropy": -np.sum(modified * np.log(other), axis=1),
        }.get(name, stats.entropy(p, axis=1))[:, None]

    fitted_to = np.vstack([numbers("retain_train"), numbers("forget_test", "retain_test")])
    mia = name == "mia"
    reference = LogisticRegression(class_weight="balanced") if mia else SVC(C=3, gamma="auto")
    reference.fit(fitted_to, np.repeat([1, 0], 110))
    members = reference.predict(numbers("forget_train")).sum()
    counted = int(members if mia else 50 - members)
    found = build(name)(known)
    assert found.value == pytest.approx(counted / 50)
    assert (found.low, found.high) == pytest.approx(intervals.of_share(counted, 50))


def test_mia_is_the_plain_function(known, as_they_are):
    parts = [known.samples(part) for part in ("forget_test", "retain_test")]
    for kind in ("logistic", "svc"):
        plain = membership_inference(
            as_they_are,
            retain_train=known.retain_train,
            test=Samples(*map(np.concatenate, zip(*parts, strict=True))),
            forget_train=known.forget_train,
            attack=kind,
        )
        found = build("mia", {"attack": kind})(known)
        assert found.value == plain.share
        assert ("flipped" in found.details) == (kind == "logistic")


@pytest.mark.parametrize("name", ATTACKS)
def test_no_class_may_have_been_forgotten(known, as_they_are, name):
    parts = {part: known.samples(part) for part in ("retain_train", "retain_test", "forget_train")}
    assert 0 <= build(name)(Evidence(as_they_are, **parts)).value <= 1


@pytest.mark.parametrize("name", ATTACKS[:-1])
def test_an_attack_is_fitted_to_balanced_samples_of_a_number(known, name, monkeypatch):
    sizes = []

    def fit(kind, members, others):
        sizes.append((len(members), len(others)))
        return attack.fit(kind, members, others)

    monkeypatch.setattr(membership_salun, "fit", fit)
    build(name, {"samples": 30})(known)
    assert sizes == [(30, 30)]


@pytest.mark.parametrize("name", [*ATTACKS, "membership-loss"])
def test_too_few_samples_for_an_attack(known, as_they_are, name):
    few = samples(drawn(0, 4, 1.0))
    parts = dict.fromkeys(("retain_train", "forget_test", "retain_test", "forget_train"), few)
    needed = 20 if name == "membership-loss" else 10
    with pytest.raises(NotMeasuredError, match=f"at least {needed} are needed"):
        build(name)(Evidence(as_they_are, **parts))


@pytest.mark.parametrize("kind", ["logistic", "svc"])
def test_an_attack_at_chance_says_so(kind):
    """On exchangeable samples its intervals contain one half as often as they should."""
    rng = np.random.default_rng(5)
    repetitions, hits = 100, {"auc": 0, "balanced_accuracy": 0}
    for seed in range(repetitions):
        members, others = rng.exponential(size=60), rng.exponential(size=40)
        found = attack.quality(kind, members, others, seed)
        for name in hits:
            hits[name] += found[f"{name}_low"] <= 0.5 <= found[f"{name}_high"]
    assert all(enough(count, repetitions) for count in hits.values()), hits


def test_an_attack_has_the_quality_that_theory_gives():
    """Two normal distributions d apart: an accuracy of Phi(d / 2), an area of Phi(d / sqrt(2))."""
    rng, distance = np.random.default_rng(6), 1.5
    members, others = rng.normal(distance, 1, 4000), rng.normal(0, 1, 4000)
    for kind in ("logistic", "svc"):
        found = attack.quality(kind, members, others, 0)
        # The scores of the machine do not rise with the number everywhere.
        if kind == "logistic":
            assert found["auc_low"] < stats.norm.cdf(distance / np.sqrt(2)) < found["auc_high"]
        assert (
            found["balanced_accuracy_low"]
            < stats.norm.cdf(distance / 2)
            < found["balanced_accuracy_high"]
        )
        assert found["auc_high"] - found["auc_low"] < 0.03


def losses_apart(distance, seed, count=100):
    """Evidence of two classes, whose forgotten training samples have margins this much higher."""
    rng = np.random.default_rng(seed)
    model = Classifier.from_function(
        lambda params, x: x * params, jnp.float32(1.0), input_shape=(2,), num_classes=2
    )
    train, test = (rng.normal(mean, 1, count) for mean in (distance, 0.0))
    sets = (labelled(np.stack([m, 0 * m], axis=1), np.zeros(count)) for m in (train, test))
    return Evidence(model, **dict(zip(("forget_train", "forget_test"), sets, strict=True)))


def test_the_loss_attack_is_at_one_half_where_nothing_is_known():
    repetitions, hits = 40, 0
    for seed in range(repetitions):
        members, others = np.random.default_rng(seed).exponential(size=(2, 60))
        accuracy = membership_loss.split_accuracies(members, others, seed).mean()
        low, high = membership_loss.of_splits(accuracy, 60)
        hits += low <= 0.5 <= high
    assert enough(hits, repetitions)


def test_the_loss_attack_finds_what_is_remembered():
    """Margins 1.5 apart: an accuracy of about Phi(0.75), 77 %, of 200 samples."""
    for seed in range(4):
        found = build("membership-loss")(losses_apart(1.5, seed))
        assert found.low > 0.5
        assert found.details["auc_low"] > 0.5
        assert abs(found.value - stats.norm.cdf(0.75)) < 0.15


def test_the_loss_attack_is_that_of_scikit_learn():
    given = losses_apart(1.0, 3)
    losses = [
        np.log1p(np.exp(-given.samples(p).images[:, 0])) for p in ("forget_train", "forget_test")
    ]
    order = np.random.default_rng(given.seed)
    values = np.concatenate([order.permutation(loss) for loss in losses])[:, None]
    splits = StratifiedShuffleSplit(5, test_size=0.1, random_state=given.seed)
    truth = np.repeat([1, 0], 100)
    expected = [
        LogisticRegression().fit(values[train], truth[train]).score(values[test], truth[test])
        for train, test in splits.split(values, truth)
    ]
    assert build("membership-loss")(given).value == pytest.approx(np.mean(expected))
