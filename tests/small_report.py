"""Rows of a benchmark as the tests of its tables and pages need them."""

import pandas as pd

from ignpx.bench import published, tables
from ignpx.bench.summary import BASE, over_classes, summarise

# Classes of which the paper has each.
HUNDRED = {"dataset": "cifar100", "model": "cifar_resnet18"}


def cell(**values):
    defaults = {
        "run": "mnist_lenet_cpu",
        "dataset": "mnist",
        "model": "lenet",
        "width": 1.0,
        "epochs": 15,
        "method": "ignp",
        "settings": "{}",
        "forget": "0",
        "training_seed": None,
        "seed": 0,
        "split": "test",
        "retain_accuracy_before": 0.99,
        "retain_accuracy": 0.9,
        "forget_accuracy_before": 0.98,
        "forget_accuracy": 0.0,
        "mia": float("nan"),
        "coverage": 0.03,
        "seconds": 2.0,
        "seconds_compile": 5.0,
        "seconds_evaluation": 0.1,
        "error": "",
    }
    row = defaults | values
    if row["training_seed"] is None:  # one seed for both
        row["training_seed"] = row["seed"]
    return {"label": row["method"]} | row


def failing(error, **values):
    nothing = dict.fromkeys(BASE, float("nan"))
    return cell(**nothing, error=error, **values)


def figure_of(frame, quantity, **where):
    rows = frame[frame["quantity"] == quantity]
    for column, value in where.items():
        rows = rows[rows[column] == value]
    assert len(rows) == 1, rows
    return rows.iloc[0]


def compared(rows, named="table1"):
    cells = pd.DataFrame(rows)
    summary = pd.concat([over_classes(cells), summarise(cells)], ignore_index=True)
    return published.compare(summary, published.read(), named), cells


def printed(rows):
    frame, cells = compared(rows)
    return tables.markdown(tables.layout(frame), cells)


def class_rows(changes, **values):
    """A row a class that is retained, which was at 0.9 and changed."""
    return [
        {
            k: v
            for k, v in cell(**values).items()
            if k in ("run", "dataset", "model", "method", "label", "forget", "seed")
        }
        | {"class": index, "before": 0.9, "after": 0.9 + change}
        for index, change in enumerate(changes, start=1)
    ]


def classes_compared(rows, named=("table18",)):
    return published.compare_classes(pd.DataFrame(rows), published.read(), named)
