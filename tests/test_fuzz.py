"""A few hundred cases of `scripts/fuzz.py`, and what its judgement calls a failure."""

import json

import pytest
from hypothesis import strategies as st

import fuzz
from fuzzing.subject import AcceptedError, Subject, UnclearError, judge
from ignpx import InvalidArgumentError, UnlearningError

CASES = 500


@pytest.mark.parametrize("subject", fuzz.SUBJECTS, ids=lambda subject: subject.name)
def test_valid_or_one_clear_error(subject):
    # Another seed than that of the committed counts.
    cases = max(4, round(subject.share * CASES))
    fuzz.drawn(subject, cases, seed=18, see=lambda case: judge(subject, case))


def raising(error):
    def run(case):
        raise error

    return Subject("of a test", 0.001, st.integers(), run)


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (InvalidArgumentError("x", 3, "must be 4"), "refused"),
        (UnlearningError("ran and failed"), "refused"),
        (InvalidArgumentError("x", 3, "long " * 1000), UnclearError),
        (ValueError("of numpy"), ValueError),
        (AcceptedError("taken"), AcceptedError),
        (RuntimeWarning("of numpy"), RuntimeWarning),
    ],
)
def test_what_is_judged(error, found):
    if isinstance(found, str):
        assert judge(raising(error), 0) == found
    else:
        with pytest.raises(found):
            judge(raising(error), 0)


def test_failures_are_counted_and_told_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fuzz, "SUBJECTS", [raising(ValueError("of numpy"))])
    out = tmp_path / "fuzz.json"
    with pytest.raises(fuzz.typer.Exit) as exit:
        fuzz.main(out=out, cases=5000)
    assert exit.value.exit_code == 1
    found = json.loads(out.read_text())
    assert found["failed"] == found["cases"] == 5
    assert found["subjects"]["of a test"]["valid"] == 0
    assert capsys.readouterr().out.count("of numpy") == 1
