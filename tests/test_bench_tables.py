"""The tables of a report."""

from ignpx.bench import tables
from small_report import HUNDRED, cell, class_rows, classes_compared, failing, printed


class TestMarkdown:
    def test_row_has_ours_theirs_and_the_signed_difference(self):
        text = printed([cell(retain_accuracy=0.99, forget_accuracy=0.01)])
        row = "| ignp | 1 | 99.00 | 99.35 | -0.35 | 1.00 | 0.00 | +1.00 | 3.00 | 2.00 | 5.00 |"
        assert row in text.splitlines()
        assert "mnist, lenet, width 1, 15 epochs (mnist_lenet_cpu): forget 0" in text

    def test_deviation_only_where_there_are_seeds(self):
        alone = printed([cell()])
        several = [cell(retain_accuracy=0.90), cell(seed=1, retain_accuracy=0.92)]
        assert "±" not in alone
        assert "| 91.00 ± 1.41 |" in printed(several)

    def test_means_over_classes_come_with_the_worst(self):
        cells = [cell(forget=f, retain_accuracy=a) for f, a in (("3", 0.9), ("4", 0.8))]
        text = printed(cells)
        assert "| ignp | 2 | 1 | 85.00 | 80.00 |" in text
        assert text.count("| ignp |") == 1  # the paper has no figures for these classes

    def test_failing_cells_stay_one_row(self):
        error = "prototypes did not\nreach | their class"
        text = printed([cell(), failing(error, seed=7)])
        row = r"| mnist_lenet_cpu | ignp | 0 | 7 | prototypes did not reach \| their class |"
        assert row in text.splitlines()

    def test_a_difference_of_nothing_has_no_minus(self):
        text = printed([cell(retain_accuracy=0.9935 - 1e-9)])
        assert "| 99.35 | 99.35 | +0.00 |" in text


def test_no_paper_no_table_by_class():
    assert tables.class_layout(classes_compared(class_rows([0.0] * 3, **HUNDRED), ())) == []


def test_mean_median_worst_and_the_ten_that_change_most():
    # Class by class over two seeds: -1, +1, -3, and nothing for nine others.
    first = class_rows([-0.02, 0.0, -0.03, *[0.0] * 9], **HUNDRED)
    second = class_rows([0.0, 0.02, -0.03, *[0.0] * 9], seed=1, **HUNDRED)
    [table] = tables.class_layout(classes_compared([*first, *second]))
    assert table.rows[:6] == [
        ["mean"],
        ["median"],
        ["worst"],
        ["class 3"],
        ["class 1"],
        ["class 2"],
    ]
    assert len(table.rows) == 3 + 10
    assert [ours for ours, _ in table.values[:6]] == [
        "-0.25",
        "+0.00",
        "-3.00",
        "-3.00",
        "-1.00",
        "+1.00",
    ]
    # The paper's of the same classes: 66 to 63, 95 to 90 and 60 to 57 per cent.
    assert [paper for _, paper in table.values[3:6]] == ["-3.00", "-5.00", "-3.00"]
