from dataclasses import dataclass, fields, replace
from typing import get_args

import pytest
import small
import torch

from neuralef import methods
from neuralef.clustering import FittedHead, Method
from neuralef.config import CLUSTERING_PREFIXES, Config
from neuralef.experiments import run_experiment
from neuralef.methods import REGISTRY, Recipe
from neuralef.paths import PACKAGE
from neuralef.workbench import Workbench, open_workbench

CONFIG = Config(
    image_size=64,
    width=16,
    feature_neighbors=8,
    epochs=1,
    batch_images=3,
    kmeans_iterations=5,
    pca_channels=6,
    spectral_landmarks=120,
    spectral_neighbors=7,
    deep_spectral_segments=6,
)
EXPERIMENT = replace(small.EXPERIMENT, config=CONFIG)
WITHOUT_PSI = [name for name, recipe in REGISTRY.items() if not recipe.needs_psi]


pytestmark = pytest.mark.usefixtures("own_cache")


@dataclass(frozen=True)
class Brightest(FittedHead):
    """A method of two numbers: the two clusters are above and below a threshold of the first channel."""

    threshold: torch.Tensor
    num_clusters: int = 2

    def logits(self, levels):
        return torch.stack([levels[..., 0] - self.threshold, self.threshold - levels[..., 0]], dim=-1)

    def tensors(self):
        return {"threshold": self.threshold}

    @classmethod
    def from_tensors(cls, tensors, psi, config):
        return cls(tensors["threshold"])


@pytest.fixture
def registered():
    fits = []

    def fit(store, config, *, num_clusters, seed, progress):
        fits.append(store.key)
        return Brightest(store.levels(slice(None))[..., 0].median())

    methods.register("brightest", Recipe(Brightest, fit, modules=("kmeans",)))
    yield fits
    del REGISTRY["brightest"]


def test_a_registered_method_is_fitted_once_kept_and_scored(registered, tmp_path):
    experiment = replace(EXPERIMENT, clusters=2)
    for _ in range(2):
        rows = run_experiment(
            experiment, ("brightest",), tmp_path / "out", bench=open_workbench(experiment), progress=False
        )
    assert {row["method"] for row in rows} == {"brightest"}
    assert open_workbench(experiment).fitted("brightest", 2, 0).head.threshold.ndim == 0
    assert len(registered) == 1


def test_names_of_the_type_are_the_registered_ones():
    assert set(get_args(Method)) == set(REGISTRY)


def test_a_name_is_registered_once_and_something_is_fitted():
    with pytest.raises(ValueError, match="a method 'kmeans' already"):
        methods.register("kmeans", REGISTRY["kmeans"])
    with pytest.raises(ValueError, match="'nothing' has nothing to fit"):
        methods.register("nothing", Recipe(Brightest, None))


@pytest.mark.parametrize(("name", "recipe"), REGISTRY.items())
def test_a_recipe_names_real_settings_of_clustering_and_real_modules(name, recipe):
    known = {field.name for field in fields(Config)}
    assert set(recipe.settings) <= known
    assert all(setting.startswith(CLUSTERING_PREFIXES) for setting in recipe.settings)
    assert all((PACKAGE / f"{module}.py").is_file() for module in recipe.modules)


def test_every_setting_of_clustering_belongs_to_a_method():
    ours = {field.name for field in fields(Config) if field.name.startswith(CLUSTERING_PREFIXES)}
    assert ours == {setting for recipe in REGISTRY.values() for setting in recipe.settings}


CHANGED = {
    "kmeans_patches": 50,
    "kmeans_iterations": 6,
    "pca_channels": 5,
    "spectral_landmarks": 100,
    "spectral_neighbors": 6,
    "deep_spectral_eigenvectors": 8,
    "deep_spectral_segments": 5,
    "deep_spectral_colour_weight": 1.0,
    "epochs": 2,
    "feature_neighbors": 9,
    "pixel_weight": 0.1,
    "learning_rate": 1e-4,
}


@pytest.mark.parametrize("method", [name for name, recipe in REGISTRY.items() if recipe.fit])
def test_a_fit_is_kept_under_what_it_depends_on_and_nothing_else(method):
    bench, recipe = open_workbench(EXPERIMENT, progress=False), REGISTRY[method]
    key = bench._head_key(method, recipe, 5, 0, CONFIG)
    assert key != bench._head_key(method, recipe, 6, 0, CONFIG)
    assert key != bench._head_key(method, recipe, 5, 1, CONFIG)
    for name, value in CHANGED.items():
        depends = name in recipe.settings or (recipe.needs_psi and not name.startswith(CLUSTERING_PREFIXES))
        other = bench._head_key(method, recipe, 5, 0, replace(CONFIG, **{name: value}))
        assert (other != key) == depends, name


def test_psi_does_not_depend_on_settings_of_clustering():
    bench = open_workbench(EXPERIMENT, progress=False)
    key = bench.training_key(5, 0, CONFIG)
    for name, value in CHANGED.items():
        other = bench.training_key(5, 0, replace(CONFIG, **{name: value}))
        assert (other == key) == name.startswith(CLUSTERING_PREFIXES), name


@pytest.mark.parametrize("method", WITHOUT_PSI)
def test_methods_without_psi_train_nothing(method, monkeypatch):
    monkeypatch.setattr(Workbench, "training", lambda *_: pytest.fail("psi was trained"))
    assert open_workbench(EXPERIMENT, progress=False).fitted(method, 5, 0).seconds > 0


@pytest.mark.parametrize("method", REGISTRY)
def test_cost_of_a_new_image_holds_the_passes_of_the_backbone_beyond_the_first(method):
    bench = open_workbench(EXPERIMENT, progress=False)
    head = bench.head(method, 5, 0)
    images = len(bench.evaluated(head))  # extracts what the head sees, before passes are counted
    passes = []
    bench.backbone.register_forward_pre_hook(lambda *_: passes.append(method))
    assert bench.seconds_per_image(head) > 0
    assert head.views == (2 if method in ("kmeans_plus", "ours_plus") else 1)
    assert images == 3
    assert len(passes) == (images + 1) * (head.views**2 - 1)  # one image more, to warm up
