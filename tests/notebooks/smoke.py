"""What a whole run at the smoke profile must hold for every notebook.

Two files of tests share the notebooks, so that each of two processes runs half of them.
"""

from html import unescape

from neuralef import notebooks
from neuralef.config import load_profile
from neuralef.studies import open_study


class AtSmoke:
    """The tests, in the order they depend on; a subclass names its notebooks.

    Attributes:
        SOURCES: Paths of the notebooks, each a ``source`` of the first test.
    """

    def test_notebook_runs(self, source, results):
        own = load_profile("smoke").notebook_parameters.get(source.name[:2], {})
        parameters = {"profile": "smoke", "results": str(results), **own}
        assert notebooks.execute(source, parameters, results)
        assert (results / "notebooks" / source.name).is_file()
        assert not notebooks.execute(source, parameters, results), "an unchanged notebook must not run again"

    def test_every_figure_names_the_data_it_shows(self, results):
        """The captions carry what the study says of itself."""
        description = open_study("smoke", progress=False).describe()
        captions = [path.read_text() for path in (results / "figures").glob("*.txt")]
        assert captions
        assert all("synthetic_scenes" in caption for caption in captions), description

    def test_pages_describe_their_figures(self, results):
        """nbconvert writes ``No description`` where an image has no alternative text."""
        figures = list((results / "figures").glob("*.png"))
        assert figures
        for figure in figures:
            (page,) = (results / "notebooks").glob(f"{figure.name[:2]}_*.html")
            assert figure.with_suffix(".txt").read_text().strip() in unescape(page.read_text()), figure.name
