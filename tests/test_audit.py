"""An audit of models of the digits: what it tells apart, what it does not, and what it refuses."""

import dataclasses
import math

import jax.numpy as jnp
import pytest

import evidence
from ignpx import Classifier, InvalidArgumentError, audit
from ignpx.audit import Evidence, Finding, Measure

ATTACKS = ["logit-ranking", "forget-accuracy", "agreement"]


def hidden(classifier: Classifier) -> Classifier:
    """The model with the logit of the class lowered, so that it is never the largest."""
    head = classifier.params["fc"][2]
    lowered = {**head, "bias": jnp.asarray(head["bias"]).at[evidence.FORGOTTEN].add(-100.0)}
    params = {**classifier.params, "fc": {**classifier.params["fc"], 2: lowered}}
    return classifier.replace(params=params)


def audited(model, count, attacks=ATTACKS):
    retrained = [evidence.retrained_on_digits(seed) for seed in range(count)]
    found = audit.audit(evidence.of_digits(model, None), retrained, attacks=attacks)
    return found, {one.name: one for one in found.attacks}


def test_a_retraining_is_not_told_from_others():
    found, attacks = audited(evidence.retrained_on_digits(4), 4)
    assert {one.comparison.outcome for one in attacks.values()} == {"not told"}
    assert "retrained one: 0 of 3" in found.verdict
    assert "0.15 of 3 would differ by chance" in found.verdict
    assert "does not prove" in found.verdict


def test_a_model_whose_logit_was_lowered_is_told_apart():
    original = evidence.models_of_digits()[0]
    _, attacks = audited(hidden(original), 4)
    assert attacks["forget-accuracy"].model.value == 0
    assert attacks["forget-accuracy"].comparison.outcome == "not told"
    assert attacks["logit-ranking"].comparison.outcome == "told"
    assert attacks["logit-ranking"].comparison.share == pytest.approx(1, abs=1e-6)
    assert "100% of the way" in attacks["logit-ranking"].verdict


def test_attacks_that_need_a_retrained_model_are_made_beside_the_first():
    original, first, second = evidence.models_of_digits()
    _, attacks = audited(hidden(original), 2)
    [beside] = attacks["agreement"].retrained
    assert attacks["agreement"].comparison.retrained == 1
    assert beside.value == audit.build("agreement")(evidence.of_digits(second, first)).value
    assert attacks["logit-ranking"].comparison.retrained == 2


def test_with_one_retrained_model_the_words_say_so():
    original = evidence.models_of_digits()[0]
    found, attacks = audited(hidden(original), 1)
    assert attacks["logit-ranking"].comparison.outcome == "told"
    assert "the one retrained model" in attacks["logit-ranking"].verdict
    assert "further retrained model may differ as much" in attacks["logit-ranking"].verdict
    assert "single retrained model: 2 of 2" in found.verdict
    assert attacks["agreement"].comparison.outcome == "withheld"
    assert "needs a second one" in attacks["agreement"].verdict


def test_without_a_retrained_model_the_verdict_is_withheld():
    original = evidence.models_of_digits()[0]
    found, attacks = audited(hidden(original), 0)
    assert {one.comparison.outcome for one in attacks.values()} == {"withheld"}
    assert attacks["logit-ranking"].model.value > 0.9
    assert "Verdict withheld: no retrained model" in found.verdict


def test_a_reason_in_place_of_a_value():
    """Too few samples, a failure and a value that is no number take no other attack with them."""

    def fails(given):
        raise ZeroDivisionError("by nought")

    plain = audit.build("forget-accuracy")
    own = {
        "few": audit.build("logit-ranking"),
        "fails": dataclasses.replace(plain, function=fails),
        "nan": dataclasses.replace(plain, function=lambda given: Finding(math.nan)),
        "made": plain,
    }
    model, other = evidence.reader(2), evidence.reader(2)
    one = evidence.logits([[1.0, 0.0]])
    given = Evidence(model, classes=(0,), forget_test=one, retain_test=one)
    found = {a.name: a for a in audit.audit(given, [other], attacks=own).attacks}
    assert "at least 2 are needed" in found["few"].verdict
    assert "ZeroDivisionError" in found["fails"].verdict
    assert "nan" in found["nan"].verdict
    assert found["made"].comparison.outcome == "not told"
    assert found["made"].reasons == {"original": "it was not given"}
    assert "is not known" in found["made"].verdict


def test_progress_is_told_of_every_measurement():
    model, other = evidence.reader(2), evidence.reader(2)
    told = []
    given = Evidence(model, forget_test=evidence.logits([[1.0, 0.0]]))
    audit.audit(
        given, [other], attacks=["forget-accuracy"], on_step=lambda *step: told.append(step)
    )
    assert [step[:2] for step in told] == [(0, 3), (1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attacks": ["logit-rankings"]}, "did you mean logit-ranking"),
        ({"attacks": "agreement"}, "a list of one name or more"),
        ({"attacks": ["agreement", "agreement"]}, "is there twice"),
        ({"retrained": [evidence.reader(3)]}, r"retrained\[0\].input_shape=\(3,\)"),
        ({"retrained": 2 * [evidence.reader(2)]}, r"retrained\[1\]='also retrained\[0\]'"),
        ({"retrained": [None]}, r"retrained\[0\]"),
    ],
)
def test_what_cannot_be_compared(change, message):
    given = Evidence(evidence.reader(2), forget_test=evidence.logits([[1.0, 0.0]]))
    with pytest.raises(InvalidArgumentError, match=message):
        audit.audit(given, **{"attacks": ["forget-accuracy"], **change})


def test_every_attack_of_an_audit_is_a_measurement():
    for name in audit.ATTACKS:
        assert isinstance(audit.build(name), Measure)
    assert set(audit.QUICK) < set(audit.ATTACKS)
