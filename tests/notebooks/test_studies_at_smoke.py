"""All other notebooks, those of tables that vary something and of the studies, run whole at the smoke profile."""

import pytest
import smoke

from neuralef import notebooks

SOURCES = sorted(set(notebooks.sources()) - set(notebooks.sources("01", "1*", "90")))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_notebook_runs_at_smoke(source, results):
    smoke.runs_once(source, results)


def test_every_figure_names_the_data_it_shows(results):
    """Runs after the notebooks above, as the next."""
    smoke.figures_name_their_data(results)


def test_pages_describe_their_figures(results):
    smoke.pages_describe_their_figures(results)
