from dataclasses import asdict, fields, replace
from typing import get_args

import pytest
import torch
import yaml

from neuralef import config as config_module
from neuralef import notebooks
from neuralef.clustering import Method
from neuralef.config import Config, StandIn, load_profile, parse_assignments, profiles
from neuralef.errors import InputError
from neuralef.precision import fastest_device, fastest_precision
from neuralef.studies import described

PAPER = {
    "image_size": 320,
    "feature_neighbors": 256,  # k
    "pixel_weight": 0.3,  # alpha
    "pixel_neighbors": (10, 5),
    "coordinate_weights": (2.0, 0.1),
    "width": None,  # 3C
    "depth": 2,
    "quantise": True,
    "temperature_start": 1.0,
    "temperature_end": 0.3,
    "orthogonality_weight": 0.08,  # beta at K = 256
    "trace_scale": 0.01,
    "epochs": 40,
    "batch_images": 16,
    "patch_stride": 1,
    "learning_rate": 1e-3,
    "protocol": "crop320",
}
NOT_IN_PAPER = {
    "augment": False,
    "train_crop": None,
    "mask_padding": True,
    "short_side": None,
    "window": None,
    "window_stride": None,
    "crf": "none",
    "blocks": None,
    "high_level": None,
    "checkpoint": None,
    "precision": "float32",
    "device": "cpu",
    "attention": "softmax",
    "mlp_ratio": 0.5,
    "head_bias": True,
    "standardise_inputs": False,
    "kmeans_patches": 5_200_000,
    "kmeans_iterations": 100,
    "pca_channels": 64,
    "spectral_landmarks": 24_000,
    "spectral_neighbors": 15,
    "deep_spectral_eigenvectors": 15,
    "deep_spectral_segments": 15,
    "deep_spectral_colour_weight": 10.0,
}


def test_defaults_are_the_paper_s():
    assert asdict(Config()) == PAPER | NOT_IN_PAPER


@pytest.mark.parametrize(("clusters", "weight"), [(64, 0.32), (128, 0.16), (256, 0.08), (512, 0.04)])
def test_beta_times_k_is_constant(clusters, weight):
    assert Config().orthogonality_weight_for(clusters) == pytest.approx(weight)


@pytest.mark.parametrize(
    ("image_size", "patch", "crop"),
    [(320, 14, 322), (320, 16, 320), (320, 8, 320), (224, 14, 224), (300, 32, 288), (6, 16, 16), (1, 14, 14)],
)
def test_crop_is_the_nearest_multiple_of_the_patch(image_size, patch, crop):
    assert Config(image_size=image_size).crop_size(patch) == crop


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("epochs", "7", 7),
        ("epochs", 7.0, 7),
        ("pixel_weight", "0", 0.0),
        ("learning_rate", "3e-4", 3e-4),
        ("learning_rate", 1, 1.0),
        ("blocks", "0,4,8", (0, 4, 8)),
        ("blocks", "-3; -2;-1", (-3, -2, -1)),
        ("blocks", [1, 2, 3], (1, 2, 3)),
        ("blocks", "none", None),
        ("coordinate_weights", "1,0.5", (1.0, 0.5)),
        ("width", "384", 384),
        ("width", "None", None),
        ("width", None, None),
        ("checkpoint", "some/file.safetensors", "some/file.safetensors"),
        ("quantise", "false", False),
        ("quantise", "True", True),
        ("quantise", "0", False),
        ("quantise", False, False),
        ("high_level", "keys", "keys"),
        ("high_level", "none", None),
        ("precision", "bfloat16", "bfloat16"),
        ("protocol", "sliding", "sliding"),
        ("window", "480", 480),
        ("train_crop", "480", 480),
        ("window", "none", None),
        ("crf", "none", "none"),
        ("crf", "black", "black"),
        ("augment", "true", True),
    ],
)
def test_strings_become_values_of_the_field_s_type(field, text, value):
    found = getattr(Config().updated({field: text}), field)
    assert found == value
    assert type(found) is type(value)


def test_a_profile_trains_on_a_dataset_as_its_tables_do():
    paper = load_profile("paper")
    assert paper.config_for("pascal_context") == paper.config
    assert paper.config_for("cityscapes_27") == replace(paper.config, train_crop=768, batch_images=8)
    assert paper.config_for("ade20k").epochs == 20
    smoke = load_profile("smoke")  # whose tables put other photographs in the place of the paper's
    assert smoke.config_for("pascal_context") == smoke.config


def test_updating_leaves_the_other_fields_and_the_original():
    before = Config(epochs=3)
    after = before.updated({"width": "64", "batch_images": "2"})
    assert before == Config(epochs=3)
    assert after == Config(epochs=3, width=64, batch_images=2)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", "many"),
        ("epochs", "2.5"),
        ("epochs", 2.5),
        ("epochs", "none"),
        ("learning_rate", "fast"),
        ("blocks", "0,a,8"),
        ("blocks", "0,,8"),
        ("blocks", 5),
        ("quantise", "maybe"),
        ("quantise", "none"),
        ("precision", "float16"),
        ("device", "gpu"),
        ("high_level", "values"),
        # of the right type, but of no use
        ("image_size", "0"),
        ("feature_neighbors", "-1"),
        ("epochs", "0"),
        ("patch_stride", "0"),
        ("depth", "0"),
        ("width", "0"),
        ("learning_rate", "0"),
        ("learning_rate", "nan"),
        ("learning_rate", "inf"),
        ("temperature_end", "0"),
        ("pixel_weight", "-0.1"),
        ("pixel_weight", "nan"),
        ("pca_channels", "0"),
        ("spectral_landmarks", "0"),
        ("spectral_neighbors", "-1"),
        ("deep_spectral_eigenvectors", "0"),
        ("deep_spectral_segments", "0"),
        ("deep_spectral_colour_weight", "-1"),
        ("pixel_neighbors", "-3,5"),
        ("coordinate_weights", "nan,1"),
        ("coordinate_weights", "1e+30,1.0"),  # squares of distances overflow, and no patch has a neighbour
        ("pixel_weight", "1e+30"),
        ("temperature_start", "1e-30"),
        ("trace_scale", "1e+300"),
        ("deep_spectral_colour_weight", "1e+300"),
        ("protocol", "crop"),
        ("short_side", "0"),
        ("window", "-1"),
        ("window_stride", "0"),
        ("train_crop", "0"),
        ("crf", "grey"),
    ],
)
def test_a_bad_value_is_named_with_its_field(field, value):
    with pytest.raises(InputError) as refused:
        Config().updated({field: value})
    message = str(refused.value)
    assert field in message
    for part in str(value).split(","):
        assert part in message


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("epochs", "many", "a whole number"),
        ("width", "wide", "a whole number, or none"),
        ("learning_rate", "fast", "a number"),
        ("quantise", "maybe", "true or false"),
        ("blocks", "a", "whole numbers separated by commas, or none"),
        ("coordinate_weights", "", "numbers separated by commas"),
    ],
)
def test_what_a_field_takes_is_said_in_words(field, value, expected):
    with pytest.raises(InputError, match=f"^{field} is '{value}'; it must be {expected}$"):
        Config().updated({field: value})


def test_an_unknown_field_is_named_with_the_known_ones():
    with pytest.raises(InputError, match="unknown hyper-parameter 'alpha'") as refused:
        Config().updated({"epochs": "2", "alpha": "0.3"})
    assert all(field.name in str(refused.value) for field in fields(Config))


def test_each_pixel_search_needs_its_coordinate_weight():
    with pytest.raises(InputError, match=r"pixel_neighbors \(10, 5\) and coordinate_weights \(2\.0,\)"):
        Config(coordinate_weights=(2.0,))


def test_assignments_split_at_the_first_equals_sign():
    assert parse_assignments(["width=384", "checkpoint=a=b"]) == {"width": "384", "checkpoint": "a=b"}
    with pytest.raises(InputError, match="'width'"):
        parse_assignments(["epochs=1", "width"])


def test_there_are_profiles():
    assert {"smoke", "quick", "standard", "paper"} <= set(profiles())


def test_quick_leaves_out_the_notebooks_that_train_again_and_again():
    chosen = [path.name[:2] for path in notebooks.sources(*load_profile("quick").notebooks)]
    assert chosen == ["01", "10", "11", "12", "13", "14", "90"]


def test_standard_and_studies_run_every_notebook_between_them():
    everything = notebooks.sources()
    assert notebooks.sources(*load_profile("smoke").notebooks) == everything
    parts = [notebooks.sources(*load_profile(name).notebooks) for name in ("standard", "studies")]
    assert sorted(set().union(*parts)) == everything
    assert [path.name[:2] for path in set(parts[0]) & set(parts[1])] == ["90"]


@pytest.mark.parametrize("name", profiles())
def test_profiles_set_parameters_that_their_notebooks_have(name):
    parameters = load_profile(name).notebook_parameters
    notebooks.check_numbers(parameters)
    for number, values in parameters.items():
        (source,) = notebooks.sources(number)
        notebooks.check_parameters(source, values)


def test_an_unquoted_or_unknown_number_of_a_notebook_is_named():
    for number in (32, "77"):
        with pytest.raises(InputError, match=f"{number!r}.*in quotes"):
            notebooks.check_numbers({"30": {}, number: {}})


def test_only_studies_asks_for_further_datasets():
    further = {
        name
        for name in profiles()
        for values in load_profile(name).notebook_parameters.values()
        if "datasets" in values
    }
    assert further == {"studies"}


def test_standard_is_quick_with_more_seeds():
    quick, standard = load_profile("quick"), load_profile("standard")
    assert standard.config == quick.config
    assert (standard.seeds, standard.tables.seeds) == ((0, 1, 2), (0, 1, 2))


def test_studies_are_quick_with_more_seeds():
    quick, studies = load_profile("quick"), load_profile("studies")
    assert studies.config == quick.config
    assert studies.seeds == (0, 1, 2, 3, 4)


@pytest.mark.parametrize("name", profiles())
def test_every_profile_loads_and_sets_what_its_file_says(name):
    profile = load_profile(name)
    document = yaml.safe_load((config_module.PROFILES / f"{name}.yaml").read_text())
    if "settings_of" in document:
        document = yaml.safe_load((config_module.PROFILES / f"{document['settings_of']}.yaml").read_text())
    assert profile.name == name
    assert set(profile.methods) <= set(get_args(Method))
    assert profile.seeds
    for field, value in document["config"].items():
        fastest = {"precision": fastest_precision(), "device": fastest_device()}
        said = fastest[field] if value == "fastest" else tuple(value) if isinstance(value, list) else value
        assert getattr(profile.config, field) == said
    untouched = asdict(profile.config).keys() - document["config"].keys()
    assert all(getattr(profile.config, field) == getattr(Config(), field) for field in untouched)


# What the paper's facts say, in their order; the numbers in comments are their sections and items.
PAPER_PROFILE = {
    "feature_neighbors": 256,  # 1.2
    "pixel_neighbors": (10, 5),  # 4.4: k-tilde of the two searches
    "coordinate_weights": (2.0, 0.1),  # 4.4
    "pixel_weight": 0.3,  # 1.4: alpha
    "orthogonality_weight": 0.08,  # 1.10: beta at K = 256
    "trace_scale": 0.01,  # 4.3: t
    "depth": 2,  # 1.6: blocks
    "width": None,  # 1.6: 3C channels
    "blocks": None,  # 1.6: low, middle and last, the backbone's own
    "standardise_inputs": False,
    "quantise": True,  # 1.7
    "temperature_start": 1.0,  # 1.7
    "temperature_end": 0.3,  # 1.7
    "learning_rate": 1e-3,  # 1.10
    "epochs": 40,  # 1.10
    "batch_images": 16,  # 1.10
    "patch_stride": 1,
    "image_size": 320,  # 2: "320 crop"
    "train_crop": 480,  # 2: crop and window of Pascal Context
    "short_side": None,  # 2: Pascal Context's own, see PAPER_SLIDING
    "augment": True,  # 2: training augmentation
    "protocol": "crop320",  # 2
    "crf": "colour",  # 2: dense CRF afterwards
}


@pytest.mark.parametrize(("field", "value"), PAPER_PROFILE.items())
def test_profile_paper_has_the_paper_s_value(field, value):
    assert getattr(load_profile("paper").config, field) == value
    written = yaml.safe_load((config_module.PROFILES / "paper.yaml").read_text())["config"]
    assert field in written, "the profile names every hyper-parameter of the paper, defaults too"


def test_profile_paper_is_table_1():
    paper = load_profile("paper")
    assert (paper.dataset, paper.backbone, paper.clusters) == ("pascal_context", "vit_small_patch16_384", 256)
    assert set(paper.methods) == {"kmeans", "ours", "ours_star"}
    assert paper.fallback_dataset is None, "other photographs are not the paper's"


def test_training_crops_are_those_of_the_protocol_or_their_own():
    assert Config(image_size=320, train_crop=480).train_crop_size(16) == 480
    assert Config(image_size=320, train_crop=480).train_crop_size(14) == 476
    assert Config(image_size=320).train_crop_size(14) == Config(image_size=320).crop_size(14) == 322


def test_the_tables_of_a_profile_are_read_with_their_types():
    setup = load_profile("standard").tables
    assert setup.seeds == (0, 1, 2)
    assert setup.datasets["cityscapes_27"] == StandIn(name="camvid")
    assert not setup.values, "the tables take the paper's values"
    assert load_profile("smoke").tables.values["pixel_weight"] == (0, 0.3)
    assert load_profile("quick").tables is None
    assert load_profile("paper").tables.datasets["ade20k"].config["epochs"] == 20


def test_an_unknown_profile_is_named_with_the_known_ones():
    with pytest.raises(InputError, match=r"unknown profile 'leisurely'; there are .*quick.*smoke"):
        load_profile("leisurely")


@pytest.mark.parametrize(
    ("known", "typo"),
    [
        ("  epochs:", "  epoch:"),
        ("  transfer:", "  transfers:"),
        ("\nnotebook_parameters:", "\nnotebook_parameter:"),
        ("\ndataset_options:", "\ndataset_option:"),
        ("\ndataset:", "\nname: smoke\ndataset:"),
    ],
)
def test_a_profile_with_an_unknown_entry_is_refused(tmp_path, monkeypatch, known, typo):
    write_changed_profile(tmp_path, monkeypatch, known, typo)
    with pytest.raises(InputError, match=rf"'{typo.split(':')[0].strip()}'.*; there are .*{known.strip()[:-1]}"):
        load_profile("changed")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("\nclusters: 12", "no entry 'clusters' of profile 'changed'; needed are dataset, backbone, clusters"),
        ("\n  seeds: [0, 1]", "no entry 'seeds' of the tables of profile 'changed'; needed are seeds"),
    ],
)
def test_a_profile_that_lacks_an_entry_is_refused(tmp_path, monkeypatch, entry, message):
    write_changed_profile(tmp_path, monkeypatch, entry, "")
    with pytest.raises(InputError, match=message):
        load_profile("changed")


def test_a_profile_shares_the_settings_of_another_where_it_has_none_of_its_own(tmp_path, monkeypatch):
    write_changed_profile(tmp_path, monkeypatch, "\nconfig:", "\nsettings_of: other\nconfig:")
    (tmp_path / "other.yaml").write_text("config: {epochs: 99, depth: 1}")
    config = load_profile("changed").config
    assert (config.epochs, config.depth) == (3, 1)


def test_a_profile_that_shares_the_settings_of_none_is_refused(tmp_path, monkeypatch):
    write_changed_profile(tmp_path, monkeypatch, "\nconfig:", "\nsettings_of: leisurely\nconfig:")
    with pytest.raises(InputError, match="unknown profile 'leisurely'; there are changed"):
        load_profile("changed")


def write_changed_profile(folder, monkeypatch, old, new):
    text = (config_module.PROFILES / "smoke.yaml").read_text()
    assert text.count(old) == 1
    (folder / "changed.yaml").write_text(text.replace(old, new))
    monkeypatch.setattr(config_module, "PROFILES", folder)


@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [
        ({"avx2": True, "avx512_bf16": False, "amx_bf16": False}, "float32"),
        ({"avx512_bf16": True}, "bfloat16"),
        ({"avx512_bf16": False, "amx_bf16": True}, "bfloat16"),
        ({"neon": True, "bf16": True}, "float32"),  # not measured there
    ],
)
def test_the_fastest_precision_is_that_of_the_processor_and_said(monkeypatch, capabilities, precision):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    quick = load_profile("quick")
    assert quick.config.precision == Config().updated({"precision": "fastest"}).precision == precision
    assert ("in float32" in described(quick, "dataset x")) == (precision == "float32")


def test_a_profile_in_float32_by_its_own_choice_needs_no_remark(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert load_profile("paper").config.precision == "float32"
    assert not load_profile("paper").remark
