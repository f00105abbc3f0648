"""The report: hand-computed means, the paper's figures, and a page that needs nothing else."""

import base64
import html.parser
import json
import pathlib
import re

import numpy as np
import pandas as pd
import pytest

from ignpx.bench import charts, published, report, tables
from ignpx.bench.summary import QUANTITIES, over_classes, summarise
from ignpx.errors import InvalidArgumentError


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
        "seed": 0,
        "split": "test",
        "retain_accuracy_before": 0.99,
        "retain_accuracy": 0.9,
        "forget_accuracy_before": 0.98,
        "forget_accuracy": 0.0,
        "mia": float("nan"),
        "coverage": 0.03,
        "inversion_judged": float("nan"),
        "inversion_judged_retain": float("nan"),
        "seconds": 2.0,
        "seconds_compile": 5.0,
        "seconds_evaluation": 0.1,
        "error": "",
    }
    row = defaults | values
    return {"label": row["method"]} | row


def failing(error, **values):
    nothing = dict.fromkeys(QUANTITIES, float("nan"))
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

    def test_sequences_and_single_classes_are_not_averaged(self):
        cells = [cell(), cell(forget="0>1"), cell(forget="0+1")]
        assert over_classes(pd.DataFrame(cells)).empty


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


HUNDRED = {"dataset": "cifar100", "model": "cifar_resnet18"}


class TestCompareClasses:
    def compared(self, rows, named=("table18",)):
        frame = pd.DataFrame(rows)
        return published.compare_classes(frame, published.read(), named)

    def test_each_class_meets_the_papers(self):
        rows = [
            row for m in ("ignp-paper", "ssd") for row in class_rows([0.0] * 3, method=m, **HUNDRED)
        ]
        found = self.compared(rows)
        assert found["published_before"].tolist()[:3] == [0.95, 0.6, 0.66]
        assert found["published_after"].tolist()[:3] == [0.9, 0.57, 0.63]
        assert found.loc[3:, ["published_before", "published_after"]].isna().all(axis=None)
        assert self.compared(rows, ())["published_after"].isna().all()
        assert tables.class_layout(self.compared(rows, ())) == []
        with pytest.raises(InvalidArgumentError, match="did you mean table18"):
            self.compared(rows, ["tabel18"])

    def test_mean_median_worst_and_the_ten_that_change_most(self):
        # Class by class over two seeds: -1, +1, -3, and nothing for nine others.
        first = class_rows([-0.02, 0.0, -0.03, *[0.0] * 9], **HUNDRED)
        second = class_rows([0.0, 0.02, -0.03, *[0.0] * 9], seed=1, **HUNDRED)
        [table] = tables.class_layout(self.compared([*first, *second]))
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


class TestCharts:
    def test_one_and_two_numbers_are_sweeps(self):
        settings = {
            "a": {"strength": 1},
            "b": {"strength": 10},
            "c": {"steps": 100, "samples": 100},
            "d": {"steps": 200, "samples": 100},
            "e": {"steps": 200, "samples": 300},
            "plain": {},
            "f": {"coverage": [0.01, 0.03]},
            "g": {"coverage": [0.03, 0.05]},
        }
        assert charts.sweeps(settings) == [
            (["strength"], {"a": (1,), "b": (10,)}),
            (["samples", "steps"], {"c": (100, 100), "d": (100, 200), "e": (300, 200)}),
            (["coverage"], {"f": (pytest.approx(0.02),), "g": (pytest.approx(0.04),)}),
        ]

    def test_words_are_no_sweep(self):
        settings = {"a": {"within": "middle"}, "b": {"within": "search"}}
        assert charts.sweeps(settings) == []
        assert charts.sweeps({"a": {"x": True}, "b": {"x": False}}) == []

    def test_lines_are_drawn_in_order_of_the_setting(self):
        cells = [
            cell(label=f"strength={s}", settings=json.dumps({"strength": s}), retain_accuracy=a)
            for s, a in ((10, 0.7), (1, 0.9), (3, 0.8))
        ]
        [(caption, figure)] = charts.pictures(*compared(cells))
        assert caption.startswith("ignp by strength")
        x, y = figure.axes[0].lines[0].get_data()
        np.testing.assert_allclose(x, [1, 3, 10])
        np.testing.assert_allclose(y, [90, 80, 70])

    def test_heat_map_has_each_figure_in_its_place(self):
        cells = [
            cell(
                label=f"{samples},{steps}",
                settings=json.dumps({"samples": samples, "steps": steps}),
                retain_accuracy=(samples + steps) / 1000,
            )
            for samples, steps in ((200, 10), (100, 10), (100, 20))
        ]
        [(_, figure)] = charts.pictures(*compared(cells))
        grid = np.ma.filled(figure.axes[0].images[0].get_array(), np.nan)
        np.testing.assert_allclose(grid, [[11, 21], [12, np.nan]])

    def test_dots_show_ours_and_the_papers(self):
        [(_, figure)] = charts.pictures(*compared([cell(retain_accuracy=0.9)]))
        drawn = sorted(float(line.get_xdata()[0]) for line in figure.axes[0].lines)
        assert drawn == pytest.approx([90.0, 99.35])

    def test_long_labels_leave_room_for_the_axes(self):
        labels = [f"zs-pag learning_rate=0.001 pseudo_labels={i} subspace=estimated" for i in "ab"]
        [(_, figure)] = charts.pictures(*compared([cell(label=label) for label in labels]))
        figure.draw_without_rendering()  # which would warn
        assert all(axis.get_position().width > 0.1 for axis in figure.axes)


class Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.images, self.text = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [v for k, v in attrs if k in ("src", "srcset", "href", "action", "data")]
        self.images += [dict(attrs)["src"] for _ in [0] if tag == "img"]

    def handle_data(self, data):
        self.text += data


EVIL = "<script>alert('no')</script> & so on"


def write(directory: pathlib.Path, **changes):
    cells = [cell(), cell(seed=1, retain_accuracy=0.92), failing(EVIL, method="gkt", seed=2)]
    arguments = {
        "cells": pd.DataFrame(cells),
        "classes": pd.DataFrame(class_rows([-0.1, 0.0])),
        "config": {"title": "First <class>", "published": "table1", "seeds": [0, 1]},
        "hash": "3f9ac2",
        "versions": [{"jax": "0.10.0", "device": "cpu"}, {"jax": "0.10.0", "device": "H200"}],
    }
    return report.write(directory, **arguments | changes)


class TestWrite:
    def test_writes_five_files_and_nothing_else(self, tmp_path):
        paths = write(tmp_path)
        assert sorted(path.name for path in paths) == sorted(p.name for p in tmp_path.iterdir())
        results = pd.read_csv(tmp_path / "results.csv")
        assert len(results) == 3
        asked = "dataset model method forget seed retain_accuracy forget_accuracy mia seconds"
        assert {*asked.split(), "config_hash"} <= set(results)
        summary = pd.read_csv(tmp_path / "summary.csv")
        row = figure_of(summary, "retain_accuracy", method="ignp")
        assert row["mean"] == pytest.approx(0.91)
        assert row["difference"] == pytest.approx(-8.35)
        assert len(pd.read_csv(tmp_path / "classes.csv")) == 2

    def test_classes_are_a_section_where_the_paper_has_them(self, tmp_path):
        classes = pd.DataFrame(class_rows([-0.1, 0.0], **HUNDRED))
        for named, count in (("table18", 1), ("table1", 0)):
            write(tmp_path, classes=classes, config={"title": "x", "published": named})
            for name in ("report.md", "report.html"):
                assert (tmp_path / name).read_text().count("change by class") == count
        assert pd.read_csv(tmp_path / "classes.csv").columns[-1] == "published_after"

    def test_what_inversion_finds_is_shown(self, tmp_path):
        inverted = cell(inversion_judged=0.125, inversion_judged_retain=0.5)
        write(tmp_path, cells=pd.DataFrame([inverted]))
        for name in ("report.md", "report.html"):
            text = (tmp_path / name).read_text()
            assert "Inverted as the class, %" in text
            assert "12.50" in text

    def test_says_what_ran(self, tmp_path):
        write(tmp_path)
        page = Page((tmp_path / "report.html").read_text()).text
        markdown = (tmp_path / "report.md").read_text()
        for text in (page, markdown):
            for fact in ("3f9ac2", "2 done, 1 failed", "0, 1", "jax 0.10.0, device H200"):
                assert fact in text

    def test_page_asks_no_other_host(self, tmp_path):
        (tmp_path / "pictures").mkdir()
        (tmp_path / "pictures" / "class 0.png").write_bytes(b"\x89PNG")
        write(tmp_path)
        text = (tmp_path / "report.html").read_text()
        page = Page(text)
        assert not {"script", "iframe", "object", "embed"} & set(page.tags)
        assert all(link.startswith("data:") for link in page.links), page.links
        assert not re.search(r"@import|url\s*\(|https?:", text)
        kinds = [image.split(";")[0] for image in page.images]
        assert kinds == ["data:image/svg+xml", "data:image/png"]
        assert base64.b64decode(page.images[1].split(",")[1]) == b"\x89PNG"
        assert b"<svg" in base64.b64decode(page.images[0].split(",")[1])

    def test_values_are_escaped_and_failures_shown(self, tmp_path):
        write(tmp_path)
        page = Page((tmp_path / "report.html").read_text())
        assert "script" not in page.tags
        assert page.text.count(EVIL) == 2  # among the failing cells, and among all
        assert "gkt, forget 0, seed 2" in page.text
        assert "First <class>" in page.text

    def test_all_cells_are_told_in_six_digits_and_text_stands_left(self, tmp_path):
        rows = [cell(retain_accuracy=0.123456789, seconds=1234567.0), cell(seed=1)]
        rows = [{**row, "doubts": doubts} for row, doubts in zip(rows, (None, "some"), strict=True)]
        write(tmp_path, cells=pd.DataFrame(rows))
        text = (tmp_path / "report.html").read_text()
        everything = text[text.index("All 2 cells") :]
        row = everything[everything.index("<tbody>") : everything.index("</tr>\n</tbody>")]
        assert "<td>0.123457</td>" in row
        assert "<td>1234567</td>" in row
        assert '<td class="name">mnist</td>' in row
        assert (
            '<th class="name">dataset</th><th class="name">model</th><th>width</th>' in everything
        )
        # What was not measured, and what is not told of a cell.
        assert "<td></td>" in row
        assert row.count('<td class="name"></td>') == 1 + 2  # and no errors
        assert "nan" not in row
        assert "None" not in row

    def test_figures_of_the_page_are_those_of_the_tables(self, tmp_path):
        write(tmp_path)
        page = Page((tmp_path / "report.html").read_text()).text.split("\n")
        row = ["ignp", "2", "91.00 ± 1.41", "99.35", "-8.35", "0.00 ± 0.00", "0.00", "+0.00"]
        start = page.index("ignp", page.index("Method"))
        assert [text for text in page[start:] if text][: len(row)] == row

    def test_same_cells_same_bytes(self, tmp_path):
        first = [path.read_bytes() for path in write(tmp_path)]
        assert [path.read_bytes() for path in write(tmp_path)] == first

    def test_all_cells_failed(self, tmp_path):
        write(tmp_path, cells=pd.DataFrame([failing(EVIL)]))
        assert "0 done, 1 failed" in (tmp_path / "report.md").read_text()

    def test_interrupted_write_leaves_the_old_file(self, tmp_path, monkeypatch):
        write(tmp_path)
        old = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        genuine = pathlib.Path.write_text

        def half(path, text, **arguments):
            genuine(path, text[: len(text) // 2], **arguments)
            raise KeyboardInterrupt

        monkeypatch.setattr(pathlib.Path, "write_text", half)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path, hash="another")
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == old
