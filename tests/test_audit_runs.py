"""`ignpx audit` on small runs of the digits: its two files, and what it says to bad input."""

import json
import re
import shutil

import jax
import pytest

from command import run
from ignpx import InvalidArgumentError, experiments
from ignpx.experiments import audit_page, audits, checkpoint, records, workdir

CONFIG = """
dataset: {name: digits}
model: {name: lenet}
training: {epochs: 4, batch_size: 64, optimizer: adam, learning_rate: 4.0e-3}
"""
QUICK = {"samples": 4, "steps": 20, "held_out": 2}
ATTACKS = ["forget-accuracy", "total-variation", "backdoor"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """An original, one that has forgotten 3 by IGNP, and three that were retrained without it."""
    root = tmp_path_factory.mktemp("audits")
    (root / "digits.yaml").write_text(CONFIG)
    experiments.train(root / "digits.yaml", root / "original")
    experiments.unlearn(root / "original", root / "run", 3, settings=QUICK, score=False)
    for seed in (1, 2):
        experiments.train(
            root / "digits.yaml", root / f"retrained{seed}", overrides=[f"seed={seed}"], without=[3]
        )
    experiments.unlearn(
        root / "original", root / "retrained3", 3, method="retrain", seed=3, score=False
    )
    return root


@pytest.fixture(scope="module")
def written(runs):
    attacks = [part for name in ATTACKS for part in ("--attack", name)]
    retrained = [part for n in (1, 2, 3) for part in ("--retrain", runs / f"retrained{n}")]
    status, printed = run(
        "audit", runs / "run", "--original", runs / "original", *retrained, *attacks
    )
    assert status == 0, printed
    return printed


def test_writes_two_files_into_the_run(runs, written):
    assert re.search(r"Total variation: (Can|Says|Differs)", written)
    assert "Attacks that tell the unlearned model from a retrained one:" in written
    assert str(runs / "run" / "audit.html") in written
    record = audits.read(runs / "run")
    assert [one.name for one in record.attacks] == ATTACKS
    assert record.forgotten == "class 3"
    assert record.steps[0].sees == "nothing"
    assert record.dataset["name"] == "digits"
    assert [one.seed for one in record.retrained] == [1, 2, 3]
    assert record.samples["forget_test"] == 37
    assert re.fullmatch(r"2\d{3}-\d\d-\d\d \d\d:\d\d UTC", record.unlearned)
    first, second, third = record.attacks
    assert (first.compared_with, second.compared_with) == (3, 2)
    assert first.model.value == pytest.approx(0, abs=0.1)
    assert third.outcome == "withheld"
    assert "backdoor" in third.reasons["model"]
    assert "logit-ranking" in record.left_out


def test_the_page_stands_alone(runs, written):
    page = (runs / "run" / "audit.html").read_text()
    assert page == audit_page.render(audits.read(runs / "run"))
    assert not re.search(r"https?:|//[a-z]|<script|@import|url\(", page)
    assert "default-src 'none'" in page
    record = audits.read(runs / "run")
    for said in (record.verdict, record.forgotten, *(one.title for one in record.attacks)):
        assert said in page
    assert "no training data" in page


def test_the_page_escapes_everything(runs, written):
    record = audits.read(runs / "run")
    hostile = '"><script>alert(1)</script>'
    attack = record.attacks[0].model_copy(
        update={
            "title": hostile,
            "what": hostile,
            "verdict": hostile,
            "reasons": {hostile: hostile},
        }
    )
    changed = record.model_copy(
        update={
            "title": hostile,
            "forgotten": hostile,
            "doubts": (hostile,),
            "dataset": {hostile: hostile},
            "attacks": (attack,),
            "verdict": hostile,
            "versions": {hostile: hostile},
        }
    )
    assert "<script" not in audit_page.render(changed)


def test_a_value_is_drawn_where_it_is():
    found = {"low": None, "high": None}
    attack = records.StoredAttack(
        name="steps",
        title="Steps",
        what="",
        unit="steps",
        range=(0.0, None),
        original=records.StoredFinding(value=0.0, **found),
        model=records.StoredFinding(value=20.0, **found),
        retrained=(records.StoredFinding(value=10.0, **found),),
        reasons={},
        outcome="withheld",
        compared_with=1,
        expected=None,
        share=None,
        verdict="",
    )
    drawn = audit_page.row(attack)
    assert drawn.ends == ("0", "20")
    assert (drawn.original.x, drawn.retrained[0].x, drawn.model.x) == (2, 50, 98)
    share = audit_page.row(attack.model_copy(update={"range": (0.0, 1.0)}))
    assert share.ends is None
    assert (share.original.x, share.model.x) == (2, 98)
    assert audit_page.row(attack.model_copy(update={"original": None})).original is None


def test_audits_again_in_place_and_elsewhere(runs, written, tmp_path):
    audits.audit(
        runs / "run", original=runs / "original", attacks=["forget-accuracy"], out=tmp_path / "new"
    )
    record = audits.read(tmp_path / "new")
    assert record.verdict.startswith("Verdict withheld: no retrained model")
    assert sorted(one.name for one in (tmp_path / "new").iterdir()) == ["audit.html", "audit.json"]
    again = {"original": runs / "original", "out": tmp_path / "new"}
    audits.audit(runs / "run", attacks=["mia"], **again)
    assert [one.name for one in audits.read(tmp_path / "new").attacks] == ["mia"]
    # The run may still be replaced, and its audit with it.
    settings = {"settings": QUICK, "score": False}
    copy = tmp_path / "copy"
    shutil.copytree(runs / "run", copy)
    experiments.unlearn(runs / "original", copy, 3, overwrite=True, **settings)
    assert not (copy / "audit.json").exists()


def test_a_retraining_can_be_audited(runs, tmp_path):
    record = audits.audit(
        runs / "retrained1",
        original=runs / "original",
        retrained=[runs / "retrained2", runs / "retrained3"],
        attacks=["forget-accuracy"],
        out=tmp_path,
    )
    assert record.steps[0].method == "retrain"
    assert record.steps[0].sees == "retain"
    assert record.attacks[0].outcome != "told"


@pytest.fixture(scope="module")
def others(runs):
    """Runs that do not fit: of another seed, without another class, a copy, of other data."""
    config = runs / "digits.yaml"
    brief = ["training.epochs=1"]
    experiments.train(config, runs / "seed5", overrides=[*brief, "seed=5"])
    experiments.train(config, runs / "without4", overrides=brief, without=[4])
    experiments.train(config, runs / "longer", overrides=[*brief, "seed=1"], without=[3])
    experiments.train(config, runs / "small", overrides=[*brief, "model.width=0.5"])
    shutil.copytree(runs / "retrained1", runs / "copy")
    # As the original says it is, and with other parameters.
    shutil.copytree(runs / "original", runs / "feigned")
    place = runs / "feigned" / "checkpoint"
    classifier, said = checkpoint.load(place)
    changed = jax.tree.map(lambda leaf: leaf + 1, classifier.params)
    checkpoint.save(place, classifier.replace(params=changed), said, overwrite=True)
    return runs


BAD: dict[str, tuple[str, str, list[int | str], str]] = {
    "nothing forgotten": ("seed5", "original", [], "directory=.*has forgotten nothing"),
    "no run": ("nothing", "original", [], "directory=.*nothing"),
    "the run itself as original": ("run", "run", [], "original=.*is given twice"),
    "another original": ("run", "seed5", [], "original=.*is not what .* was unlearned from"),
    "later than the run": ("run", "without4", [], "original=.*is not what"),
    "another model in its name": ("run", "feigned", [], "original=.*by its receipt"),
    "one retrained model twice": ("run", "original", [1, 1], "retrained=.*is given twice"),
    "a copy of it": ("run", "original", [1, "copy"], "retrained=.*has the parameters of"),
    "not retrained": ("run", "original", ["seed5"], "retrained=.*is no retrained model"),
    "one seed twice": ("run", "original", [1, "longer"], "retrained=.*has seed 1, as .*retrained1"),
    "without another class": ("run", "original", ["without4"], "trained without class 4"),
    "another model": ("run", "original", ["small"], "is of another model.*width"),
}


@pytest.mark.parametrize("named", BAD)
def test_what_cannot_be_audited(named, others, tmp_path):
    run, original, retrained, message = BAD[named]
    names = [one if isinstance(one, str) else f"retrained{one}" for one in retrained]
    with pytest.raises(InvalidArgumentError, match=message):
        audits.audit(
            others / run,
            original=others / original,
            retrained=[others / name for name in names],
            attacks=["forget-accuracy"],
            out=tmp_path / "out",
        )
    assert not (tmp_path / "out").exists()


def test_a_judge_knows_all_classes(others):
    with pytest.raises(InvalidArgumentError, match=r"judge=.*has forgotten class 4"):
        audits.audit(others / "run", original=others / "original", judge=others / "without4")


def test_what_its_figures_hang_on_is_recorded(others, tmp_path):
    """The judge, and the settings of a retraining."""
    settings = {"recipe.epochs": 1}
    experiments.unlearn(
        others / "original", tmp_path / "brief", 3, method="retrain", settings=settings, score=False
    )
    record = audits.audit(
        others / "run",
        original=others / "original",
        retrained=[tmp_path / "brief"],
        judge=others / "seed5",
        attacks=["forget-accuracy"],
        out=tmp_path / "out",
    )
    assert record.retrained[0].settings == settings
    assert record.judge is not None
    assert record.judge.seed == 5
    page = (tmp_path / "out" / "audit.html").read_text()
    assert "recipe.epochs=1, seed 0" in page
    assert re.search(r"Judge of re-synthesis</dt><dd><code>.*seed5</code>, seed 5", page)


def test_an_audit_that_was_cut_off_is_made_again(runs, tmp_path, monkeypatch):
    given = {"original": runs / "original", "attacks": ["forget-accuracy"], "out": tmp_path / "out"}
    write, texts = workdir.write_text, []

    def cut(path, text):
        if path.name.startswith("audit"):
            texts.append(path.name)
        if len(texts) == 2:
            raise KeyboardInterrupt
        write(path, text)

    monkeypatch.setattr(workdir, "write_text", cut)
    with pytest.raises(KeyboardInterrupt):
        audits.audit(runs / "run", **given)
    monkeypatch.undo()
    audits.audit(runs / "run", **given)
    assert sorted(one.name for one in (tmp_path / "out").iterdir()) == ["audit.html", "audit.json"]


def test_files_of_others_are_left_alone(runs, tmp_path):
    given = {"original": runs / "original", "attacks": ["forget-accuracy"]}
    (tmp_path / "audit.json").write_text("{}")
    with pytest.raises(InvalidArgumentError, match="is no audit by ignpx"):
        audits.audit(runs / "run", out=tmp_path, **given)
    assert (tmp_path / "audit.json").read_text() == "{}"
    with pytest.raises(InvalidArgumentError, match="is a file"):
        audits.audit(runs / "run", out=tmp_path / "audit.json", **given)


def test_a_changed_record_is_not_read(runs, written, tmp_path):
    values = json.loads((runs / "run" / "audit.json").read_text())
    values["attacks"][0]["outcome"] = "told"
    (tmp_path / "audit.json").write_text(json.dumps(values))
    with pytest.raises(InvalidArgumentError, match="damaged"):
        audits.read(tmp_path)
    del values["sha256"]
    newer = records.sealed({**values, "ignpx": {"kind": "audit", "format": 2}})
    (tmp_path / "audit.json").write_text(json.dumps(newer))
    with pytest.raises(InvalidArgumentError, match="another version"):
        audits.read(tmp_path)


def test_quick_and_names_do_not_go_together(runs):
    status, printed = run(
        "audit", runs / "run", "--original", runs / "original", "--quick", "--attack", "mia"
    )
    assert status == 2
    assert "does not go with --attack" in printed
