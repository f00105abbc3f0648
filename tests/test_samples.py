"""Data of the wrong kind, at every public function that takes samples: one error, or the result."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ignpx
from ignpx import (
    Changes,
    Classifier,
    Forgets,
    InvalidArgumentError,
    Request,
    Samples,
    Sees,
    Unlearner,
    audit,
    data,
    training,
)
from ignpx.classifier import Samples as FromClassifier
from ignpx.data import Normalise
from ignpx.samples import check
from ignpx.training import Recipe

CLASSES = 4
COUNT = 12
RECIPE = Recipe(epochs=1, batch_size=4)
KEY = jax.random.key(0)


TRACED = []


def linear(params, x):
    TRACED.append(x)
    return x.reshape(len(x), -1) @ params


def model(shape, **fields):
    params = np.random.default_rng(0).normal(size=(int(np.prod(shape)), CLASSES))
    fields = {"input_shape": shape, "num_classes": CLASSES, **fields}
    return Classifier.from_function(linear, jnp.float32(params), **fields)


MODELS = {
    "normalised": model((8, 8, 3), preprocess=Normalise((0.5,) * 3, (0.25,) * 3)),
    "as they are": model((8, 8, 3)),
    "vectors": model((6,)),
}


def sound(name):
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (COUNT, *MODELS[name].input_shape), np.uint8)
    images = images if name == "normalised" else np.float32(images / 255)
    return Samples(images, np.arange(COUNT, dtype=np.int32) % CLASSES)


class Tensor:
    """As a tensor of PyTorch, an array in all but its type."""

    def __init__(self, array):
        self.array = array
        self.shape, self.dtype, self.ndim = array.shape, array.dtype, array.ndim

    def __array__(self, dtype=None, copy=None):
        return self.array

    def __len__(self):
        return len(self.array)

    def __getitem__(self, index):
        return self.array[index]


class Nothing:
    def check(self, request):
        pass


def of_class(samples, wanted):
    """The same data, of one class as far as the labels say what class they are of."""
    labels = getattr(samples, "labels", None)
    if isinstance(labels, np.ndarray) and labels.shape == (COUNT,) and labels.dtype == np.int32:
        whole = np.array_equal(labels, sound("vectors").labels)
        return samples._replace(labels=np.full_like(labels, wanted)) if whole else samples
    return samples


def unlearned(forget, retain, model):
    """By a method that does nothing: all there is to see is what is refused before it."""
    nothing = Unlearner(
        Sees.BOTH, lambda classifier, *_: (classifier, Nothing()), Changes.TARGETS, Forgets.ANY
    )
    request = Request.classes([1], CLASSES, forget_data=forget, retain_data=retain)
    return ignpx.unlearn(nothing, model, request, KEY)


def member(model, **sets):
    return audit.membership_inference(model, **sets)


# Public functions, by the argument that the samples are: (model, samples under test, sound ones).
ENTRIES = {
    "count_correct samples": lambda m, s, _: audit.count_correct(m, s),
    "entropies samples": lambda m, s, _: audit.entropies(m, s),
    "similarity samples": lambda m, s, _: audit.similarity(m, m, s),
    "rates forget": lambda m, s, good: audit.forgetting_rates(m, m, forget=s, retain=good),
    "rates retain": lambda m, s, good: audit.forgetting_rates(m, m, forget=good, retain=s),
    "mia retain_train": lambda m, s, g: member(m, retain_train=s, test=g, forget_train=g),
    "mia test": lambda m, s, g: member(m, retain_train=g, test=s, forget_train=g),
    "mia forget_train": lambda m, s, g: member(m, retain_train=g, test=g, forget_train=s),
    "degree samples": lambda m, s, _: audit.unlearning_degree(m, m, s, KEY, epochs=1),
    "fit samples": lambda m, s, _: training.fit(m, s, RECIPE, KEY),
    "ledger samples": lambda m, s, _: training.fit_with_ledger(
        m, s, RECIPE, KEY, np.eye(CLASSES, dtype=bool)
    ),
    "train train_samples": lambda m, s, g: training.train(m, s, g, RECIPE, seed=0),
    "train validation": lambda m, s, g: training.train(m, g, s, RECIPE, seed=0),
    "unlearn forget_data": lambda m, s, g: unlearned(of_class(s, 1), of_class(g, 0), m),
    "unlearn retain_data": lambda m, s, g: unlearned(of_class(g, 1), of_class(s, 0), m),
}


def images(change):
    return lambda samples: samples._replace(images=change(samples.images))


def labels(change):
    return lambda samples: samples._replace(labels=change(samples.labels))


def put(value, *, every=False):
    """Puts a value into the last image or label, or into all of them."""

    def change(array):
        array = np.array(array)
        array[... if every else -1] = value
        return array

    return change


FAULTS = {
    "a tuple": lambda s: tuple(s),
    "a list": lambda s: list(s),
    "a dict": lambda s: s._asdict(),
    "an array": lambda s: s.images,
    "no samples at all": lambda s: None,
    "empty": lambda s: Samples(s.images[:0], s.labels[:0]),
    "fewer images": images(lambda x: x[:-1]),
    "fewer labels": labels(lambda y: y[:-1]),
    "one image": images(lambda x: x[0]),
    "swapped": lambda s: Samples(s.labels, s.images),
    "images listed": images(lambda x: x.tolist()),
    "a tensor of images": images(Tensor),
    "images of objects": images(lambda x: x.astype(object)),
    "images as text": images(lambda x: x.astype(str)),
    "images of bool": images(lambda x: x > 0.5),
    "complex images": images(lambda x: x.astype(np.complex64)),
    "flat images": images(lambda x: x.reshape(COUNT, 1, -1)),
    "a scalar image": images(lambda x: np.float32(1)),
    "a tensor of labels": labels(Tensor),
    "labels listed": labels(lambda y: y.tolist()),
    "labels (N, 1)": labels(lambda y: y[:, None]),
    "labels one-hot": labels(lambda y: np.eye(CLASSES, dtype=np.float32)[y]),
    "labels of bool": labels(lambda y: y > 0),
    "labels not whole": labels(lambda y: y + np.float32(0.5)),
    "labels as text": labels(lambda y: y.astype(str)),
    "complex labels": labels(lambda y: y.astype(np.complex64)),
    "labels not a number": labels(lambda y: put(np.nan)(np.float32(y))),
    "infinite labels": labels(lambda y: put(np.inf)(np.float32(y))),
    "labels from one on": labels(lambda y: y + 1),
    "a class too many": labels(put(CLASSES)),
    "a hidden label": labels(put(-1)),
    "hidden labels": labels(put(-1, every=True)),
    "a label far off": labels(put(10**9)),
    "a label beyond 32 bits": labels(lambda y: put(2**32)(np.int64(y))),
    "a label that wraps to -1": labels(lambda y: put(255)(np.uint8(y))),
}
OF_PICTURES = {
    "channels first": images(lambda x: x.transpose(0, 3, 1, 2)),
    "4x16 instead of 8x8": images(lambda x: x.reshape(COUNT, 4, 16, 3)),
    "larger": images(lambda x: np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))),
    "grey": images(lambda x: x[..., :1]),
    "without channels": images(lambda x: x[..., 0]),
    "with a channel more": images(lambda x: np.concatenate([x, x[..., :1]], axis=-1)),
}
OF_FLOATS = {
    "not a number": images(put(np.nan)),
    "infinite": images(put(np.inf)),
    "minus infinite": images(put(-np.inf)),
    "beyond float32": images(lambda x: put(1e300)(np.float64(x))),
    "half, infinite": images(lambda x: put(np.inf)(np.float16(x))),
    "bfloat16, not a number": images(lambda x: put(np.nan)(np.asarray(x, jnp.bfloat16))),
    "jax, not a number": images(lambda x: jnp.asarray(put(np.nan)(x))),
    "beyond int32": images(lambda x: put(2**40)(np.int64(x))),
}
NORMALISED = {
    "scaled to 0..1": images(lambda x: np.float32(x / 255)),
    "scaled to -1..1": images(lambda x: np.float32(x / 127.5 - 1)),
    "floats to 255": images(np.float32),
    "uint16": images(np.uint16),
    "int8": images(lambda x: x.astype(np.int8)),
    "int32": images(np.int32),
    "int64": images(np.int64),
}
OF_MODEL = {
    "normalised": {**FAULTS, **OF_PICTURES, **NORMALISED},
    "as they are": {**FAULTS, **OF_PICTURES, **OF_FLOATS},
    "vectors": {**FAULTS, **OF_FLOATS},
}
CASES = [
    (entry, name, fault)
    for entry in ENTRIES
    for name, faults in OF_MODEL.items()
    for fault in faults
    # The audit is of images alone, which it says.
    if not (entry.startswith("degree") and name == "vectors")
]


@pytest.mark.parametrize("entry", ENTRIES)
def test_data_of_the_wrong_kind(entry):
    """Each is refused by name, and before the model is traced."""
    argument = entry.split()[1]
    TRACED.clear()
    for of, name, fault in CASES:
        if of == entry:
            bad = OF_MODEL[name][fault](sound(name))
            with pytest.raises(InvalidArgumentError) as caught:
                ENTRIES[entry](MODELS[name], bad, sound(name))
            said = str(caught.value)
            assert said.startswith((f"{argument}=", f"{argument}.")), (name, fault, said)
            assert len(said) < 500, (name, fault, said)
            assert "\n" not in said, (name, fault, said)
    assert TRACED == []


def test_there_are_many_of_them():
    assert len(CASES) > 1500


SERVED = {
    "int64 labels": labels(np.int64),
    "uint8 labels": labels(np.uint8),
    "whole floats as labels": labels(np.float64),
    "labels on the device": labels(jnp.asarray),
    "images on the device": images(jnp.asarray),
    "read-only": images(lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape)),
    "turned": images(lambda x: np.asfortranarray(x)),
    "in steps": images(lambda x: np.repeat(x, 2, axis=0)[::2]),
    "with big bytes first": images(lambda x: x.astype(x.dtype.newbyteorder(">"))),
}


@pytest.mark.parametrize("name", MODELS)
def test_arrays_of_any_make_are_served(name, tmp_path):
    expected = audit.count_correct(MODELS[name], sound(name))
    path = tmp_path / "images.npy"
    np.save(path, sound(name).images)
    mapped = {"memory-mapped": images(lambda _: np.load(path, mmap_mode="r"))}
    for kind, change in {**SERVED, **mapped}.items():
        counts = audit.count_correct(MODELS[name], change(sound(name)))
        assert counts.correct.tolist() == expected.correct.tolist(), kind
        assert counts.total.tolist() == [COUNT // CLASSES] * CLASSES, kind


def test_nothing_is_copied_that_is_as_it_should_be():
    for name, classifier in MODELS.items():
        given = sound(name)
        checked = check(given, classifier)
        assert checked.images is given.images
        assert checked.labels is given.labels
    assert FromClassifier is Samples is ignpx.Samples


def test_under_jit_shapes_and_dtypes_are_looked_at():
    classifier, given = MODELS["as they are"], sound("as they are")

    def labels_of(images, labels):
        return check(Samples(images, labels), classifier, "given").labels

    traced = jax.jit(labels_of)
    # Values are not there to be looked at.
    assert traced(given.images, given.labels + 1).tolist() == (given.labels + 1).tolist()
    assert traced(given.images, np.float32(given.labels)).dtype == jnp.int32
    for bad in (given.images[:-1], given.images[:, :4], given.images > 0):
        with pytest.raises(InvalidArgumentError, match=r"^given"):
            traced(bad, given.labels)


def test_a_preprocessing_of_the_users_own():
    flattened = model((192,), preprocess=lambda x: x.reshape(len(x), -1) / 255)
    assert check(sound("normalised"), flattened).images.dtype == np.uint8
    with pytest.raises(InvalidArgumentError, match=r"samples.images=.*inputs of shape \(6,\) each"):
        check(sound("vectors"), flattened)

    def picky(images):
        raise RuntimeError("no such images\nthere is more to say")

    with pytest.raises(InvalidArgumentError, match=r"^samples.images=.*\(no such images\)$"):
        check(sound("normalised"), model((192,), preprocess=picky))


@pytest.mark.parametrize(
    "handle", [None, {"w": jnp.ones(3)}, linear, Request.classes([1], 4), Tensor(np.ones(3))]
)
def test_what_is_no_classifier(handle):
    for entry in ("count_correct samples", "fit samples", "train train_samples"):
        with pytest.raises(
            InvalidArgumentError, match=r"^classifier=.*must be an ignpx.Classifier"
        ):
            ENTRIES[entry](handle, sound("vectors"), sound("vectors"))
    given, sets = MODELS["vectors"], {"forget": sound("vectors"), "retain": sound("vectors")}
    with pytest.raises(InvalidArgumentError, match=r"^reference="):
        audit.similarity(given, handle, sound("vectors"))
    with pytest.raises(InvalidArgumentError, match=r"^unlearned="):
        audit.forgetting_rates(given, handle, **sets)


@pytest.mark.parametrize("fault", ["a tuple", "a dict", "labels listed", "fewer labels"])
def test_what_cannot_be_picked_from(fault):
    bad = FAULTS[fault](sound("vectors"))
    for pick in (data.only, data.retained):
        with pytest.raises(InvalidArgumentError, match=r"^samples[=.]"):
            pick(bad, [0])
        assert len(pick(sound("vectors"), range(CLASSES)).labels) in (0, COUNT)


@pytest.mark.parametrize(
    "sets", [np.eye(3, dtype=bool), np.eye(CLASSES), np.ones(CLASSES, bool), [[True]], None]
)
def test_sets_that_are_none_of_classes(sets):
    with pytest.raises(InvalidArgumentError, match=r"^sets="):
        training.fit_with_ledger(MODELS["vectors"], sound("vectors"), RECIPE, KEY, sets)


@pytest.mark.parametrize("key", [0, "0", None, jax.random.split(KEY), np.zeros(2, np.int32), 1.5])
def test_what_is_no_key(key):
    with pytest.raises(InvalidArgumentError, match=r"^key="):
        training.fit(MODELS["vectors"], sound("vectors"), RECIPE, key)
    if not isinstance(key, int):
        with pytest.raises(InvalidArgumentError, match=r"^seed="):
            training.train(MODELS["vectors"], sound("vectors"), sound("vectors"), RECIPE, seed=key)


def test_a_key_of_the_older_kind_is_the_same_key():
    fitted = [
        training.fit(MODELS["vectors"], sound("vectors"), RECIPE, key)[0].params
        for key in (jax.random.key(3), jax.random.PRNGKey(3), np.asarray(jax.random.PRNGKey(3)))
    ]
    np.testing.assert_array_equal(fitted[0], fitted[1])
    np.testing.assert_array_equal(fitted[0], fitted[2])


@pytest.mark.parametrize("classes", [3, "3", [4], [-1], [True], [1.0], {"a": 1}, np.int64(3)])
def test_accuracy_of_what_is_no_class(classes):
    counts = audit.count_correct(MODELS["vectors"], sound("vectors"))
    for accuracy in (counts.accuracy, counts.accuracy_without):
        with pytest.raises(InvalidArgumentError, match=r"^classes="):
            accuracy(classes)
    assert counts.accuracy(np.array([1, 2])) == counts.accuracy([1, 2])
