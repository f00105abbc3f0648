"""Draw configs, overrides, requests and models, most of them nearly right, and count what comes.

    python scripts/fuzz.py

Each case has to give a valid result or one clear error of `ignpx` that names the argument, and
none of JAX's, NumPy's, pydantic's or YAML's; what has to be refused must not be accepted, nor the
other way round. `results/fuzz.json` has the counts by subject; the status is 1 after a failure.
"""

import collections
import json
import pathlib
import sys
import time
import traceback
from collections.abc import Callable
from typing import Annotated, Any

import hypothesis
import jax
import numpy as np
import pydantic
import typer
from rich.console import Console

import ignpx
from fuzzing import configs, models, requests
from fuzzing.subject import Subject, judge

console = Console()
SUBJECTS = [*configs.SUBJECTS, *requests.SUBJECTS, *models.SUBJECTS]


def drawn(subject: Subject, cases: int, seed: int, see: Callable[[Any], None]) -> None:
    """Calls `see` with cases of a subject."""

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=cases,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],
    )
    @hypothesis.given(subject.cases)
    def run(case: Any) -> None:
        see(case)

    run()


class Count:
    """The cases of a subject: how many were valid, refused or failed, and an example of each."""

    def __init__(self, subject: Subject, tell: Callable[[str], None]):
        self.found: collections.Counter[str] = collections.Counter()
        self._subject = subject
        self._tell = tell
        self._told: set[str] = set()

    def __call__(self, case: Any) -> None:
        """Judges one case."""
        try:
            self.found[judge(self._subject, case)] += 1
        except Exception as error:  # of any kind: that is what is looked for
            self.found["failed"] += 1
            last = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{type(error).__name__} {pathlib.Path(last.filename).name}:{last.lineno}"
            if isinstance(error, AssertionError):
                place += str(error)[:40]
            if place not in self._told:
                self._told.add(place)
                said = " ".join(str(error).split())[:200]
                shown = " ".join(repr(case).split())[:200]
                self._tell(f"{self._subject.name} | {shown} | {type(error).__name__}: {said}")


def main(
    out: Annotated[pathlib.Path, typer.Option(help="Where the counts go.")] = pathlib.Path(
        "results/fuzz.json"
    ),
    cases: Annotated[int, typer.Option(help="In all.")] = 10_000,
    subject: Annotated[
        list[str] | None, typer.Option(help="Only this subject. May be repeated.")
    ] = None,
    seed: int = 0,
) -> None:
    """Runs all subjects and writes the counts."""
    begin = time.perf_counter()
    rows = {}
    for one in SUBJECTS:
        if subject and one.name not in subject:
            continue
        count = Count(one, lambda text: console.print(text, markup=False, soft_wrap=True))
        drawn(one, round(one.share * cases), seed, count)
        found = count.found
        rows[one.name] = {
            "cases": found.total(),
            **{name: found[name] for name in ("valid", "refused", "failed")},
        }
        console.print(f"{one.name}: {rows[one.name]}", markup=False, soft_wrap=True)
    totals = {
        name: sum(row[name] for row in rows.values())
        for name in ("cases", "valid", "refused", "failed")
    }
    versions = {
        "ignpx": ignpx.__version__,
        "jax": jax.__version__,
        "numpy": np.__version__,
        "pydantic": pydantic.VERSION,
        "hypothesis": hypothesis.__version__,
    }
    command = " ".join(["python", *sys.argv])
    result = {"command": command, "seed": seed, "versions": versions, **totals, "subjects": rows}
    out.write_text(json.dumps(result, indent=2) + "\n")
    console.print(f"{totals} in {time.perf_counter() - begin:.0f} s; {out}", markup=False)
    raise typer.Exit(totals["failed"] > 0)


if __name__ == "__main__":
    typer.run(main)
