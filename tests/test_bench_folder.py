"""The folder of a benchmark: claimed by many at once, damaged, another's."""

import os

import pytest

from ignpx.bench import results, run
from ignpx.errors import InvalidArgumentError
from ignpx.experiments import config as config_files
from small_bench import at_once, cells_of


def test_many_claim_it_at_once(bench, tmp_path):
    cells = cells_of(bench())
    config = {"title": "A small benchmark"}
    for turn in range(20):
        out = tmp_path / str(turn)
        assert at_once(8, lambda out=out: results.claim(out, config, cells)) == []
        assert results.read_config(out) == (config, cells)
        assert sorted(path.name for path in out.iterdir()) == ["bench.json", "cells", "locks"]


def test_two_configs_claim_it_at_once(bench, tmp_path):
    cells = cells_of(bench())[:4]
    for turn in range(20):
        out, own = tmp_path / str(turn), iter(cells)

        def claim(out=out, own=own):
            cell = next(own)
            results.claim(out, {"title": cell.label}, [cell])

        errors = at_once(4, claim)
        assert len(errors) == 3
        assert all("another config" in str(error) for error in errors)


def finish(out, cell, error=None):
    results.write(out, cell, {"measured": {}, "error": error, "versions": {}})


def test_a_config_with_all_of_its_cells_continues_it(bench, tmp_path):
    cells, out = cells_of(bench()), tmp_path / "out"
    config = {"title": "One", "published": ["table1"]}
    grown = ((cells[:-1], config), (cells, {**config, "title": "Two"}), (cells[::-1], {**config}))
    for some, changed in grown:
        results.claim(out, changed, some)
        assert results.read_config(out) == (changed, some)
    said = "1 of its 12 cells are not of this one, the first digits, label original, forget 0, seed"
    with pytest.raises(InvalidArgumentError, match=said):
        results.claim(out, {"title": "Less"}, cells[1:])
    assert results.read_config(out) == (config, cells[::-1])


def test_what_has_failed_may_be_given_up(bench, tmp_path):
    """As where a setting was wrong."""
    cells, out = cells_of(bench()), tmp_path / "out"
    results.claim(out, {"title": "One"}, cells[:2])
    finish(out, cells[0], error="a setting is wrong")
    finish(out, cells[1])
    results.claim(out, {"title": "Two"}, cells[1:3])
    assert results.read_config(out) == ({"title": "Two"}, cells[1:3])


def test_a_folder_of_many_cells_is_read(bench, tmp_path):
    """Its config is larger than what else is read as JSON."""
    cells, out = cells_of(bench()), tmp_path / "out"
    config = {"title": "One", "notes": "x" * config_files.MOST_BYTES}
    results.claim(out, config, cells)
    assert results.read_config(out) == (config, cells)


def test_a_damaged_config_does_not_hand_the_results_over(bench, tmp_path):
    cells, out = cells_of(bench()), tmp_path / "out"
    results.claim(out, {"title": "One"}, cells[:2])
    finish(out, cells[0])
    (out / "bench.json").write_text("{")
    with pytest.raises(InvalidArgumentError, match="holds 1 results of another config"):
        results.claim(out, {"title": "Two"}, cells[2:])
    results.claim(out, {"title": "One"}, cells[:2])


def test_a_long_name_of_a_picture_is_shortened(bench):
    described = {**cells_of(bench())[0].described(), "label": "é" * 120}
    name, other = (results.picture(measure, described) for measure in ("grad-cam", "features"))
    assert len(name.encode()) < 255
    assert name != results.picture("grad-cam", {**described, "label": "é" * 121})
    assert name.startswith("grad-cam, ")
    assert name != other


DAMAGED = [
    "", "{", "[]", "null", "\x00", '{"config": {}}', '{"config": 1, "cells": [1]}',
    '{"config": {"title": "x"}, "cells": [{"run": "x"}]}', '{"config": {"title": 3}, "cells": []}',
    '{"config": {"title": "x"}, "cells": {}}', "[" * 9999,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGED)
def test_what_says_which_results_it_holds_is_damaged(bench, tmp_path, damage):
    cells, config, warnings = cells_of(bench()), {"title": "One"}, []
    out = tmp_path / "out"
    results.claim(out, config, cells)
    finished = out / "cells" / f"{cells[0].id}.json"
    finished.write_text("kept")
    (out / "bench.json").write_text(damage)
    with pytest.raises(InvalidArgumentError, match=r"is damaged.*ignpx bench CONFIG --workdir"):
        run.collect(out)
    results.claim(out, config, cells, warnings.append)
    assert "is damaged" in warnings[0]
    assert results.read_config(out) == (config, cells)
    assert (out / "bench.damaged").read_text() == damage
    assert finished.read_text() == "kept"


def test_pipes_are_not_waited_for(bench, tmp_path):
    cell = cells_of(bench())[0]
    (tmp_path / "cells").mkdir()
    os.mkfifo(tmp_path / "cells" / f"{cell.id}.json")
    with pytest.raises(ValueError, match="is damaged"):
        results.read(tmp_path, cell)
    os.mkfifo(tmp_path / "bench.json")
    with pytest.raises(InvalidArgumentError, match="is damaged"):
        run.collect(tmp_path)


def test_many_find_the_same_damage(bench, tmp_path):
    cell = cells_of(bench())[0]
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / f"{cell.id}.json").write_text("{")
    assert at_once(8, lambda: results.set_aside(tmp_path, cell)) == []
    assert [p.name for p in (tmp_path / "cells").iterdir()] == [f"{cell.id}.damaged"]
