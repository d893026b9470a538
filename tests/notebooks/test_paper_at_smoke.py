"""The primer, the notebooks of the paper's method and the report, run whole at the smoke profile."""

import json

import pytest
import smoke

from neuralef import notebooks

SOURCES = notebooks.sources("01", "1*", "90")


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_notebook_runs_at_smoke(source, results):
    smoke.runs_once(source, results)


def test_every_figure_names_the_data_it_shows(results):
    """Runs after the notebooks above, as the next."""
    smoke.figures_name_their_data(results)


def test_pages_describe_their_figures(results):
    smoke.pages_describe_their_figures(results)


def test_report_is_one_page_with_every_figure(results):
    page = (results / "report" / "index.html").read_text()
    figures = list((results / "figures").glob("*.png"))
    assert page.count("data:image/png;base64,") == len(figures) > 5
    assert json.loads((results / "notebooks" / f"{SOURCES[0].stem}.json").read_text())["digest"]
