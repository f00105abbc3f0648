import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.svm import SVC

from ignpx import Classifier, InvalidArgumentError, Samples
from ignpx.audit import entropies, membership_inference

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
