"""What is built anew from equal parts is found again, and nothing else is."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ignpx
from ignpx import descent, methods, synthesis
from ignpx._xla import caching
from ignpx.methods import ignp
from ignpx.steps import Chained


def scaled(factor, shift=0.0):
    return lambda x: x * factor + shift


def recursive(start):
    def down(count):
        return start if count == 0 else down(count - 1)

    return down


def with_default(default):
    def value(x=default, *, y=default):
        return x + y

    return value


class Plain:
    def method(self):
        return self


ARRAY, PLAIN = np.ones(3), Plain()
EQUAL = {
    "closure": lambda: scaled(2.0),
    "recursion": lambda: recursive(1),
    "defaults": lambda: with_default(3),
    "of a lambda": lambda: lambda x: x,
    "function of functions": lambda: scaled(scaled(2.0), {"a": [scaled(1), (2, 3.0)]}),
    "partial": lambda: functools.partial(scaled(2.0), 1, shift=scaled(3)),
    "the same array": lambda: scaled(ARRAY),
    "the same object": lambda: scaled(PLAIN),
    "method": lambda: PLAIN.method,
    "optimiser": lambda: optax.chain(optax.clip_by_global_norm(5.0), optax.adam(0.1)),
    "schedule": lambda: optax.sgd(optax.piecewise_constant_schedule(0.1, {3: 0.1}), momentum=0.9),
    "terms": lambda: [synthesis.cross_entropy(), synthesis.total_variation(2.0, spread=3.0)],
}
DIFFERENT = {
    "numbers": (scaled(2.0), scaled(3.0)),
    "an integer and a float": (scaled(1), scaled(1.0)),
    "an integer and a truth value": (scaled(1), scaled(True)),
    "signs of zero": (scaled(0.0), scaled(-0.0)),
    "precisions": (scaled(np.float32(1)), scaled(np.float64(1))),
    "a list and a tuple": (scaled([1]), scaled((1,))),
    "keys": (scaled({"a": 1}), scaled({"b": 1})),
    "code": (lambda x: x + 1, lambda x: x + 2),
    "defaults": (with_default(3), with_default(4)),
    "arrays": (scaled(np.ones(3)), scaled(np.ones(3))),
    "objects": (scaled(Plain()), scaled(Plain())),
    "methods": (Plain().method, Plain().method),
    "optimisers": (optax.adam(0.1), optax.adam(0.2)),
    "terms": (synthesis.cross_entropy(), synthesis.energy()),
    "weights": (synthesis.cross_entropy(), synthesis.cross_entropy(-1.0)),
    "recursion": (recursive(1), recursive(2)),
    "modules": (scaled, types.FunctionType(scaled.__code__, {})),
}


@pytest.mark.parametrize("build", EQUAL.values(), ids=EQUAL)
def test_equal(build):
    assert caching.identity(build()) == caching.identity(build())
    assert hash(caching.identity(build())) == hash(caching.identity(build()))


@pytest.mark.parametrize("pair", DIFFERENT.values(), ids=DIFFERENT)
def test_different(pair):
    first, second = map(caching.identity, pair)
    assert first != second


def test_what_is_cached_is_built_once_and_not_kept_for_ever():
    built = []

    @caching.cached
    def build(function, *, name="x"):
        built.append(name)
        return object()

    assert build(scaled(1)) is build(scaled(1))
    assert build(scaled(1)) is not build(scaled(1), name="x")
    assert len(built) == 2
    for factor in range(100, 100 + caching.ENTRIES):
        build(scaled(factor))
    build(scaled(1))
    assert len(built) == 2 + caching.ENTRIES + 1


def test_what_changes_when_it_is_called_is_found_again():
    """As what a schedule of optax closes over does."""

    def counting():
        count = 0

        def call():
            nonlocal count
            count += 1
            return count

        return call

    built = []

    @caching.cached
    def build(function):
        built.append(function())
        return function

    first = counting()
    assert build(first) is build(first)
    assert build(counting()) is first
    assert len(built) == 1


def test_equal_functions_compile_once(compilations):
    x = jnp.arange(3.0)
    first = caching.jit(scaled(2.0))(x)
    compilations.clear()
    np.testing.assert_array_equal(caching.jit(scaled(2.0))(x), first)
    assert compilations == []
    np.testing.assert_array_equal(caching.jit(scaled(3.0))(x), [0.0, 3.0, 6.0])
    assert len(compilations) == 1


QUICK = {"samples": 4, "steps": 5, "held_out": 2, "learning_rate": 0.3}


@pytest.mark.filterwarnings("ignore::ignpx.UnlearningWarning")
class TestIgnp:
    """By every way to build it, alone, prepared and mapped over the classes."""

    def served(self, method, classifier, monkeypatch):
        # Whether it succeeds is another question.
        monkeypatch.setattr(Chained, "check", lambda *_: None)
        request = ignpx.Request.classes([1], classifier.num_classes)
        key = jax.random.key(0)
        ignpx.unlearn(method(), classifier, request, key)
        ignpx.unlearn(method(), classifier, request, key, method().prepare(classifier, key))
        forget = jnp.eye(classifier.num_classes, dtype=bool)
        jax.vmap(lambda f: method().unlearn(classifier, ignpx.Request(f, ~f), key))(forget)

    @pytest.mark.parametrize("name", ["ignp", "ignp-paper"])
    def test_equal_settings_compile_once(self, name, mlp, compilations, monkeypatch):
        def lists():
            return methods.METHODS[name](**QUICK, coverage=[0.01, 0.3], targets=["hidden", "out"])

        def tuples():
            return methods.METHODS[name](**QUICK, coverage=(0.01, 0.3), targets=("hidden", "out"))

        def by_name():
            settings = {**QUICK, "coverage": [0.01, 0.3], "targets": ["hidden", "out"]}
            return methods.build(name, settings)

        self.served(lists, mlp, monkeypatch)
        compilations.clear()
        for method in (lists, tuples, by_name):
            self.served(method, mlp, monkeypatch)
        assert compilations == []

    def test_the_readme(self, mlp, compilations, monkeypatch):
        def lines():
            return ignp(steps=5)

        self.served(lines, mlp, monkeypatch)
        compilations.clear()
        self.served(lines, mlp, monkeypatch)
        assert compilations == []

    def test_what_follows_the_synthesis_leaves_it(self, mlp, monkeypatch):
        traced = []

        def counted(classifier, inputs, labels):
            traced.append(1)
            return view(classifier, inputs, labels)

        view = synthesis.View.of
        monkeypatch.setattr(synthesis.View, "of", counted)
        # Settings of its own, which no other test has compiled.
        for changed in ({}, {"strength": 20.0}, {"coverage": (0.01, 0.2)}, {"direction": "any"}):
            method = ignp(**QUICK | {"learning_rate": 0.31}, **changed)
            method.prepare(mlp, jax.random.key(0))
        assert len(traced) == 1


def test_verbs_find_what_is_built_anew(mlp, compilations):
    def synthesised():
        return synthesis.synthesise(
            mlp,
            jax.random.key(0),
            terms=[synthesis.cross_entropy(), lambda view: jnp.mean(jnp.square(view.inputs))],
            samples=3,
            steps=4,
            optimizer=optax.adam(0.1),
        )

    def descended():
        def loss(params, state, batch, key, extra_args):
            return jnp.mean(jnp.square(mlp.replace(params=params).logits(batch))), state

        data, rows = jnp.ones((4, 6)), jnp.zeros((2, 2), jnp.int32)
        return descent.tune(loss, optax.sgd(0.1), mlp, data, rows, jax.random.key(0))

    synthesised(), descended()
    compilations.clear()
    synthesised(), descended()
    assert compilations == []
