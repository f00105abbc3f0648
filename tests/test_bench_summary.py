"""Means over seeds and over classes, computed by hand."""

import numpy as np
import pandas as pd
import pytest

from ignpx.bench.summary import over_classes, summarise
from small_report import cell, failing, figure_of


class TestSummarise:
    def test_mean_and_sample_deviation_over_seeds(self):
        cells = [cell(seed=s, retain_accuracy=a) for s, a in enumerate([0.90, 0.92, 0.97])]
        row = figure_of(summarise(pd.DataFrame(cells)), "retain_accuracy")
        assert row["mean"] == pytest.approx(0.93)
        assert row["std"] == pytest.approx((0.0026 / 2) ** 0.5)  # 9, 1 and 16 over 10,000
        assert row["seeds"] == 3

    def test_one_seed_has_no_deviation(self):
        row = figure_of(summarise(pd.DataFrame([cell()])), "retain_accuracy")
        assert np.isnan(row["std"])
        assert row["seeds"] == 1

    def test_failing_cells_and_what_was_not_measured_do_not_count(self):
        cells = [cell(retain_accuracy=0.8), cell(seed=1, retain_accuracy=0.1, error="no")]
        summary = summarise(pd.DataFrame(cells))
        assert figure_of(summary, "retain_accuracy")["mean"] == 0.8
        assert "mia" not in set(summary["quantity"])


CLASS_BY_CLASS = [
    cell(forget=forget, seed=seed, forget_accuracy=accuracy, retain_accuracy=1 - accuracy)
    for seed, accuracies in enumerate([[0.0, 0.1, 0.5], [0.2, 0.3, 0.7]])
    for forget, accuracy in zip("012", accuracies, strict=True)
]


class TestOverClasses:
    def test_classes_first_then_seeds(self):
        each = over_classes(pd.DataFrame(CLASS_BY_CLASS))
        row = figure_of(each, "forget_accuracy", forget="each")
        assert row["mean"] == pytest.approx(0.3)  # of 0.2 and 0.4
        assert row["std"] == pytest.approx(0.2 / 2**0.5)
        assert (row["seeds"], row["classes"]) == (2, 3)

    def test_the_worst_class_is_the_lowest_retained_and_the_highest_forgotten(self):
        each = over_classes(pd.DataFrame(CLASS_BY_CLASS))
        assert figure_of(each, "forget_accuracy")["worst"] == pytest.approx(0.6)
        assert figure_of(each, "retain_accuracy")["worst"] == pytest.approx(0.4)
        assert np.isnan(figure_of(each, "seconds")["worst"])

    def test_counts_the_classes_that_every_seed_has(self):
        cells = [*CLASS_BY_CLASS[:-1], failing("no", forget="2", seed=1)]
        row = figure_of(over_classes(pd.DataFrame(cells)), "forget_accuracy")
        assert row["classes"] == 2

    def test_a_class_that_a_seed_lacks_is_left_out_of_all_seeds(self):
        """Seeds would differ by which classes they are of."""
        same = [
            cell(forget=forget, seed=seed, forget_accuracy=accuracy)
            for seed in (0, 1)
            for forget, accuracy in zip("0123", [0.0, 0.1, 0.2, 0.9], strict=True)
        ]
        cells = [*same[:-1], failing("no", forget="3", seed=1)]
        row = figure_of(over_classes(pd.DataFrame(cells)), "forget_accuracy")
        assert (row["mean"], row["worst"], row["std"]) == pytest.approx((0.1, 0.2, 0))
        assert row["seeds"] == 2

    def test_sequences_and_single_classes_are_not_averaged(self):
        cells = [cell(), cell(forget="0>1"), cell(forget="0+1")]
        assert over_classes(pd.DataFrame(cells)).empty
