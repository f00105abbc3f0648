"""What every method promises.

A new method is held to it by being in `METHODS`, plus one line in `QUICK` with settings that make
it run in seconds. Methods of another package are held to it in place of ours by the environment
variable `IGNPX_CONTRACT`, which has their names and such settings as JSON.
"""

import json
import os
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import ignpx
import mappings
from ignpx import Changes, Classifier, Forgets, Request, Samples, Sees, targets
from ignpx.methods import METHODS

QUICK = {
    "ignp": {
        "samples": 4,
        "steps": 20,
        "held_out": 2,
        "coverage": (0.01, 0.3),
        "learning_rate": 0.3,
    }
}
QUICK["ignp-paper"] = QUICK["ignp-zero"] = QUICK["ignp"]
BRIEF = {"epochs": 2, "batch_size": 4}
QUICK |= {
    "retrain": {"recipe": BRIEF, "validation_share": 0.3},
    "finetune": BRIEF,
    "ssd": {"alpha": 1.0, "batch_size": 4},
    "lfssd": {"alpha": 1.0, "batch_size": 4},
    # Half of the little data are forgotten, and no ratio then exceeds two.
    "assd": {"strength": 0.5, "batch_size": 4},
    "gkt": {"iterations": 2, "student_steps": 2, "batch_size": 4, "latent": 8, "threshold": 0.9},
    "unsir": {"noise_images": 4, "noise_steps": 2, "copies": 2, "batch_size": 4},
    "amnesiac": BRIEF,
    "amnesiac-subtract": {"recipe": BRIEF},
    "bad-teacher": BRIEF,
    "scrub": {"epochs": 2, "forget_epochs": 1, "forget_batch_size": 4, "retain_batch_size": 4},
}
QUICK |= {name: BRIEF for name in ("neggrad", "neggrad-plus", "random-labels", "salun")}
QUICK |= {f"{name}-zs": BRIEF for name in ("neggrad-plus", "random-labels", "salun", "bad-teacher")}
QUICK["scrub-plus-r"] = QUICK["scrub"]
INVERTED = BRIEF | {"samples": 4, "synthesis_steps": 3, "importance_share": 0.5}
QUICK |= {"uisps": INVERTED, "ttm": INVERTED, "ttm-sps": INVERTED}
QUICK |= {
    "top-k": {**BRIEF, "count": 1},
    "random-k": {**BRIEF, "share": 0.3, "reference": "incompetent"},
    "random-top-k": BRIEF,
    "eu-k": {"recipe": BRIEF, "validation_share": 0.3},
    "cf-k": BRIEF,
    "zs-pag": {**BRIEF, "epsilon": 2.0, "step_size": 0.5, "energy": 0.5, "solver_iterations": 3},
}
QUICK |= {
    "boundary-shrink": {**BRIEF, "epsilon": 2.0, "learning_rate": 0.01},
    "boundary-expand": {**BRIEF, "learning_rate": 0.01},
    "fisher": {},
    # Of the bias before a batch norm, whose gradient is zero, Adam makes steps out of rounding: few
    # beside those of many epochs.
    "emmn": {
        "noise_images": 2,
        "maximising_steps": 2,
        "minimising_steps": 2,
        "copies": 2,
        "epochs": 30,
        "batch_size": 4,
    },
    "jit": {"learning_rate": 0.01, "batch_size": 4, "perturbations": 2},
}
PROTOTYPES = {"samples": 4, "synthesis_steps": 20, "synthesis_learning_rate": 0.3}
QUICK |= {
    "damp": {"samples": 4},
    "damp-zs": {**PROTOTYPES, "held_out": 2},
    "erase": {"samples": 4},
    "erase-zs": {**PROTOTYPES, "held_out": 2},
    "delete": BRIEF,
    "delete-zs": BRIEF | PROTOTYPES,
    "delete-embeddings": BRIEF | {"samples": 8},
    "opc": BRIEF,
    "opc-zs": {**PROTOTYPES, "steps": 2},
}
HELD = json.loads(os.environ.get("IGNPX_CONTRACT", "{}")) or QUICK
CLASSES = 4


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 6, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(6, rngs=rngs)
        self.head = nnx.Linear(6 * 64, CLASSES, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.norm(self.conv(x))).reshape(len(x), -1))


class LinenNet(linen.Module):
    @linen.compact
    def __call__(self, x, train: bool):
        x = linen.BatchNorm(use_running_average=not train)(linen.Conv(6, (3, 3), name="conv")(x))
        return linen.Dense(CLASSES, name="head")(linen.relu(x).reshape(len(x), -1))


def plain_function(params, x):
    hidden = jnp.tanh(x.reshape(len(x), -1) @ params["conv"])
    return hidden @ params["head"]


def build(kind, **fields):
    fields = {"input_shape": (8, 8, 1), "num_classes": CLASSES, "targets": ("head",), **fields}
    if kind == "nnx":
        return Classifier.from_nnx(NnxNet(nnx.Rngs(0)), initialise=initialise_nnx, **fields)
    if kind == "linen":
        module = LinenNet()
        variables = module.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), train=False)
        return Classifier.from_linen(module, variables, **fields)
    params, _ = initialise_function(jax.random.key(0))
    return Classifier.from_function(
        plain_function, params, initialise=initialise_function, **fields
    )


def initialise_nnx(key):
    _, params, state = nnx.split(NnxNet(nnx.Rngs(key)), nnx.Param, ...)
    return nnx.to_pure_dict(params), nnx.to_pure_dict(state)


def initialise_function(key):
    keys = jax.random.split(key)
    params = {
        "conv": jax.random.normal(keys[0], (64, 32)) / 8,
        "head": jax.random.normal(keys[1], (32, CLASSES)),
    }
    return params, {}


def samples(label):
    images = jax.random.normal(jax.random.key(label), (6, 8, 8, 1))
    return Samples(images, jnp.full(6, label, jnp.int32))


@cache
def built(name):
    return ignpx.methods.build(name, HELD[name])


KINDS = ("nnx", "linen", "function")
# A preset of another method runs the same code, which one kind of model shows well enough.
WRITTEN_OUT = [name for name in HELD if not isinstance(METHODS.get(name), partial)]
CASES = [(name, kind) for name in HELD for kind in (KINDS if name in WRITTEN_OUT else KINDS[:1])]
DATA_FREE = [case for case in CASES if not built(case[0]).sees]
FORGET_SAMPLES = [name for name in HELD if Forgets.SAMPLES in built(name).forgets]


# Of the module, so that tests with the same method and model follow each other, and share what is
# compiled.
@pytest.fixture(params=CASES, ids="-".join, scope="module")
def case(request):
    yield request.param
    mappings.make_room()


@pytest.fixture(scope="module")
def method(case):
    return built(case[0])


@pytest.fixture(scope="module")
def classifier(case):
    return build(case[1])


def request_for(index):
    other = (index + 1) % CLASSES
    return Request.classes([index], CLASSES, forget_data=samples(index), retain_data=samples(other))


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def assert_same_edit(before, expected, actual):
    """Equal up to 2 % of the edit's length.

    Another order of operations rounds differently, and moves a parameter at the very threshold
    over it.
    """
    flat = [
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
        for tree in (before, expected, actual)
    ]
    length = np.linalg.norm(flat[1] - flat[0])
    assert length > 0
    assert np.linalg.norm(flat[2] - flat[1]) < 0.02 * length


@pytest.mark.filterwarnings("ignore::ignpx.UnlearningWarning")
class TestContract:
    def test_pure(self, method, classifier):
        before = bits(classifier)
        first, _ = ignpx.unlearn(method, classifier, request_for(0), jax.random.key(0))
        again, _ = ignpx.unlearn(method, classifier, request_for(0), jax.random.key(0))
        assert bits(classifier) == before
        assert bits(first) == bits(again)
        assert bits(first) != before

    def test_honest(self, method, classifier):
        """It is handed nothing but what it declares, and moves nothing but its targets."""
        handed = []

        def spy(classifier, request, key):
            handed.append(request)
            return method.unlearn(classifier, request, key)

        spied = method._replace(unlearn=spy)
        edited, _ = ignpx.unlearn(spied, classifier, request_for(1), jax.random.key(0))
        assert (handed[0].forget_data is not None) == (Sees.FORGET in method.sees)
        assert (handed[0].retain_data is not None) == (Sees.RETAIN in method.sees)
        _, rest_before = targets.partition(classifier.params, classifier.targets)
        _, rest_after = targets.partition(edited.params, classifier.targets)
        assert (bits(rest_after) != bits(rest_before)) == (Changes.OTHER_LAYERS in method.changes)
        if classifier.state:
            moved = bits(edited.state) != bits(classifier.state)
            assert moved == (Changes.STATE in method.changes)

    def test_compiled_once(self, case, classifier, compilations):
        """Another request to another unlearner of equal settings compiles nothing."""
        # Both are built here: what was built long before may have left the caches.
        first, again = (ignpx.methods.build(case[0], HELD[case[0]]) for _ in range(2))
        ignpx.unlearn(first, classifier, request_for(0), jax.random.key(0))
        compilations.clear()
        ignpx.unlearn(again, classifier, request_for(2), jax.random.key(5))
        assert compilations == []

    # Each transformation on one kind of model: what is compiled under it is compiled for it alone.
    @pytest.mark.parametrize(
        "case", [c for c in DATA_FREE if c[1] == "function"], ids="-".join, indirect=True
    )
    def test_data_free_methods_run_under_vmap(self, method, classifier):
        def forget(classes):
            return method.unlearn(classifier, Request(classes, ~classes), jax.random.key(0))[0]

        mapped = jax.vmap(forget)(jnp.eye(CLASSES, dtype=bool))
        for c in range(CLASSES):
            alone, _ = method.unlearn(classifier, request_for(c), jax.random.key(0))
            one = jax.tree.map(lambda leaf, c=c: leaf[c], mapped.params)
            assert_same_edit(classifier.params, alone.params, one)

    @pytest.mark.parametrize(
        "case", [c for c in DATA_FREE if c[1] == "nnx"], ids="-".join, indirect=True
    )
    def test_data_free_methods_run_under_jit(self, method, classifier):
        arguments = classifier, request_for(1).granted(method.sees), jax.random.key(0)
        alone, _ = method.unlearn(*arguments)
        jitted, _ = jax.jit(method.unlearn)(*arguments)
        assert_same_edit(classifier.params, alone.params, jitted.params)

    def test_samples(self, method, classifier):
        """Part of a class, or an error before anything runs."""
        request = Request.samples(CLASSES, samples(0), samples(1))
        if Forgets.SAMPLES in method.forgets:
            edited, _ = ignpx.unlearn(method, classifier, request, jax.random.key(0))
            assert bits(edited) != bits(classifier)
        else:
            with pytest.raises(ignpx.InvalidArgumentError, match="whole classes only"):
                ignpx.unlearn(method, classifier, request, jax.random.key(0))

    # Other shapes compile anew, so on the kind of model that is compiled soonest.
    @pytest.mark.parametrize("name", FORGET_SAMPLES)
    def test_a_single_sample(self, name):
        classifier = build("function")
        single = Samples(*(array[:1] for array in samples(0)))
        request = Request.samples(CLASSES, single, samples(1))
        edited, _ = ignpx.unlearn(built(name), classifier, request, jax.random.key(0))
        assert bits(edited) != bits(classifier)

    @pytest.mark.parametrize("name", WRITTEN_OUT)
    def test_finite_and_of_the_same_dtype(self, name):
        classifier = build("function")
        params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), classifier.params)
        edited, _ = ignpx.unlearn(
            built(name), classifier.replace(params=params), request_for(3), jax.random.key(0)
        )
        for leaf in jax.tree.leaves(edited.params):
            assert leaf.dtype == jnp.bfloat16
            assert np.all(np.isfinite(np.asarray(leaf, np.float32)))


def test_every_method_is_held_to_the_contract():
    assert set(QUICK) == set(METHODS)
