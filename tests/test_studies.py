from dataclasses import replace

import pytest
from trees import write_folder_dataset

from neuralef.config import load_profile
from neuralef.errors import InputError
from neuralef.studies import open_studies, open_study


def test_a_dataset_that_cannot_be_had_is_left_out_and_named(data_folder, no_network, tmp_path):
    name = write_folder_dataset(tmp_path / "data")
    studies = open_studies("smoke", ["camvid", name, "synthetic_scenes"], progress=False)
    assert [study.dataset_name for study in studies.members] == [name, "synthetic_scenes"]
    assert list(studies.absent) == ["camvid"]
    described = studies.describe()
    assert described.startswith(f"profile smoke: datasets {name}, synthetic_scenes; backbone colour_patches")
    assert "; not run: camvid (" in described
    assert studies.members[1].bench.dataset_options == studies.members[1].profile.dataset_options
    assert [item.seed for item in studies.members[0].experiments()] == [0, 1]
    with pytest.raises(InputError, match="none of the datasets"):
        open_studies("smoke", ["camvid"], progress=False)
    with pytest.raises(InputError, match="moonvid"):
        open_studies("smoke", ["synthetic_scenes", "moonvid"], progress=False)


def test_a_profile_s_own_dataset_has_its_fallback(data_folder, no_network):
    studies = open_studies("quick", ["stanford_background", "camvid"], progress=False)
    assert [study.dataset_name for study in studies.members] == ["synthetic_scenes"]
    assert "because stanford_background could not be had" in studies.describe()
    for names in (["stanford_background", "synthetic_scenes"], ["synthetic_scenes", "stanford_background"]):
        assert "because stanford_background could not be had" in open_studies("quick", names, progress=False).describe()
    assert open_studies("smoke", progress=False).describe() == open_study("smoke", progress=False).describe()


def test_a_profile_s_dataset_without_fallback_is_fetched(data_folder, no_network, monkeypatch):
    profile = replace(load_profile("smoke"), dataset="camvid", fallback_dataset="")
    monkeypatch.setattr("neuralef.studies.load_profile", lambda name: profile)
    with pytest.raises(InputError, match="the tests have no network"):
        open_study("alone", progress=False)
    fetched = []
    monkeypatch.setattr("neuralef.datasets.prepare", fetched.append)
    assert open_study("alone", progress=False).dataset_name == "camvid"
    assert fetched == ["camvid"]


def test_the_key_of_the_data_changes_with_every_dataset(data_folder, no_network, tmp_path):
    name = write_folder_dataset(tmp_path / "data")
    lists = ([], [name], ["synthetic_scenes", name], ["synthetic_scenes", "camvid"])
    keys = {open_studies("smoke", names, progress=False).data_key() for names in lists}
    assert len(keys) == len(lists)


def test_a_dataset_is_studied_at_its_own_settings(monkeypatch):
    monkeypatch.setattr("neuralef.datasets.obtain", lambda name: "")
    studies = open_studies("paper", ["pascal_context", "ade20k"], progress=False)
    profile = load_profile("paper")
    assert [study.bench.config for study in studies.members] == [profile.config, profile.config_for("ade20k")]
    for study in studies.members:
        assert {experiment.config for experiment in study.experiments()} == {study.bench.config}


def test_the_key_of_the_data_changes_with_the_classes(tmp_path):
    name = write_folder_dataset(tmp_path / "data")
    table, keys = tmp_path / "data" / "classes.csv", set()
    first, *others = table.read_text().splitlines()[1:]
    for line in (first, first.replace(",", ",blue ", 1), f"{first.rpartition(',')[0]},7"):
        table.write_text("\n".join(["id,name,red,green,blue", line, *others]) + "\n")
        keys.add(open_studies("smoke", [name], progress=False).data_key())
    assert len(keys) == 3
