"""Receipts: equal bits here, a stated distance elsewhere, and one clear line for anything else."""

import copy
import functools
import json
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ignpx
import small_net
from command import run
from ignpx import InvalidArgumentError, methods
from ignpx.experiments import (
    Random,
    asking,
    checkpoint,
    environment,
    receipt,
    receipts,
    records,
    runs,
    verification,
    workdir,
)
from ignpx.experiments import config as configuration

CONFIG = {
    "dataset": {"name": "digits"},
    "model": {"name": small_net.NAME},
    "training": {"epochs": 8, "batch_size": 128, "optimizer": "adam", "learning_rate": 3e-3},
}
IGNP = {"samples": 4, "steps": 20, "held_out": 2, "coverage": [0.02, 0.04], "within": "middle"}
verify = functools.partial(verification.verify, model=small_net.NAME)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A run of the smallest model that learns the digits."""
    directory = tmp_path_factory.mktemp("receipts") / "original"
    runs.train(configuration.parse(configuration.TrainConfig, CONFIG), directory)
    return directory


def unlearned(original, name, scenario, **options):
    directory = original.with_name(name)
    options = {"model": small_net.NAME, "score": False, **options}
    runs.unlearn(original, directory, scenario, **options)
    return directory


@pytest.fixture(scope="module")
def forgotten(original):
    return unlearned(original, "without_3", 3, settings=IGNP, score=True)


def edited(forgotten, path, **changes):
    """A sealed receipt with other values: what somebody makes who knows how."""
    values = {**receipt(forgotten), **changes}
    path.write_text(json.dumps(records.sealed(values)))
    return path


def test_what_a_receipt_holds(original, forgotten):
    found = receipt(forgotten)
    before, _ = checkpoint.load(original / "checkpoint", model=small_net.NAME)
    after, _ = checkpoint.load(forgotten / "checkpoint", model=small_net.NAME)
    assert found["before"]["sha256"] == checkpoint.digest({"params": before.params, "state": {}})
    assert found["after"]["sha256"] == checkpoint.digest({"params": after.params, "state": {}})
    assert found["settings"] == receipts.as_json({**methods.defaults("ignp"), **IGNP})
    told = ("method", "forget", "class_names", "seed", "sees", "samples", "seen", "past")
    assert {name: found[name] for name in told} == {
        "method": "ignp",
        "forget": [3],
        "class_names": ["3"],
        "seed": 0,
        "sees": "nothing",
        "samples": None,
        "seen": {},
        "past": [],
    }
    assert found["versions"].keys() >= {"ignpx", "jax", "jaxlib", "flax", "optax", "numpy"}
    assert found["versions"]["python"] == sys.version.split()[0]
    assert found["device"]["platform"] == "cpu"
    assert found["seconds"].keys() >= {"synthesis", "compile"}
    for layer in ("hidden", "out"):
        for name in ("w", "b"):
            old, new = (np.asarray(one.params[layer][name]) for one in (before, after))
            told = found["changed"].get(f"params/{layer}/{name}", {"changed": 0})
            assert told["changed"] == (old != new).sum()
            if told["changed"]:
                largest = np.abs(new.astype(float) - old).max() / np.abs(old).max()
                assert told["of"] == old.size
                assert told["largest"] == pytest.approx(largest, rel=1e-12)
    assert sum(one["changed"] for one in found["changed"].values()) > 0


def test_a_sketch_estimates_the_length_of_a_difference():
    """Unbiased, with the standard deviation that is stated: by 200 pairs of random changes."""
    rng = np.random.default_rng(0)
    ratios = []
    for _ in range(200):
        first, second = rng.normal(size=(2, 3000)) * (rng.random((2, 3000)) < 0.1)
        places = np.sort(rng.choice(10**9, 3000, replace=False))
        between = receipts._sketch(places, first) - receipts._sketch(places, second)
        ratios.append(np.sum(between**2) / np.sum((first - second) ** 2))
    spread = (2 / receipts.SKETCHED) ** 0.5
    assert abs(np.mean(ratios) - 1) < 4 * spread / 200**0.5
    assert np.std(ratios) < 1.25 * spread  # 1.25: five standard errors of 200 draws


def test_the_sums_of_a_sketch_are_those_of_any_other_version():
    """SplitMix64's published first outputs for the seed 0, which are hashes of 0, G and 2 G."""
    gamma = 0x9E3779B97F4A7C15
    places = np.array([0, gamma, 2 * gamma % 2**64], np.uint64)
    words = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    for place, word in zip(places, words, strict=True):
        sums = receipts._sketch(np.array([place]), np.ones(1))
        assert np.flatnonzero(sums).tolist() == [(word >> 32) % receipts.SKETCHED]
        assert sums.sum() == (1 if word & 1 else -1)


@pytest.mark.parametrize(
    ("scenario", "options"),
    [
        (3, {"settings": IGNP}),
        (Random(30, seed=2), {"method": "finetune", "settings": {"epochs": 1}}),
        (2, {"method": "retrain", "settings": {"recipe.epochs": 2}}),
    ],
)
def test_the_same_bits_come_again(original, scenario, options, request):
    directory = unlearned(original, request.node.name, scenario, **options)
    found = verify(directory / "receipt.json", original, unlearned=directory)
    assert (found.matches, found.exactly, found.elsewhere) == (True, True, ()), found.said
    if options.get("method") == "retrain":
        recipe = receipt(directory)["settings"]["recipe"]
        assert recipe == {**receipts.as_json(training_of(original)), "epochs": 2}
        assert receipt(directory)["seen"].keys() == {"retain"}


def training_of(original):
    return checkpoint.load_config(original / "checkpoint")["training"]


def test_the_same_bits_come_from_what_was_prepared(original):
    copied = shutil.copytree(original, original.with_name("copied"))
    ignpx.experiments.prepare(copied, settings=IGNP, model=small_net.NAME)
    directory = unlearned(copied, "prepared", 3, settings=IGNP)
    assert receipt(directory)["prepared"]
    assert verify(directory, original).exactly


def test_what_was_forgotten_before_is_part_of_it(original, forgotten):
    directory = unlearned(forgotten, "without_3_and_4", 4, settings=IGNP)
    assert receipt(directory)["past"][0]["forget"] == [3]
    assert verify(directory, forgotten).exactly
    with pytest.raises(InvalidArgumentError, match=r"^original=.*its unlearning is \[\]"):
        verify(directory, original)


def nudged(directory, out, layer, **fields):
    """The checkpoint of a run with one weight in the last bit above."""
    classifier, config = checkpoint.load(directory / "checkpoint", model=small_net.NAME)
    params = copy.deepcopy(classifier.params)
    weights = np.array(params[layer]["w"])
    weights[0, 0] = np.nextafter(weights[0, 0], np.float32(np.inf))
    params[layer]["w"] = jnp.asarray(weights)
    checkpoint.save(out, classifier.replace(params=params, **fields), config)
    return out


def test_a_changed_weight_is_found_and_its_layer_named(original, forgotten, tmp_path):
    changed = nudged(forgotten, tmp_path / "changed", "out")
    found = verify(forgotten, original, unlearned=changed)
    assert (found.matches, found.arrays) == (False, ("params/out/w",))
    assert "params/out/w" in found.said
    other = nudged(original, tmp_path / "other", "hidden")
    with pytest.raises(InvalidArgumentError, match=r"^original=.*params/hidden/w differ"):
        verify(forgotten, other)


def test_a_changed_weight_is_found_where_its_receipt_was_made_of_it(original, forgotten, tmp_path):
    classifier, _ = checkpoint.load(
        nudged(forgotten, tmp_path / "changed", "out"), model=small_net.NAME
    )
    forged = edited(forgotten, tmp_path / "forged.json", after=receipts._digests(classifier))
    found = verify(forged, original)
    assert (found.matches, found.exactly, found.arrays) == (False, False, ("params/out/w",))


def test_what_is_said_of_a_change_is_verified(original, forgotten, tmp_path):
    told = receipt(forgotten)
    for name, value in (
        ("changed", {**told["changed"], "params/out/b": {"changed": 1, "of": 10, "largest": 1.0}}),
        ("sketch", [0.0] * receipts.SKETCHED),
    ):
        found = verify(edited(forgotten, tmp_path / "r.json", **{name: value}), original)
        assert (found.matches, found.exactly) == (False, True)
        assert f"its field {name} is not what they give" in found.said
    after = {**told["after"], "sha256": "0" * 64}
    with pytest.raises(InvalidArgumentError, match=r"after: sha256 is not that of arrays"):
        verify(edited(forgotten, tmp_path / "r.json", after=after), original)


def test_another_seed_and_another_setting_are_found(original, forgotten, tmp_path):
    other = edited(forgotten, tmp_path / "seed.json", seed=1)
    assert not verify(other, original).matches
    settings = {**receipt(forgotten)["settings"], "strength": 9.0}
    other = edited(forgotten, tmp_path / "setting.json", settings=settings)
    assert not verify(other, original).matches


@pytest.fixture
def elsewhere(monkeypatch):
    """Another processor, as far as a name goes."""
    monkeypatch.setattr(environment, "_processor", lambda: "another one")


def test_the_last_bits_may_differ_elsewhere(original, forgotten, tmp_path, elsewhere):
    """The change that another processor may have made: one of an original off in its last bits."""
    found = verify(forgotten, original)
    assert (found.matches, found.exactly) == (True, True)
    assert found.elsewhere == (
        f"processor is 'another one' here, {receipt(forgotten)['device']['processor']!r} in the "
        "receipt",
    )
    before, _ = checkpoint.load(original / "checkpoint", model=small_net.NAME)
    off = verification.rounded(before, draw=100)
    request = ignpx.Request.classes([3], 10)
    after, _ = ignpx.unlearn(methods.build("ignp", IGNP), off, request, jax.random.key(0))
    _, sketch = receipts.changes(off, after)
    made = {"after": receipts._digests(after), "sketch": sketch.tolist()}
    found = verify(edited(forgotten, tmp_path / "off.json", **made), original)
    assert (found.matches, found.exactly) == (True, False), found.said
    assert 0 < found.distance <= verification.MARGIN * found.rounding
    assert "within rounding" in found.said


def test_a_new_model_is_perturbed_where_it_starts(original, tmp_path):
    """Retraining does not depend on the weights of the original."""
    asked = {"method": "retrain", "settings": {"recipe.epochs": 1}}
    directory = unlearned(original, "retrained", 2, **asked)
    loaded = checkpoint.load(original / "checkpoint", model=small_net.NAME)
    what = asking.ask(original, loaded, 2, **asked)
    off = verification._rounded_anew(loaded[0], 100)
    after, _ = ignpx.unlearn(what.chosen, off, asking.request_of(what)[0], jax.random.key(0))
    _, sketch = receipts.changes(loaded[0], after)
    device = {**environment.device(), "processor": "another one"}
    made = {"after": receipts._digests(after), "sketch": sketch.tolist(), "device": device}
    found = verify(edited(directory, tmp_path / "off.json", **made), original)
    assert (found.matches, found.exactly) == (True, False), found.said
    assert 0 < found.distance <= verification.MARGIN * found.rounding < 0.01


def test_more_than_the_last_bits_may_not_differ_elsewhere(original, forgotten, tmp_path, elsewhere):
    """Another seed, and another class: the changes have little in common."""
    for name, options in (("seed", {"seed": 1}), ("class", {"scenario": 4})):
        options = {"scenario": 3, "settings": IGNP, **options}
        other = receipt(unlearned(original, f"other_{name}", **options))
        made = {one: other[one] for one in ("after", "sketch", "changed")}
        found = verify(edited(forgotten, tmp_path / f"{name}.json", **made), original)
        assert not found.matches
        assert found.distance > verification.MOST
        assert "it does not match" in found.said


def test_a_change_that_is_claimed_and_not_found_is_a_mismatch_elsewhere():
    """Where nothing changes here, no distance is small beside the change."""
    classifier = small_net.small((8, 8, 1), 10, 0)
    held = types.SimpleNamespace(sketch=np.ones(receipts.SKETCHED))
    compared = verification._compared(held, classifier, classifier, lambda model: model)
    assert compared == (1.0, 0.0)
    assert not verification._judged(*compared)[0]
    held = types.SimpleNamespace(sketch=np.zeros(receipts.SKETCHED))
    assert verification._compared(held, classifier, classifier, lambda model: model) == (0.0, 0.0)


def test_a_change_of_the_sign_of_zero_is_a_change():
    classifier = small_net.small((8, 8, 1), 10, 0)
    zero = jax.tree.map(np.zeros_like, classifier.params)
    before, after = (classifier.replace(params=jax.tree.map(np.copy, zero)) for _ in range(2))
    after.params["out"]["b"][3] = -0.0
    found, sketch = receipts.changes(before, after)
    assert found == {"params/out/b": {"changed": 1, "of": 10, "largest": None}}
    assert not sketch.any()
    assert checkpoint.digest(after.params) != checkpoint.digest(before.params)


def test_nothing_is_told_where_rounding_moves_everything():
    matches, said = verification._judged(0.8, 0.2)
    assert not matches
    assert "cannot be told" in said
    assert verification._judged(0.3, 0.1)[0]
    assert not verification._judged(0.5, 0.1)[0]
    assert "does not match" in verification._judged(0.6, 0.05)[1]


def test_a_receipt_without_the_instructions_of_this_processor(original, forgotten, tmp_path):
    """SSE4.2 alone adds products in another order than what a processor of today has."""
    script = (
        "import sys, small_net; from ignpx.experiments import verify\n"
        "found = verify(*sys.argv[1:], model=small_net.NAME)\n"
        "print(found); sys.exit(not found.matches)"
    )
    flags = f"{os.environ['XLA_FLAGS']} --xla_cpu_max_isa=SSE4_2"
    places = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", script, forgotten, original],
        env={**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": places},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "xla_flags is" in done.stdout


def test_receipts_that_cannot_be_read(original, forgotten, tmp_path):
    path = tmp_path / "receipt.json"
    text = (forgotten / "receipt.json").read_text()
    newer = json.dumps(
        {
            **json.loads(text),
            "ignpx": {"kind": "receipt", "format": 2},
            "versions": {"ignpx": "9.1.0"},
        }
    )
    for content, said in (
        (text.replace('"seed": 0', '"seed": 1'), "is damaged"),
        (text[:-100], "is not JSON"),
        (newer, r"format 2 of ignpx 9\.1\.0"),
        (json.dumps({"accuracy": 1.0}), "is no receipt"),
        ("[]", "is no receipt"),
    ):
        path.write_text(content)
        with pytest.raises(InvalidArgumentError, match=f"^receipt=.*{said}"):
            verify(path, original)
    with pytest.raises(InvalidArgumentError, match=r"^receipt=.*there is no such file"):
        verify(tmp_path / "none.json", original)
    with pytest.raises(InvalidArgumentError, match=r"^receipt=.*sketch"):
        verify(edited(forgotten, path, sketch="none"), original)


def test_another_original(original, forgotten, tmp_path):
    classifier, config = checkpoint.load(original / "checkpoint", model=small_net.NAME)
    fewer = small_net.small(classifier.input_shape, 5, 0).replace(preprocess=classifier.preprocess)
    checkpoint.save(tmp_path / "fewer", fewer, config)
    with pytest.raises(
        InvalidArgumentError, match=r"^original=.*num_classes is 5, the receipt has 10"
    ):
        verify(forgotten, tmp_path / "fewer")
    checkpoint.save(tmp_path / "targets", classifier.replace(targets=("out",)), config)
    with pytest.raises(InvalidArgumentError, match=r"^original=.*targets is \('out',\)"):
        verify(forgotten, tmp_path / "targets")


def test_other_data(original, tmp_path):
    directory = unlearned(original, "finetuned", 3, method="finetune", settings={"epochs": 1})
    found = receipt(directory)
    assert found["seen"]["retain"]["count"] > 1000
    seen = {"retain": {"count": found["seen"]["retain"]["count"], "sha256": "0" * 64}}
    with pytest.raises(InvalidArgumentError, match=r"^original=.*seen is .*the receipt has"):
        verify(edited(directory, tmp_path / "r.json", seen=seen), original)


def test_a_method_that_is_not_here(original, forgotten, tmp_path):
    versions = {**receipt(forgotten)["versions"], "ignpx": "0.0.1", "their-package": "1.2"}
    other = edited(forgotten, tmp_path / "r.json", method="drop-logit", versions=versions)
    with pytest.raises(InvalidArgumentError, match=r"^receipt=.*method='drop-logit'") as caught:
        verify(other, original)
    assert "their-package is None here, '1.2' in the receipt" in str(caught.value)
    assert "'0.0.1' in the receipt" in str(caught.value)
    settings = {**receipt(forgotten)["settings"], "of_tomorrow": 1}
    other = edited(forgotten, tmp_path / "r.json", settings=settings)
    with pytest.raises(InvalidArgumentError, match=r"^receipt=.*settings='of_tomorrow'"):
        verify(other, original)


def test_runs_without_a_receipt(original, forgotten, tmp_path):
    for directory, said in (
        (original, "forgot nothing"),
        (tmp_path / "none", "holds no finished run"),
        (tmp_path, "holds no finished run"),
    ):
        with pytest.raises(InvalidArgumentError, match=f"^directory=.*{said}"):
            receipt(directory)
    copied = shutil.copytree(forgotten, tmp_path / "copied")
    (copied / workdir.RECEIPT).unlink()
    with pytest.raises(InvalidArgumentError, match=r"^directory=.*kept no receipts"):
        receipt(copied)


def test_a_run_with_another_checkpoint(forgotten, tmp_path):
    copied = shutil.copytree(forgotten, tmp_path / "copied")
    shutil.rmtree(copied / "checkpoint")
    nudged(forgotten, copied / "checkpoint", "out")
    with pytest.raises(InvalidArgumentError, match=r"^directory=.*params/out/w differs"):
        receipt(copied)


def test_the_commands(original, forgotten, tmp_path):
    out = tmp_path / "folder" / "receipt.json"
    status, printed = run("receipt", forgotten, "--out", out)
    assert (status, str(out) in printed) == (0, True), printed
    assert out.read_text() == (forgotten / "receipt.json").read_text()
    assert run("receipt", forgotten, "--out", out)[0] == 2
    assert run("receipt", forgotten, "--out", out, "--overwrite")[0] == 0
    named = ("--model", small_net.NAME)
    status, printed = run("verify", out, original, "--unlearned", forgotten, *named)
    assert (status, "matches bit for bit" in printed) == (0, True), printed
    status, printed = run("verify", edited(forgotten, out, seed=1), original, *named)
    assert (status, "does not match" in printed) == (1, True), printed
    assert run("verify", out, forgotten, *named)[0] == 2
