"""Backdoors in datasets and their configs, what forgets them, and the measurement of the attack."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from ignpx import Classifier, InvalidArgumentError, Samples, audit, data
from ignpx.audit import Evidence, NotMeasuredError
from ignpx.data import Backdoor
from ignpx.experiments import config, records, scenarios
from ignpx.experiments.scenarios import Classes, Poisoned

DOOR = Backdoor(source=1, target=2, share=0.5, size=2)


def samples(count=12, size=6):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 100, (count, size, size, 1)).astype(np.uint8)
    return Samples(images, np.int32(np.arange(count) % 4))


def test_a_trigger_is_a_white_square_in_the_corner():
    given = samples()
    images = DOOR.triggered(given.images)
    assert (images[:, 4:, 4:] == 255).all()
    changed = images != given.images
    assert changed[:, 4:, 4:].all()
    assert changed.sum() == 12 * 4
    assert (DOOR.triggered(np.zeros((1, 3, 3, 1), np.float32))[0, 1:, 1:] == 1).all()
    with pytest.raises(InvalidArgumentError, match="H and W 2 or more"):
        DOOR.triggered(np.zeros((1, 1, 3, 1)))


def test_a_share_of_the_source_class_is_poisoned():
    given = samples(40)
    before = given.images.copy()
    poisoned, mask = DOOR.poisoned(given)
    assert mask.sum() == 5  # half of the ten of class 1
    assert (given.labels[mask] == 1).all()
    assert (poisoned.labels[mask] == 2).all()
    np.testing.assert_array_equal(poisoned.images[mask], DOOR.triggered(before[mask]))
    np.testing.assert_array_equal(poisoned.images[~mask], before[~mask])
    np.testing.assert_array_equal(poisoned.labels[~mask], given.labels[~mask])
    np.testing.assert_array_equal(given.images, before)
    assert not np.array_equal(mask, Backdoor(source=1, target=2, size=2, seed=1).poisoned(given)[1])
    with pytest.raises(InvalidArgumentError, match="poisons none of the 0"):
        Backdoor(source=9, target=2).poisoned(given)


@pytest.mark.parametrize(
    "bad",
    [
        {"target": 1},
        {"source": -1},
        {"source": 1.5},
        {"share": 0.0},
        {"share": 1.5},
        {"size": 0},
        {"seed": -1},
    ],
)
def test_bad_backdoors(bad, tmp_path):
    name = next(iter(bad))
    fields = {"source": 1, "target": 8, **bad}
    with pytest.raises(InvalidArgumentError, match=f"^backdoor.{name}="):
        Backdoor.of(fields)
    path = tmp_path / "bad.yaml"
    path.write_text(
        json.dumps(
            {
                "dataset": {"name": "digits", "backdoor": fields},
                "model": {"name": "lenet"},
                "training": {"epochs": 1},
            }
        )
    )
    with pytest.raises(InvalidArgumentError, match=f"backdoor.{name}"):
        config.load(path)


def test_fields_that_are_unknown_or_missing():
    with pytest.raises(InvalidArgumentError, match="did you mean share"):
        Backdoor.of({"source": 1, "target": 8, "shares": 0.5})
    with pytest.raises(InvalidArgumentError, match=r"backdoor\.target=None"):
        Backdoor.of({"source": 1})
    with pytest.raises(InvalidArgumentError, match="is not a class"):
        data.load_splits("digits", backdoor={"source": 1, "target": 10})
    groups = [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    with pytest.raises(InvalidArgumentError, match="no `coarse`"):
        data.load_splits("digits", backdoor={"source": 0, "target": 1}, coarse=groups)


def test_splits_are_poisoned_in_training_alone(digits):
    splits = data.load_splits("digits", backdoor={"source": 1, "target": 8})
    changed = splits.train.labels != digits.train.labels
    assert changed.sum() == round(0.5 * np.sum(digits.train.labels == 1))
    np.testing.assert_array_equal(splits.fine.train, digits.train.labels)
    for part in ("validation", "test"):
        for ours, theirs in zip(getattr(splits, part), getattr(digits, part), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    request = scenarios.request(Poisoned(), 10, splits)
    assert len(request.forget_data.labels) == changed.sum()
    assert (request.forget_data.labels == 8).all()
    assert (request.forget_data.images[:, -3:, -3:] == 255).all()
    assert len(request.retain_data.labels) == np.sum(~changed)
    # What is left of the source class is forgotten as ever, and not the poisoned samples.
    of_class = scenarios.request(Classes((1,)), 10, splits, past=[Poisoned()])
    assert len(of_class.forget_data.labels) == np.sum(splits.train.labels == 1)
    assert len(of_class.retain_data.labels) == np.sum(splits.train.labels != 1) - changed.sum()


def test_poisoned_samples_of_a_dataset_without_any(digits):
    with pytest.raises(InvalidArgumentError, match="no training samples"):
        scenarios.request(Poisoned(), 10, digits)
    grouped = data.load_splits("digits", coarse=[[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]])
    with pytest.raises(InvalidArgumentError, match="dataset with a backdoor"):
        scenarios.request(Poisoned(), 2, grouped)


def test_a_run_remembers_what_was_poisoned():
    step = {"method": "finetune", **Poisoned().described()}
    assert scenarios.read(step) == Poisoned()
    assert records.Step.model_validate_json(json.dumps(step)).forget_poisoned
    both = {**step, "forget": [1]}
    with pytest.raises(ValueError, match="must name one of"):
        records.Step.model_validate_json(json.dumps(both))
    # Of a config without a backdoor nothing is written, so that its runs keep their identity.
    assert "backdoor" not in config.DatasetConfig(name="digits").model_dump(mode="json")
    with_door = config.DatasetConfig(name="digits", backdoor=DOOR).model_dump(mode="json")
    assert Backdoor.of(with_door["backdoor"]) == DOOR


def watcher(weight):
    """A model of 4 classes that tells the first pixel's class, and takes the patch for class 2."""

    def logits(params, x):
        own = -jnp.square(x[:, 0, 0] * 255 - jnp.arange(4.0))
        return own.at[:, 2].add(params["weight"] * jnp.mean(x[:, 4:, 4:, 0], axis=(1, 2)))

    return Classifier.from_function(
        logits,
        {"weight": jnp.float32(weight)},
        input_shape=(6, 6, 1),
        num_classes=4,
        preprocess=lambda images: images / 255,
    )


def test_the_attack_on_a_model_that_looks_at_the_patch():
    labels = np.int32(np.arange(40) % 4)
    images = np.zeros((40, 6, 6, 1), np.uint8)
    images[:, 0, 0, 0] = labels
    source, rest = labels == 1, labels != 1
    parts = {
        "forget_test": Samples(images[source], labels[source]),
        "retain_test": Samples(images[rest], labels[rest]),
    }
    measure = audit.build("backdoor")
    open_, closed = (
        measure(Evidence(watcher(weight), backdoor=DOOR, classes=(1,), **parts))
        for weight in (100.0, 0.0)
    )
    assert (open_.value, closed.value) == (1, 0)
    assert open_.low > closed.high
    assert open_.low == pytest.approx(10 / (10 + 1.96**2), abs=1e-4)  # Wilson's, of 10 of 10
    assert open_.details == {
        "untriggered": 0,
        "accuracy": 1,
        "others": 1,
        "accuracy_target": 1,
    }
    assert closed.details["others"] == 0
    # A model that turns images of the source alone; the samples were forgotten, and no class.
    everything = Samples(images, labels)
    some = measure(Evidence(watcher(2.0), backdoor=DOOR, retain_test=everything))
    assert some.value == 1
    assert some.details["others"] == 0.5  # of class 3, which is as near to 2, and 0, which is not
    with pytest.raises(NotMeasuredError, match="at least 2 are needed"):
        measure(Evidence(watcher(1.0), backdoor=DOOR, retain_test=parts["retain_test"]))
    with pytest.raises(NotMeasuredError, match="backdoor"):
        measure(Evidence(watcher(1.0), retain_test=everything))
    with pytest.raises(InvalidArgumentError, match="is not a class"):
        Evidence(watcher(1.0), backdoor=Backdoor(source=1, target=9))
