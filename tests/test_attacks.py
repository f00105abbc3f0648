"""The attacks on the outputs and on the head, each beside a value that was found otherwise."""

import dataclasses

import numpy as np
import pytest
from sklearn import metrics

import evidence
from ignpx import audit
from ignpx.audit import Evidence, NotMeasuredError
from ignpx.audit.attacks import logit_ranking


def of_logits(own, others, classes=(0,), model=None):
    """Evidence of a model that reads its logits from its inputs: of the class and of the others."""
    model = model or evidence.reader(np.shape(own)[1])
    rest = [k for k in range(model.num_classes) if k not in classes]
    forget = evidence.logits(own, np.resize(classes, len(own)))
    retain = evidence.logits(others, np.resize(rest, len(others)))
    parts = {f"forget_{split}": forget for split in ("train", "test")}
    parts |= {f"retain_{split}": retain for split in ("train", "test")}
    return Evidence(model, classes=classes, **parts)


def masked(num_classes, label):
    """A model whose logit of a class is minus infinity."""
    bias = np.where(np.arange(num_classes) == label, -np.inf, 0).astype(np.float32)
    return evidence.reader(num_classes).replace(params={"bias": bias})


def test_logit_ranking_is_the_area_of_scikit_learn():
    rng = np.random.default_rng(0)
    own, others = rng.normal(0.5, 1, (40, 3)), rng.normal(size=(70, 3))
    found = audit.build("logit-ranking")(of_logits(own, others))
    positive, logits = np.repeat([1, 0], [40, 70]), np.float32(np.concatenate([own, others]))
    assert found.value == pytest.approx(metrics.roc_auc_score(positive, logits[:, 0]))
    margin = logits[:, 0] - logits[:, 1:].max(axis=1)
    assert found.details["margin"] == pytest.approx(metrics.roc_auc_score(positive, margin))


def test_logit_ranking_of_several_classes_is_their_mean():
    own = [[2.0, 0, 0], [0, 1, 0], [3, 0, 0], [0, 1, 0]]
    others = [[0.0, 1, 0], [1, 2, 0]]
    found = audit.build("logit-ranking")(of_logits(own, others, classes=(0, 1)))
    # Class 0 is above both retained samples, class 1 ties with one and is below the other.
    assert found.value == pytest.approx((1 + 0.25) / 2)


def test_logit_ranking_of_a_masked_class_finds_nothing():
    given = of_logits(np.zeros((5, 2)), np.ones((7, 2)), model=masked(2, 0))
    found = audit.build("logit-ranking")(given)
    assert found.value == found.details["margin"] == 0.5
    np.testing.assert_array_equal(
        logit_ranking.margins(np.array([[-np.inf, 1.0], [1.0, -np.inf]]), 0), [-np.inf, np.inf]
    )


@pytest.mark.parametrize("name", ["logit-ranking"])
def test_no_class_was_forgotten(name):
    given = dataclasses.replace(of_logits(np.zeros((5, 2)), np.zeros((5, 2))), classes=())
    with pytest.raises(NotMeasuredError, match="no class was forgotten as a whole"):
        audit.build(name)(given)


def test_too_few_samples_of_the_class():
    given = of_logits(np.zeros((1, 2)), np.zeros((5, 2)))
    with pytest.raises(NotMeasuredError, match=r"class 0 in forget_test=1: .* at least 2"):
        audit.build("logit-ranking")(given)
