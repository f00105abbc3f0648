"""The pictures of a report show what the tables say."""

import json

import numpy as np
import pytest

from ignpx.bench import charts
from small_report import cell, compared


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

    def test_nothing_was_measured_on_what_is_forgotten(self):
        """Such as where no forgotten class has a test sample."""
        [(_, figure)] = charts.pictures(*compared([cell(forget_accuracy=np.nan)]))
        forget = figure.axes[1]
        assert "forget" in forget.get_xlabel()
        assert np.isfinite(forget.get_xlim()).all()

    def test_long_labels_leave_room_for_the_axes(self):
        labels = [f"zs-pag learning_rate=0.001 pseudo_labels={i} subspace=estimated" for i in "ab"]
        [(_, figure)] = charts.pictures(*compared([cell(label=label) for label in labels]))
        figure.draw_without_rendering()  # which would warn
        assert all(axis.get_position().width > 0.1 for axis in figure.axes)
