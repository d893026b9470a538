"""All other notebooks, those of tables that vary something and of the studies, run whole at the smoke profile."""

from html import unescape

import pandas as pd
from smoke import AtSmoke

from neuralef import notebooks


class TestStudies(AtSmoke):
    SOURCES = sorted(set(notebooks.sources()) - set(notebooks.sources("01", "1*", "90")))


def test_parts_of_ours_plus_are_said_not_to_be_run_where_their_dataset_cannot_be_had(tmp_path, monkeypatch):
    """After the class, whose cache has the psi that the other dataset needs."""
    (source,) = notebooks.sources("35")
    monkeypatch.setenv("NEURALEF_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # where nothing answers
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    out, reason = tmp_path / "out", "not run: camvid is not here and could not be fetched"
    parameters = {"profile": "smoke", "results": str(out), "datasets": ["synthetic_scenes", "camvid"]}
    assert notebooks.execute(source, parameters, out)
    page = unescape((out / "notebooks" / f"{source.stem}.html").read_text())
    assert f"K = 12, 2 seeds: {reason}" in page
    parts, scores = (pd.read_csv(out / "tables" / f"35_{stem}.csv") for stem in ("parts", "scores"))
    assert (parts.drop(columns="part") == "not run").all(axis=None)
    assert (scores["camvid"] == "not run").all()
    assert (scores["synthetic_scenes"] != "not run").all()
    captions = [*(out / "figures").glob("*.txt"), out / "tables" / "35_parts.md"]
    assert len(captions) == 3
    assert all(reason in path.read_text() for path in captions)
    assert "not run: camvid" in (out / "tables" / "35_scores.md").read_text()
