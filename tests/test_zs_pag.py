"""ZS-PAG as a whole against numpy, its proxies, its ablations and its failures."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import ignpx
from ignpx import (
    Classifier,
    InvalidArgumentError,
    Request,
    Samples,
    UnlearningError,
    UnlearningWarning,
    adversarial,
    descent,
)
from ignpx.methods import zs_pag
from ignpx.methods.zs_pag import Solved

CLASSES = 4
QUICK = {
    "epsilon": 3.0,
    "step_size": 0.3,
    "attack_steps": 12,
    "per_class": 5,
    "energy": 0.6,
    "solver_iterations": 5,
    "epochs": 3,
    "batch_size": 4,
}


def forget_set(count=9, label=0, seed=0):
    images = np.random.default_rng(seed).normal(size=(count, 6)).astype(np.float32)
    return Samples(images, np.full(count, label, np.int32))


def request(forget=None, classes=(0,)):
    return Request.classes(classes, CLASSES, forget_data=forget_set() if forget is None else forget)


def run(classifier, asked=None, seed=0, **settings):
    asked = request() if asked is None else asked
    return ignpx.unlearn(zs_pag(**QUICK | settings), classifier, asked, jax.random.key(seed))


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def sign_descent(mlp, x, target, epsilon, step_size, steps):
    @jax.jit
    def gradient(moved):
        log_p = lambda x: jax.nn.log_softmax(mlp.logits(x))  # noqa: E731
        return jax.grad(lambda m: -jnp.sum(log_p(m)[jnp.arange(len(x)), target]))(moved)

    moved = x
    for _ in range(steps):
        moved = moved - np.float32(step_size) * np.sign(np.asarray(gradient(moved)))
        moved = np.clip(moved, x - np.float32(epsilon), x + np.float32(epsilon))
    return moved


def merged(matrices, energy):
    """`(projection on the complement, closest that a share came to the threshold)`."""
    basis, nearest = np.zeros((len(matrices[0]), 0)), np.inf
    for matrix in matrices:
        vectors, values, _ = np.linalg.svd(matrix - basis @ (basis.T @ matrix))
        share = np.sum((basis.T @ matrix) ** 2) / np.sum(matrix**2)
        for vector, value in zip(vectors.T, values, strict=False):
            nearest = min(nearest, abs(share - energy))
            if share >= energy:
                break
            basis = np.column_stack([basis, vector])
            share += value**2 / np.sum(matrix**2)
    return np.eye(len(basis)) - basis @ basis.T, nearest


def test_equals_the_equations_in_numpy(mlp):
    x = forget_set().images
    energy, damping, penalty, rate, epochs = 0.6, 3.0, 0.4, 0.05, 4
    edited, info = run(
        mlp,
        energy=energy,
        damping=damping,
        penalty=penalty,
        learning_rate=rate,
        epochs=epochs,
        batch_size=100,
        solver_iterations=60,
    )

    # Proxies: Equations 1 and 2, then attacks on what is nearest to a class with fewer than 5.
    attack = functools.partial(sign_descent, mlp, epsilon=3.0, step_size=0.3, steps=12)
    logits = np.asarray(mlp.logits(x))
    moved = attack(x, logits[:, 1:].argmax(1) + 1)
    reached = np.asarray(mlp.logits(moved)).argmax(1)
    proxies = {}
    for k in (1, 2, 3):
        proxies[k] = list(moved[reached == k][:5])
        others = np.flatnonzero(reached != k)
        for i in others[np.argsort(logits[others, 0] - logits[others, k])]:
            if len(proxies[k]) == 5:
                break
            again = attack(x[i : i + 1], np.array([k]))
            if np.asarray(mlp.logits(again)).argmax() == k:
                proxies[k].append(again[0])
    counts = [0, *(len(found) for found in proxies.values())]
    np.testing.assert_array_equal(info.proxies, counts)
    assert info.crossed == np.mean(reached != 0)
    assert 0 < np.sum(reached == 1) < 9

    # Subspaces: Equations 3 to 5.
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), mlp.params)
    inputs = [np.array(found, np.float64) for found in proxies.values()]
    hidden = [np.tanh(part @ params["hidden"]["w"] + params["hidden"]["b"]) for part in inputs]
    projections, ranks = {}, {}
    for name, rows in (("hidden", inputs), ("out", hidden)):
        projections[name], nearest = merged([part.T for part in rows], energy)
        assert nearest > 1e-3  # rounding changes no rank
        ranks[f"{name}/w"] = round(len(projections[name]) - np.trace(projections[name]))
    assert info.ranks == ranks
    assert info.dimensions == {"hidden/w": 6, "out/w": 16}

    # Pseudo labels: Equation 10 with an explicit Hessian.
    flat, unravel = ravel_pytree(mlp.params)
    everything, classes = np.concatenate(inputs), np.repeat([1, 2, 3], counts[1:])

    def loss(flat, x, soft):
        log_p = jax.nn.log_softmax(mlp.replace(params=unravel(flat)).logits(x))
        return -jnp.mean(jnp.sum(soft * log_p, axis=1))

    operands = (flat, everything.astype(np.float32), np.eye(4, dtype=np.float32)[classes])
    gradient = np.asarray(jax.jit(jax.grad(loss))(*operands), np.float64)
    hessian = np.asarray(jax.jit(jax.hessian(loss))(*operands), np.float64)
    assert np.linalg.eigvalsh(hessian)[0] > -damping / 2
    direction = np.linalg.solve(hessian + damping * np.eye(len(flat)), gradient)
    jacobian = jax.jit(
        jax.jacobian(lambda f: jax.nn.log_softmax(mlp.replace(params=unravel(f)).logits(x)))
    )(flat)
    costs = np.asarray(jacobian, np.float64) @ direction
    costs /= np.sqrt(np.mean(costs**2))
    soft = np.zeros((9, 4))
    for i, cost in enumerate(costs):
        best = 1 + cost[1:].argmin()
        gain = cost[best] - cost[0]
        soft[i, best] = 1 if gain <= penalty else penalty / gain
        soft[i, 0] = 1 - soft[i, best]

    # The descent, of the kernels alone.
    expected = params
    of_batch = jax.jit(jax.grad(loss))
    for _ in range(epochs):
        now = ravel_pytree(jax.tree.map(jnp.float32, expected))[0]
        step = unravel(of_batch(now, x, soft.astype(np.float32)))
        for name, projection in projections.items():
            w = expected[name]["w"] - rate * projection @ np.asarray(step[name]["w"], np.float64)
            expected = expected | {name: expected[name] | {"w": w}}
    for name in projections:
        np.testing.assert_array_equal(edited.params[name]["b"], mlp.params[name]["b"])
        change = np.asarray(edited.params[name]["w"]) - params[name]["w"]
        wanted = expected[name]["w"] - params[name]["w"]
        assert np.max(np.abs(wanted)) > 1e-2
        np.testing.assert_allclose(change, wanted, atol=1e-4 * np.max(np.abs(wanted)) + 1e-6)


def proxies_of(classifier, samples, retain, per_class=5, attack="pgd"):
    run = functools.partial(adversarial.pgd, epsilon=3.0, step_size=0.3, steps=12)
    targeted = functools.partial(run, targeted=True)
    first = targeted if attack == "pgd" else adversarial.deepfool
    return adversarial.make_proxies(
        classifier,
        jnp.asarray(samples.images),
        samples.labels,
        retain,
        first=first,
        targeted=targeted,
        per_class=per_class,
        aims=attack == "pgd",
    )


@pytest.mark.parametrize("attack", ["pgd", "deepfool"])
def test_proxies_are_successes_of_retained_classes(mlp, attack):
    # The model does not look at the last value, so that no attack touches it: the sample's number.
    blind = mlp.params["hidden"]["w"].at[5].set(0.0)
    mlp = mlp.replace(params=mlp.params | {"hidden": mlp.params["hidden"] | {"w": blind}})
    images, labels = forget_set(12).images, np.tile([0, 1], 6).astype(np.int32)
    images[:, 5] = np.arange(12)
    retain = np.array([False, True, True, False])
    found = proxies_of(mlp, Samples(images, labels), retain, attack=attack)
    assert found.inputs.shape == (4, 5, 6)
    np.testing.assert_array_equal(found.weights, np.repeat(retain, 5).reshape(4, 5))
    for k in (1, 2):
        predicted = np.asarray(mlp.logits(found.inputs[k])).argmax(1)
        assert np.all(predicted == k)
        origin = found.inputs[k][:, 5].astype(int)
        # Each from another sample, and none from one of its own class.
        assert len(set(origin)) == 5
        assert np.all(labels[origin] != k)
        if attack == "pgd":
            assert np.max(np.abs(found.inputs[k] - images[origin])) <= 3.0 + 1e-5


def test_a_class_has_at_most_one_proxy_of_each_sample(mlp):
    found = proxies_of(mlp, forget_set(2), np.array([False, True, True, True]), per_class=100)
    assert found.inputs.shape == (4, 2, 6)
    assert found.weights.sum(1).max() <= 2


@pytest.mark.parametrize("attack", ["fgsm", "carlini_wagner", "deepfool"])
def test_other_attacks(mlp, attack):
    steps = {"fgsm": None, "carlini_wagner": 30, "deepfool": 20}[attack]
    edited, info = run(mlp, attack=attack, attack_steps=steps)
    assert np.all(info.proxies[1:] > 0)
    assert bits(edited) != bits(mlp)
    assert set(info.summary()) >= {"crossed", "proxies", "rank_of_dimension", "residual", "stopped"}


def test_random_subspaces_have_the_ranks_of_the_estimated_ones(mlp):
    (estimated, first), (random, second) = (run(mlp, subspace=s) for s in ("estimated", "random"))
    assert first.ranks == second.ranks
    assert any(0 < first.ranks[path] < first.dimensions[path] for path in first.ranks)
    assert bits(estimated) != bits(random)
    for tuned in (estimated, random):
        np.testing.assert_array_equal(tuned.params["hidden"]["b"], mlp.params["hidden"]["b"])


def test_momentum_and_many_steps_keep_to_the_complement(mlp):
    edited, info = run(mlp, momentum=0.9, epochs=8, learning_rate=0.1)
    change = np.asarray(edited.params["out"]["w"] - mlp.params["out"]["w"])
    # The rank of the update is what the subspace leaves.
    values = np.linalg.svd(change, compute_uv=False)
    assert np.sum(values > 1e-4 * values[0]) <= 16 - info.ranks["out/w"]
    change = np.asarray(edited.params["hidden"]["w"] - mlp.params["hidden"]["w"])
    values = np.linalg.svd(change, compute_uv=False)
    left = 6 - info.ranks["hidden/w"]
    assert 0 < left < 6
    assert np.all(values[left:] < 1e-5 * values[0])


def test_without_subspace_all_parameters_move(mlp):
    edited, info = run(mlp, subspace="none")
    assert not hasattr(info, "ranks")
    for name in ("hidden", "out"):
        assert np.all(np.any(np.asarray(edited.params[name]["b"]) != 0))


def test_random_labels_are_retained_and_need_no_proxies(mlp, monkeypatch):
    seen = []
    tune = descent.tune

    def spy(loss, optimizer, classifier, data, *rest):
        seen.append(np.asarray(data.labels))
        return tune(loss, optimizer, classifier, data, *rest)

    monkeypatch.setattr(descent, "tune", spy)
    forget = forget_set(40)
    forget = forget._replace(labels=np.repeat([0, 2], 20).astype(np.int32))
    asked = Request.classes([0], CLASSES, forgotten=[3], forget_data=forget)
    # Not by `ignpx.unlearn`, which refuses samples of class 2.
    method = zs_pag(**QUICK | {"subspace": "none", "pseudo_labels": False})
    _, info = method.unlearn(mlp, asked, jax.random.key(0))
    assert set(info.summary()) == {"first_loss", "last_loss"}
    (labels,) = seen
    np.testing.assert_array_equal(labels.sum(1), 1)
    np.testing.assert_array_equal(np.unique(labels[:20].argmax(1)), [1, 2])
    # Those of class 2 cannot keep it.
    np.testing.assert_array_equal(np.unique(labels[20:].argmax(1)), [1])


def test_an_attack_that_never_succeeds(mlp):
    asked = request()
    method = zs_pag(**QUICK | {"epsilon": 1e-6, "step_size": 1e-6})
    sure = mlp.replace(params=mlp.params | {"out": mlp.params["out"] | {"b": jnp.eye(4)[0] * 99}})
    with pytest.raises(UnlearningError, match="raise epsilon or attack_steps"):
        ignpx.unlearn(method, sure, asked, jax.random.key(0))


def test_a_class_out_of_reach_is_named(mlp):
    bias = jnp.array([0.0, 0, 0, -99])
    far = mlp.replace(params=mlp.params | {"out": mlp.params["out"] | {"b": bias}})
    with pytest.warns(UnlearningWarning, match=r"classes \[3\], which nothing protects"):
        _, info = run(far)
    assert info.proxies[3] == 0 < info.proxies[1]


def test_a_part_of_a_class_leaves_it_without_proxies(mlp):
    asked = Request.samples(CLASSES, forget_set(3))
    with pytest.warns(UnlearningWarning, match=r"classes \[0\]"):
        _, info = run(mlp, asked)
    assert np.all(info.proxies[1:] > 0)


def test_subspaces_that_fill_every_layer(mlp):
    with pytest.raises(UnlearningError, match=r"lower energy.*'hidden/w': '6 of 6'"):
        run(mlp, request(forget_set(30)), per_class=30, energy=1.0)


def test_a_model_without_layers():
    def scaled(params, x):
        return x * params["scale"]

    classifier = Classifier.from_function(
        scaled, {"scale": jnp.ones(4)}, input_shape=(4,), num_classes=CLASSES
    )
    samples = Samples(np.eye(4, dtype=np.float32)[:1], np.zeros(1, np.int32))
    asked = Request.classes([0], CLASSES, forget_data=samples)
    with pytest.raises(InvalidArgumentError, match="no dense or convolution layer"):
        run(classifier, asked)
    # Without subspaces it needs none.
    edited, _ = run(classifier, asked, subspace="none", pseudo_labels=False)
    assert bits(edited) != bits(classifier)


def test_a_linear_system_that_was_not_solved_is_doubted():
    for residual, stopped, doubted in ((1.5, False, True), (0.5, False, False), (1.5, True, False)):
        doubts = Solved(jnp.float32(residual), jnp.bool_(stopped)).doubts(request())
        assert ["raise damping" in doubt for doubt in doubts] == [True] * doubted


def test_a_descent_that_diverges(mlp):
    with pytest.raises(UnlearningError, match="diverged"):
        run(mlp, learning_rate=1e38)


@pytest.mark.parametrize(
    "bad",
    [
        {"attack": "noise"},
        {"subspace": "null"},
        {"epsilon": 0.0},
        {"step_size": -1.0},
        {"attack_steps": 0},
        {"per_class": 0},
        {"energy": 0.0},
        {"energy": 1.1},
        {"penalty": 0.0},
        {"damping": 0.0},
        {"solver_iterations": 0},
        {"learning_rate": 0.0},
        {"momentum": -0.1},
        {"epochs": 1.5},
        {"batch_size": 0},
    ],
)
def test_bad_arguments(bad):
    (name,) = bad
    with pytest.raises(InvalidArgumentError, match=f"{name}="):
        zs_pag(**bad)
