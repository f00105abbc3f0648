"""The paper's figures, and ours beside them."""

import importlib.resources
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ignpx.bench.summary import BASE, Quantity
from ignpx.errors import InvalidArgumentError, near_names

# Our names of what the paper knows by another. The first 20 classes of Tiny ImageNet stand in for
# all 200.
_METHODS = {"ignp-paper": "ignp"}
_DATASETS = {"tiny_imagenet_20": "tiny_imagenet"}


def read() -> pd.DataFrame:
    """The paper's figures: table, dataset, model, method, label, forget, quantity, value, std."""
    path = importlib.resources.files("ignpx.bench") / "published.csv"
    with path.open(encoding="utf-8") as file:
        return pd.read_csv(file, dtype={"label": str, "forget": str})


def check(tables: str | Sequence[str] | None, paper: pd.DataFrame) -> list[str]:
    """The names of tables of the paper, as a list.

    Raises:
      InvalidArgumentError: if the paper has no such table.
    """
    named = [tables] if isinstance(tables, str) else list(tables or [])
    known = set(paper["table"])
    for table in named:
        if table not in known:
            raise InvalidArgumentError("published", table, near_names(table, known))
    return named


def compare(
    summary: pd.DataFrame,
    paper: pd.DataFrame,
    tables: str | Sequence[str] | None,
    known: Mapping[str, Quantity] = BASE,
) -> pd.DataFrame:
    """Ours beside the paper's.

    A row of ours meets the paper's by dataset, model, method, forget and quantity. What the paper
    has at several settings (its label is not the method) must agree in the label too. Where several
    tables have the figure, the first that is named counts.

    Args:
      summary: of `summarise`, `over_classes`, or both.
      paper: of `read`.
      tables: which of the paper's tables; None for none.
      known: the quantities.

    Returns:
      `summary` with table, published, published_std, and difference: ours minus theirs, in points
      (per cent), or in seconds for times. They are nan where the paper has no such figure.

    Raises:
      InvalidArgumentError: if the paper has no such table.
    """
    theirs: dict[tuple[Any, ...], Any] = {}
    for table in check(tables, paper):
        for row in paper[paper["table"] == table].itertuples():
            key = (row.dataset, row.model, row.method, row.label, row.forget, row.quantity)
            theirs.setdefault(key, row)

    def find(ours: Any) -> tuple[str, float, float]:
        dataset, method = _papers_names(ours.dataset, ours.method)
        for label in (ours.label, method):
            key = (dataset, ours.model, method, label, ours.forget, ours.quantity)
            if key in theirs:
                return theirs[key].table, theirs[key].value, theirs[key].std
        return "", float("nan"), float("nan")

    found = pd.DataFrame(
        [find(row) for row in summary.itertuples()],
        columns=["table", "published", "published_std"],
        index=summary.index,
    )
    points = np.asarray([known[quantity].factor for quantity in summary["quantity"]], float)
    difference = points * (summary["mean"] - found["published"])
    return pd.concat([summary, found, difference.rename("difference")], axis=1)


def compare_classes(
    classes: pd.DataFrame, paper: pd.DataFrame, tables: str | Sequence[str] | None
) -> pd.DataFrame:
    """Accuracies by class beside the paper's.

    Args:
      classes: a row a cell and class: dataset, model, method, forget, class, before, after, ...
      paper: of `read`; the label of an accuracy of a class is the class.
      tables: as for `compare`.

    Returns:
      `classes` with published_before and published_after, nan where the paper has no such figure.

    Raises:
      InvalidArgumentError: if the paper has no such table.
    """
    rows = paper[paper["table"].isin(check(tables, paper))]
    theirs = {
        (row.dataset, row.model, row.method, row.forget, row.label, row.quantity): row.value
        for row in rows.itertuples()
    }

    def find(ours: dict[Any, Any], quantity: str) -> float:
        dataset, method = _papers_names(ours["dataset"], ours["method"])
        key = (dataset, ours["model"], method, ours["forget"], str(ours["class"]), quantity)
        return theirs.get(key, float("nan"))

    records = classes.to_dict("records")
    return classes.assign(
        published_before=[find(row, "class_accuracy_before") for row in records],
        published_after=[find(row, "class_accuracy") for row in records],
    )


def _papers_names(dataset: str, method: str) -> tuple[str, str]:
    return _DATASETS.get(dataset, dataset), _METHODS.get(method, method)
