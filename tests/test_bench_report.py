"""The files of a report, and a page that needs nothing else."""

import base64
import html.parser
import os
import pathlib
import re

import pandas as pd
import pytest

from ignpx.bench import report, results
from small_report import HUNDRED, cell, class_rows, failing, figure_of


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
        config = {"title": "x", "measures": ["inversion"]}
        write(tmp_path, cells=pd.DataFrame([cell(inversion=0.125)]), config=config)
        for name in ("report.md", "report.html"):
            text = (tmp_path / name).read_text()
            assert "Model inversion, %" in text
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

    def test_pictures_stand_in_the_order_of_cells_and_of_one_seed(self, tmp_path):
        (tmp_path / "pictures").mkdir()
        rows = [cell(method=method, seed=seed) for method in ("retrain", "ignp") for seed in (0, 1)]
        for row in rows:
            (tmp_path / "pictures" / results.picture("mia", row)).write_bytes(b"\x89PNG")
        write(tmp_path, cells=pd.DataFrame(rows), config={"title": "x", "measures": ["mia"]})
        page = (tmp_path / "report.html").read_text()
        shown = re.findall(r"<figcaption>(mia.*?)</figcaption>", page)
        assert [caption.split(", ")[2:] for caption in shown] == [
            ["retrain", "forget 0", "seed 0"],
            ["ignp", "forget 0", "seed 0"],
        ]
        assert "2 of other seeds are in the folder" in page

    def test_values_are_escaped_and_failures_shown(self, tmp_path):
        write(tmp_path)
        page = Page((tmp_path / "report.html").read_text())
        assert "script" not in page.tags
        assert page.text.count(EVIL) == 2  # among the failing cells, and among all
        assert "gkt, forget 0, seed 2" in page.text
        assert "First <class>" in page.text

    def test_no_cell_is_a_formula(self, tmp_path):
        labels = ['=HYPERLINK("http://x","y")', "+1+cmd", "-2+3", "@SUM(A1)", "-1e3", "a=b"]
        write(tmp_path, cells=pd.DataFrame([cell(label=label, forget="0") for label in labels]))
        for name in ("results.csv", "summary.csv"):
            shown = set(pd.read_csv(tmp_path / name, dtype=str)["label"])
            assert shown == {*(f"'{label}" for label in labels[:4]), "-1e3", "a=b"}
        assert report._csv(pd.DataFrame({"x": ["\t=1", "\r=1"]})) == "x\n'\t=1\n'\r=1\n"

    def test_markdown_holds_neither_html_nor_links(self, tmp_path):
        evil = "<img src=x onerror=alert(1)> [x](javascript:alert(1)) \\[y](javascript:z) a|b"
        rows = [cell(label=evil), failing(evil, method="gkt"), cell(run=evil, dataset=evil)]
        config = {"title": f"{evil}\n\n[r]: javascript:x", "published": [], "seeds": [0]}
        write(tmp_path, cells=pd.DataFrame(rows), config=config, versions=[{"device": evil}])
        text = (tmp_path / "report.md").read_text()
        assert "<img" not in text
        assert not re.search(r"(?<!\\)(\\\\)*\[", text)
        assert text.startswith("# &lt;img")

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

        def interrupt(descriptor):
            raise KeyboardInterrupt

        # When the text is written, and before it is on the disk.
        monkeypatch.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path, hash="another")
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == old
