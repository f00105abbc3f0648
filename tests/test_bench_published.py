"""The paper's figures, and ours beside them."""

import numpy as np
import pytest

from ignpx.bench import published
from ignpx.errors import InvalidArgumentError
from small_report import HUNDRED, cell, class_rows, classes_compared, compared, figure_of


class TestPublished:
    @pytest.mark.parametrize(
        ("table", "dataset", "model", "label", "forget", "quantity", "value", "std"),
        [
            ("table1", "mnist", "lenet", "ignp", "0", "retain_accuracy", 0.9935, None),
            ("table1", "cifar10", "resnet9", "gkt", "0", "retain_accuracy", 0.1429, None),
            ("table1", "cifar10", "cifar_resnet18", "ssd", "0", "retain_accuracy", 0.9248, None),
            (
                "table1",
                "cifar100",
                "cifar_resnet18",
                "finetune",
                "0",
                "forget_accuracy",
                0.61,
                None,
            ),
            ("table2", "svhn_cropped", "resnet9", "ignp", "0>1", "retain_accuracy", 0.9464, None),
            ("table2", "cifar10", "cifar_resnet18", "ssd", "0>1", "forget_accuracy", 0.981, None),
            ("table3", "cifar10", "cifar_resnet18", "retrain", "0", "seconds", 4287, None),
            ("table3", "cifar10", "cifar_resnet18", "ignp", "0", "seconds", 34, None),
            ("table4", "cifar10", "cifar_resnet18", "ignp", "0", "mia", 0.0002, None),
            ("table4", "mnist", "lenet", "unsir", "0", "mia", 0.0976, None),
            ("table5", "cifar10", "cifar_resnet18", "3%", "each", "forget_accuracy", 0.0359, None),
            ("table10", "tiny_imagenet", "resnet18", "ignp", "20", "coverage", 0.0044, None),
            ("table11", "cifar10", "vit_tiny", "ignp", "0", "forget_accuracy_before", 0.985, None),
            ("table12", "svhn_cropped", "resnet9", "ignp", "0", "retain_accuracy", 0.9445, 0.0072),
            ("table13", "cifar100", "resnet9", "retrain", "0", "retain_accuracy", 0.7232, 0.004),
            ("table14", "cifar100", "resnet9", "finetune", "0", "forget_accuracy", 0.3567, 0.0153),
            ("table15", "svhn_cropped", "lenet", "gkt", "0", "retain_accuracy", 0.7443, 0.0366),
            ("table16", "cifar10", "resnet9", "ssd", "0", "retain_accuracy", 0.8869, 0.0399),
            ("table17", "mnist", "lenet", "unsir", "0", "retain_accuracy", 0.9751, 0.0024),
            ("table18", "cifar100", "cifar_resnet18", "34", "0", "class_accuracy", 0.7, None),
        ],
    )
    def test_is_what_the_paper_says(
        self, table, dataset, model, label, forget, quantity, value, std
    ):
        where = {"table": table, "dataset": dataset, "model": model, "label": label}
        row = figure_of(published.read(), quantity, forget=forget, **where)
        assert row["value"] == value
        assert row["std"] == std if std is not None else np.isnan(row["std"])

    def test_has_no_figure_twice_and_fractions_only(self):
        paper = published.read()
        assert not paper.duplicated(list(paper.columns[:7])).any()
        assert paper.loc[paper["quantity"] != "seconds", "value"].between(0, 1).all()
        assert paper["value"].notna().all()

    def test_changes_of_the_paper_follow_from_its_figures(self):
        # Table 18 prints means that Table 1 has too; a slip of a column would show here.
        classes = published.read().query("table == 'table18'").groupby("quantity")["value"]
        assert classes.count().eq(99).all()
        assert classes.mean()["class_accuracy_before"] == pytest.approx(0.7738, abs=5e-5)


class TestCompare:
    def test_difference_is_ours_minus_theirs_in_points(self):
        frame, _ = compared([cell(retain_accuracy=0.99, forget_accuracy=0.01)])
        row = figure_of(frame, "retain_accuracy")
        assert row["published"] == 0.9935
        assert row["difference"] == pytest.approx(-0.35)
        assert figure_of(frame, "forget_accuracy")["difference"] == pytest.approx(1.0)

    def test_times_differ_in_seconds(self):
        resnet = {"dataset": "cifar10", "model": "cifar_resnet18"}
        frame, _ = compared([cell(seconds=30.0, **resnet)], ["table3"])
        assert figure_of(frame, "seconds")["difference"] == pytest.approx(-4.0)

    def test_both_ignp_meet_the_papers(self):
        frame, _ = compared([cell(), cell(method="ignp-paper")])
        for method in ("ignp", "ignp-paper"):
            assert figure_of(frame, "retain_accuracy", method=method)["published"] == 0.9935

    def test_settings_of_the_paper_meet_by_label(self):
        resnet = {"dataset": "cifar10", "model": "cifar_resnet18", "method": "ignp-zero"}
        cells = [
            cell(label=label, forget=forget, **resnet)
            for label in ("1%", "2%", "3%")
            for forget in "01"
        ]
        frame, _ = compared(cells, "table5")
        found = frame.query("quantity == 'retain_accuracy' and forget == 'each'")
        assert found.set_index("label")["published"].dropna().to_dict() == {
            "1%": 0.8203,
            "3%": 0.7088,
        }

    @pytest.mark.parametrize(
        "other",
        [{"dataset": "tiny_imagenet_20"}, {"forget": "1"}, {"forget": "0>1"}, {"method": "mine"}],
    )
    def test_what_the_paper_has_not_stays_empty(self, other):
        frame, _ = compared([cell(**other)])
        assert frame["published"].isna().all()
        assert frame["difference"].isna().all()

    def test_twenty_classes_stand_in_for_all_of_tiny_imagenet(self):
        ours = {"dataset": "tiny_imagenet_20", "model": "resnet18", "method": "ignp-paper"}
        frame, _ = compared([cell(retain_accuracy=0.55, **ours)], "table10")
        assert figure_of(frame, "retain_accuracy")["published"] == 0.544

    def test_the_first_table_counts(self):
        first, _ = compared([cell()], ["table12", "table1"])
        row = figure_of(first, "retain_accuracy")
        assert (row["table"], row["published"], row["published_std"]) == ("table12", 0.9916, 0.0002)

    def test_no_table_no_figures(self):
        assert compared([cell()], None)[0]["published"].isna().all()

    def test_an_unknown_table_is_named(self):
        with pytest.raises(InvalidArgumentError, match="did you mean table1"):
            compared([cell()], "tabel1")


class TestCompareClasses:
    def test_each_class_meets_the_papers(self):
        rows = [
            row for m in ("ignp-paper", "ssd") for row in class_rows([0.0] * 3, method=m, **HUNDRED)
        ]
        found = classes_compared(rows)
        assert found["published_before"].tolist()[:3] == [0.95, 0.6, 0.66]
        assert found["published_after"].tolist()[:3] == [0.9, 0.57, 0.63]
        assert found.loc[3:, ["published_before", "published_after"]].isna().all(axis=None)
        assert classes_compared(rows, ())["published_after"].isna().all()
        with pytest.raises(InvalidArgumentError, match="did you mean table18"):
            classes_compared(rows, ["tabel18"])
