"""Many classes in parts: as all at once, with the memory of a part, and resumed after a kill."""

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

import ignpx
from ignpx import InvalidArgumentError, RecoveryWarning, Request, _xla, models, synthesis
from ignpx._xla import noise
from ignpx.experiments import checkpoint, preparation
from ignpx.experiments.shelves import Shelf
from ignpx.methods import build, ignp
from ignpx.steps.parts import split

pytestmark = pytest.mark.filterwarnings("ignore::ignpx.UnlearningWarning")
QUICK = {"samples": 4, "held_out": 2, "steps": 20}
PARTS = QUICK | {"classes_at_once": 2}
KEY = jax.random.key(0)


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_rows_of_noise_are_those_of_the_whole(impl):
    key, shape, rows = jax.random.key(3, impl=impl), (7, 5, 3), [5, 0, 6, 6]
    expected = np.asarray(jax.random.normal(key, shape))[rows]
    np.testing.assert_array_equal(_xla.normal_rows(key, rows, shape), expected)


def test_rows_of_noise_beyond_32_bits():
    """Their numbers have two words, of which the first counts on where the second is full."""
    first, size = 2**33 - 3, 6
    key = jax.random.key(5)
    start = np.array([divmod(first, 2**32)], np.uint32)
    found = noise._drawn(key, start, (size,))[0]
    words = [divmod(first + index, 2**32) for index in range(size)]
    counts = jnp.asarray(np.array(words, np.uint32).T.ravel())
    high, low = jnp.split(jax.extend.random.threefry_2x32(jax.random.key_data(key), counts), 2)
    mantissa = np.asarray((high ^ low) >> 9, np.uint32) | np.float32(1).view(np.uint32)
    uniform = 2 * (mantissa.view(np.float32) - 1) - np.float32(1)
    expected = np.sqrt(2.0) * np.asarray(jax.lax.erf_inv(jnp.asarray(uniform)))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("classes", "at_once"), [(1000, 30), (10, 3), (7, 3), (101, 50), (4, 9)])
def test_every_class_is_in_one_part(classes, at_once):
    parts = split(classes, at_once)
    sizes = {len(part) for part in parts}
    assert sorted(np.concatenate(parts)) == list(range(classes))
    assert max(sizes) <= at_once
    assert len(parts) <= 2 * -(-classes // at_once)
    assert max(sizes) - min(sizes) <= 1


def assert_same(actual, expected, before):
    """As what is left of a total: relative to the parameter before, see `test_ignp.py`."""
    leaves = (jax.tree.leaves(c.params) for c in (actual, expected, before))
    for a, e, b in zip(*leaves, strict=True):
        assert np.all(np.abs(a - e) <= 1e-5 * np.abs(b))
    assert any(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (actual, before)), strict=True))


@pytest.mark.parametrize("at_once", [1, 3])
def test_parts_are_what_all_at_once_is(mlp, at_once):
    whole, parts = ignp(**QUICK), ignp(**QUICK, classes_at_once=at_once)
    assert len(parts.in_parts.parts(mlp)) == {1: 4, 3: 2}[at_once]
    for request in (Request.classes([2], 4), Request.classes([0, 3], 4)):
        expected, info = ignpx.unlearn(whole, mlp, request, KEY)
        actual, told = ignpx.unlearn(parts, mlp, request, KEY)
        # The gradients are a quarter and a half of those of a part, exactly; products of other
        # shapes may round differently, and each of 20 steps of 0.1 then by some 2^-24.
        for one, other in zip(
            *map(jax.tree.leaves, (told.prototypes, info.prototypes)), strict=True
        ):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
        assert_same(actual, expected, mlp)


def test_by_default_a_part_is_what_the_budget_allows(mlp, monkeypatch):
    assert len(ignp(**QUICK).in_parts.parts(mlp)) == 1
    big = jax.eval_shape(
        lambda: models.create("cifar_resnet18", input_shape=(64, 64, 3), num_classes=1000)
    )
    assert synthesis.classes_at_once(big, 40) < 1000
    monkeypatch.setattr(synthesis, "MEMORY_BUDGET", 3 * synthesis.MEMORY_BUDGET)
    tripled = synthesis.classes_at_once(big, 40)
    monkeypatch.setattr(synthesis, "MEMORY_BUDGET", synthesis.MEMORY_BUDGET // 3)
    assert tripled // 3 == synthesis.classes_at_once(big, 40)
    monkeypatch.setattr(synthesis, "MEMORY_BUDGET", 1)
    assert len(ignp(**QUICK).in_parts.parts(mlp)) == 4


def test_a_part_of_no_class():
    with pytest.raises(InvalidArgumentError, match=r"^classes_at_once=0: "):
        ignp(classes_at_once=0)


@pytest.fixture
def run(mlp, monkeypatch, tmp_path):
    """The directory of a run of the model, which is not read from it."""
    monkeypatch.setattr(checkpoint, "load", lambda *_, **__: (mlp, {}))
    return tmp_path


def kept(run, classifier):
    options = {"method": "ignp", "settings": PARTS, "seed": 0}
    return preparation.load(run, build("ignp", PARTS), classifier, **options)


def test_what_is_prepared_in_files_serves_as_what_is_in_memory(mlp, run, monkeypatch):
    preparation.prepare(run, settings=PARTS)
    with pytest.raises(InvalidArgumentError, match="is there already"):
        preparation.prepare(run, settings=PARTS)
    method, read, inputs = ignp(**PARTS), [], Shelf.inputs
    monkeypatch.setattr(Shelf, "inputs", lambda shelf, n: read.append(n) or inputs(shelf, n))
    prepared = kept(run, mlp)
    # Several classes that are more than half of all: everything is weighed, part by part.
    for classes, of_request in (([2], 1), ([1, 3], 2), ([0, 1, 2], 2)):
        request = Request.classes(classes, 4)
        expected, _ = ignpx.unlearn(method, mlp, request, KEY)
        read.clear()
        actual, _ = ignpx.unlearn(method, mlp, request, KEY, prepared)
        assert_same(actual, expected, mlp)
        # Both parts before the edit, at all coverages, at the one that is chosen, and to judge.
        assert len(read) == of_request + 8


def test_a_killed_preparation_goes_on_and_what_is_missing_is_named(mlp, run, monkeypatch):
    write, made = Shelf._write, []

    def noted(shelf, name, tree, of):
        made.append(name)
        if made == [0, "sum", 1, "sum"]:
            raise KeyboardInterrupt  # the second part is there, and not yet in the sum
        write(shelf, name, tree, of)

    monkeypatch.setattr(Shelf, "_write", noted)
    with pytest.raises(KeyboardInterrupt):
        preparation.prepare(run, settings=PARTS)
    assert kept(run, mlp) is None
    made.clear()
    preparation.prepare(run, settings=PARTS)
    assert made == [1, "sum"]
    found, undisturbed = kept(run, mlp), ignp(**PARTS).prepare(mlp, KEY)
    for one, other in zip(found.parts[0][1:], undisturbed.parts[0][1:], strict=True):
        np.testing.assert_array_equal(one, other)

    place = next(run.glob("prepared_parts/*/0001"))
    place.rename(run / "aside")
    with pytest.raises(InvalidArgumentError, match=r"0001.*part 2 of 2 is missing"):
        kept(run, mlp)
    made.clear()
    preparation.prepare(run, settings=PARTS)
    assert made == [1]
    described, other = checkpoint.load_config(place), checkpoint.load_leaves(place, 1)
    checkpoint.save_tree(place, other, described | {"classifier": "of another"}, overwrite=True)
    request = Request.classes([1], 4)
    with pytest.raises(InvalidArgumentError, match=r"0001.*part 2 of 2 is of another classifier"):
        ignpx.unlearn(ignp(**PARTS), mlp, request, KEY, kept(run, mlp))
    with pytest.warns(RecoveryWarning, match="made anew: .*part 2 of 2"):
        preparation.prepare(run, settings=PARTS, overwrite=True)
    ignpx.unlearn(ignp(**PARTS), mlp, request, KEY, kept(run, mlp))
