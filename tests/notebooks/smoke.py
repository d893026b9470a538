"""What a whole run at the smoke profile must hold for every notebook; two files of tests share the notebooks, for a
process each."""

from html import unescape

from neuralef import notebooks
from neuralef.config import load_profile
from neuralef.experiments import open_study


def runs_once(source, results):
    own = load_profile("smoke").notebook_parameters.get(source.name[:2], {})
    parameters = {"profile": "smoke", "results": str(results), **own}
    assert notebooks.execute(source, parameters, results)
    assert (results / "notebooks" / source.name).is_file()
    assert not notebooks.execute(source, parameters, results), "an unchanged notebook must not run again"


def figures_name_their_data(results):
    """The captions carry what the study says of itself."""
    description = open_study("smoke", progress=False).describe()
    captions = [path.read_text() for path in (results / "figures").glob("*.txt")]
    assert captions
    assert all("synthetic_scenes" in caption for caption in captions), description


def pages_describe_their_figures(results):
    """nbconvert writes ``No description`` where an image has no alternative text."""
    for figure in (results / "figures").glob("*.png"):
        (page,) = (results / "notebooks").glob(f"{figure.name[:2]}_*.html")
        assert figure.with_suffix(".txt").read_text().strip() in unescape(page.read_text()), figure.name
