"""The smallest experiment: a few synthetic scenes and a backbone without weights."""

from dataclasses import replace

from trees import SCENES

from neuralef.config import Config
from neuralef.workbench import Experiment

CONFIG = Config(
    image_size=64, width=16, feature_neighbors=8, epochs=2, batch_images=3, kmeans_iterations=5, pca_channels=8
)
SLIDING = replace(CONFIG, protocol="sliding", short_side=56, window=40, window_stride=20)
EXPERIMENT = Experiment(
    dataset="synthetic_scenes", dataset_options=SCENES, backbone="colour_patches", clusters=5, seed=0, config=CONFIG
)


def on_folder(name):
    """The experiment on a dataset in a folder."""
    return replace(EXPERIMENT, dataset=name, dataset_options={})
