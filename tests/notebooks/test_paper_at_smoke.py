"""The primer, the notebooks of the paper's method and the report, run whole at the smoke profile."""

import json

from smoke import AtSmoke

from neuralef import notebooks


class TestPaper(AtSmoke):
    SOURCES = notebooks.sources("01", "1*", "90")

    def test_report_is_one_page_with_every_figure(self, results):
        page = (results / "report" / "index.html").read_text()
        figures = list((results / "figures").glob("*.png"))
        assert page.count("data:image/png;base64,") == len(figures) > 5
        assert json.loads((results / "notebooks" / f"{self.SOURCES[0].stem}.json").read_text())["digest"]
