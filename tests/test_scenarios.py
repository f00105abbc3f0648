"""Classes, parts of classes and random samples: what is picked, asked for, recorded and scored."""

import json

import jax
import numpy as np
import pytest

from ignpx import InvalidArgumentError, Samples, data
from ignpx.experiments import checkpoint, config, runs, scenarios, unlearning
from ignpx.experiments.scenarios import Classes, Random, Subclass

# Eight fine classes in three coarse ones, the last of which has but one.
COARSE = np.array([0, 0, 0, 1, 1, 1, 1, 2], np.int32)


def made_up():
    """Splits whose images are their own numbers."""
    parts, fine = [], []
    for count in (80, 16, 24):
        labels = np.random.default_rng(count).permutation(np.arange(count) % 8)
        parts.append(Samples(np.arange(count) + 1000 * len(parts), COARSE[labels]))
        fine.append(labels)
    names = tuple("abcdefgh")
    info = data.DatasetInfo("made_up", 3, ("abc", "defg", "h"), "test", names)
    train, validation, test = parts
    preprocess, fine_labels = data.Normalise((0.0,), (1.0,)), data.FineLabels(*fine)
    return data.Splits(train, validation, test, info, preprocess, fine_labels)


SPLITS = made_up()


def asked(scenario, **past):
    return scenarios.request(scenario, 3, SPLITS, **past)


def numbers(samples):
    return set(samples.images.tolist())


def test_classes():
    request = asked(Classes((0, 2)))
    assert request.forget.tolist() == [True, False, True]
    assert request.retain.tolist() == [False, True, False]
    assert set(request.forget_data.labels) == {0, 2}
    assert set(request.retain_data.labels) == {1}
    assert numbers(request.forget_data) | numbers(request.retain_data) == set(range(80))
    # Without data it is the same request; only classes can be asked for so.
    bare = scenarios.request(Classes((0, 2)), 3)
    assert bare.forget.tolist() == request.forget.tolist()
    assert bare.forget_data is bare.retain_data is None
    with pytest.raises(InvalidArgumentError, match="5 random samples are picked from them"):
        scenarios.request(Random(5), 3)


def test_a_subclass():
    request = asked(Subclass(4))
    assert not request.forget.any()
    assert request.retain.all()
    assert numbers(request.forget_data) == set(np.flatnonzero(SPLITS.fine.train == 4))
    assert set(request.forget_data.labels) == {1}
    assert numbers(request.retain_data) == set(np.flatnonzero(SPLITS.fine.train != 4))


def test_random_samples():
    request, again, other = (asked(Random(30, seed)) for seed in (0, 0, 1))
    assert not request.forget.any()
    assert len(numbers(request.forget_data)) == 30
    assert not numbers(request.forget_data) & numbers(request.retain_data)
    assert numbers(request.forget_data) | numbers(request.retain_data) == set(range(80))
    for samples in (request.forget_data, request.retain_data):
        np.testing.assert_array_equal(samples.labels, SPLITS.train.labels[samples.images])
    assert numbers(again.forget_data) == numbers(request.forget_data)
    assert numbers(other.forget_data) != numbers(request.forget_data)
    # Of about every class as many as there are of it.
    drawn = np.mean(
        [
            np.bincount(SPLITS.fine.train[asked(Random(40, seed)).forget_data.images], minlength=8)
            for seed in range(200)
        ],
        axis=0,
    )
    np.testing.assert_allclose(drawn, 5, atol=0.5)


def test_what_was_forgotten_before_is_not_retained_nor_drawn_again():
    past = [Random(30, 0), Subclass(1), Random(10, 0), Classes((2,))]
    gone = set()
    for index, step in enumerate(past):
        request = asked(step, past=past[:index])
        assert not numbers(request.forget_data) & gone
        assert not numbers(request.retain_data) & gone
        gone |= numbers(request.forget_data)
        assert numbers(request.retain_data) == set(range(80)) - gone
    assert request.retain.tolist() == [True, True, False]
    # Nor is a class that is gone counted among those to be retained.
    assert asked(Subclass(0), past=past).retain.tolist() == [True, True, False]
    without = asked(Subclass(0), without=[1])
    assert set(without.retain_data.labels) == {0, 2}


@pytest.mark.parametrize(
    ("scenario", "past", "said"),
    [
        (Classes((3,)), {}, "forget=3: is not a class"),
        (Classes((1,)), {"without": [1]}, r"forget=\[1\]: has no training samples"),
        (Classes((0, 1)), {"without": [1]}, r"forget=\[1\]: have no training samples"),
        (Classes((1,)), {"past": [Classes((1,))]}, "already forgotten"),
        (Subclass(8), {}, "forget_subclass=8: is not a fine label of made_up; they are 0 to 7"),
        (Subclass(-1), {}, "forget_subclass=-1: is not a fine label"),
        (Subclass(7), {}, "forget_subclass=7: is all of class 2"),
        (Subclass(4), {"past": [Subclass(4)]}, "forget_subclass=4: has no training samples"),
        (Subclass(4), {"past": [Classes((1,))]}, "has no training samples"),
        (Random(80), {}, "forget_random=80: must be less than .* 80"),
        (Random(70), {"past": [Classes((0,))]}, "must be less than .* 50"),
    ],
)
def test_what_cannot_be_asked(scenario, past, said):
    with pytest.raises(InvalidArgumentError, match=said):
        asked(scenario, **past)


@pytest.mark.parametrize("count", [0, -3, 2.5])
def test_a_count_that_is_none(count):
    with pytest.raises(InvalidArgumentError, match=r"forget_random=.* whole number of at least 1"):
        Random(count)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Classes(3), "forget=3: must be a list"),
        (lambda: Classes("3"), "forget='3': must be a list"),
        (lambda: Classes((True,)), "forget=True: is not a class id"),
        (lambda: Classes((-1,)), "forget=-1: is not a class"),
        (lambda: Subclass("3"), "forget_subclass='3': is not a fine label"),
        (lambda: Subclass(True), "forget_subclass=True"),
        (lambda: Subclass(None), "forget_subclass=None"),
        (lambda: Random("3"), "forget_random='3'"),
        (lambda: Random(3, -1), "forget_seed=-1"),
        (lambda: Random(3, "0"), "forget_seed='0'"),
    ],
)
def test_scenarios_of_the_wrong_kind(make, said):
    with pytest.raises(InvalidArgumentError, match=f"^{said}"):
        make()


@pytest.mark.parametrize(
    "scenario",
    [
        Classes((0, 2)),
        Subclass(5),
        Random(7, 3),
        Classes(np.array([0, 2])),
        Subclass(np.int32(5)),
        Random(np.int64(7), np.uint8(3)),
    ],
)
def test_they_are_read_as_they_are_described(scenario):
    described = json.loads(json.dumps({"method": "ssd", "seed": 1, **scenario.described()}))
    assert scenarios.read(described) == scenario


def test_what_is_scored():
    fine = SPLITS.fine.test

    def picked(scenario, past=()):
        parts = scenarios.scored(scenario, SPLITS.test, fine, past)
        of = [set((part.images - 2000).tolist()) for part in parts]
        assert sum(map(len, of)) == len(set().union(*of)) == 24
        return of

    def where(*classes):
        return set(np.flatnonzero(np.isin(fine, classes)))

    assert picked(Classes((0,))) == [where(0, 1, 2), where(3, 4, 5, 6, 7), set()]
    assert picked(Subclass(5)) == [where(5), where(0, 1, 2, 3, 4, 6, 7), set()]
    assert picked(Random(5)) == [set(), where(*range(8)), set()]
    past = [Classes((2,)), Random(3), Subclass(0)]
    assert picked(Subclass(5), past) == [where(5), where(1, 2, 3, 4, 6), where(0, 7)]
    assert picked(Random(5), past) == [set(), where(1, 2, 3, 4, 5, 6), where(0, 7)]
    part = Samples(*(array[fine != 5] for array in SPLITS.test))
    with pytest.raises(InvalidArgumentError, match="forget_subclass=5: has no test samples"):
        scenarios.scored(Subclass(5), part, fine[fine != 5])
    part = Samples(*(array[fine == 5] for array in SPLITS.test))
    with pytest.raises(InvalidArgumentError, match="leaves no test samples"):
        scenarios.scored(Subclass(5), part, fine[fine == 5])


GROUPS = ((0, 1, 2, 3, 4), (5, 6, 7, 8, 9))
BRIEF = {"epochs": 1, "batch_size": 64}


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory):
    path = tmp_path_factory.mktemp("scenarios") / "run"
    recipe = {**BRIEF, "epochs": 3, "optimizer": "adam", "learning_rate": 2e-3}
    fields = {"dataset": {"name": "digits", "coarse": GROUPS}, "model": {"name": "lenet"}}
    settings = config.parse(config.TrainConfig, {**fields, "training": recipe})
    metrics = runs.train(settings, path)
    assert len(metrics["test_accuracy_by_class"]) == 2
    assert metrics["test_accuracy"] > 0.7
    return path


@pytest.fixture(scope="module")
def splits():
    return data.load_splits("digits", coarse=GROUPS)


def accuracy(run, samples, mask):
    """By a plain comparison of predictions and labels."""
    classifier, _ = checkpoint.load(run / "checkpoint")
    logits = classifier.logits(classifier.preprocess(jax.numpy.asarray(samples.images[mask])))
    return float(np.mean(np.argmax(logits, axis=1) == samples.labels[mask]))


def forget(source, out, scenario, **options):
    options = {"method": "finetune", "settings": BRIEF, "scenario": scenario, **options}
    return runs.unlearn(source, out, **options)


def test_a_run_forgets_a_subclass_then_random_samples_then_a_class(trained_run, splits, tmp_path):
    everything = np.ones(len(splits.test.labels), bool)
    first = forget(trained_run, tmp_path / "first", Subclass(3))
    part = splits.fine.test == 3
    for when, run in (("before", trained_run), ("after", tmp_path / "first")):
        assert first[f"forget_accuracy_{when}"] == pytest.approx(accuracy(run, splits.test, part))
        assert first[f"retain_accuracy_{when}"] == pytest.approx(accuracy(run, splits.test, ~part))
        assert first[f"accuracy_by_class_{when}"] == pytest.approx(
            [accuracy(run, splits.test, splits.test.labels == index) for index in (0, 1)]
        )
    assert sum(first["test_samples_by_class"]) == len(part)
    assert (first["forget_subclass"], first["forgotten_before"]) == (3, [])

    second = forget(tmp_path / "first", tmp_path / "second", Random(40, 5), seed=5)
    request = scenarios.request(Random(40, 5), 2, splits, past=[Subclass(3)])
    drawn = np.array(
        [
            np.any(np.all(request.forget_data.images == image, axis=(1, 2, 3)))
            for image in splits.train.images
        ]
    )
    assert drawn.sum() == 40
    assert not np.any(splits.fine.train[drawn] == 3)
    for when, run in (("before", "first"), ("after", "second")):
        found = accuracy(tmp_path / run, splits.train, drawn)
        assert second[f"forget_accuracy_{when}"] == pytest.approx(found)
        # What was forgotten before is not part of what is retained.
        found = accuracy(tmp_path / run, splits.test, ~part)
        assert second[f"retain_accuracy_{when}"] == pytest.approx(found)
    assert sum(second["test_samples_by_class"]) == everything.sum()

    third = forget(tmp_path / "second", tmp_path / "third", Classes((1,)))
    found = accuracy(tmp_path / "third", splits.test, (splits.test.labels == 0) & ~part)
    assert third["retain_accuracy_after"] == pytest.approx(found)
    described = json.loads((tmp_path / "third" / "config.json").read_text())
    assert described["forgotten"] == [1]
    assert [scenarios.read(step) for step in described["unlearning"]] == [
        Subclass(3),
        Random(40, 5),
        Classes((1,)),
    ]
    with pytest.raises(InvalidArgumentError, match="forget_subclass=3: has no training samples"):
        forget(tmp_path / "third", tmp_path / "x", Subclass(3))


def test_the_method_is_given_these_samples_and_no_others(
    trained_run, splits, tmp_path, monkeypatch
):
    given = []

    def spy(unlearner, classifier, request, key, *prepared, **_):
        given.append(request)
        return classifier, _Nothing()

    monkeypatch.setattr(unlearning.unlearner, "unlearn", spy)
    forget(trained_run, tmp_path / "out", Subclass(7))
    assert set(given[0].forget_data.labels) == {1}
    expected = splits.train.images[splits.fine.train == 7]
    np.testing.assert_array_equal(given[0].forget_data.images, expected)
    expected = splits.train.images[splits.fine.train != 7]
    np.testing.assert_array_equal(given[0].retain_data.images, expected)


class _Nothing:
    def summary(self):
        return {}


def test_a_method_that_forgets_classes_only_reads_no_data(trained_run, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("opened a dataset")

    monkeypatch.setattr("ignpx.data.load_splits", refuse)
    monkeypatch.setattr("ignpx.data.load_test", refuse)
    for scenario in (Subclass(3), Random(5)):
        with pytest.raises(InvalidArgumentError, match="whole classes only"):
            forget(trained_run, tmp_path / "out", scenario, method="gkt", settings={})
    assert not list(tmp_path.iterdir())


def test_classes_by_number_and_by_name():
    known = ("circle", "square", "7")
    assert scenarios.named(["2", "square"], lambda: known) == Classes((2, 1))
    assert scenarios.named(["7"], lambda: known) == Classes((7,))
    assert scenarios.named(["0", "2"], lambda: pytest.fail("asked")) == Classes((0, 2))
    with pytest.raises(InvalidArgumentError, match="forget=-1: is not a class"):
        scenarios.named(["-1"], lambda: known)
    with pytest.raises(InvalidArgumentError, match=r"forget='sqare': is no class.*mean square"):
        scenarios.named(["sqare"], lambda: known)
    with pytest.raises(
        InvalidArgumentError, match=r"forget='square'.*no names of classes are known"
    ):
        scenarios.named(["square"], lambda: ())
