"""What several test modules share: the smallest experiment, of a few synthetic scenes and no weights, and its like."""

from dataclasses import replace

import numpy as np
import torch
from trees import SCENES

from neuralef.augmentation import View
from neuralef.backbones import ColourBackbone, available
from neuralef.clustering import ClusterHead
from neuralef.config import Config
from neuralef.workbench import Experiment

CONFIG = Config(
    image_size=64, width=16, feature_neighbors=8, epochs=2, batch_images=3, kmeans_iterations=5, pca_channels=8
)
SLIDING = replace(CONFIG, protocol="sliding", short_side=56, window=40, window_stride=20)
EXPERIMENT = Experiment(
    dataset="synthetic_scenes", dataset_options=SCENES, backbone="colour_patches", clusters=5, seed=0, config=CONFIG
)

PLAIN = View(1.0, 0.0, 0.0, False, None, None, None, None, False)
"""The view that changes nothing."""


def on_folder(name):
    """The experiment on a dataset in a folder."""
    return replace(EXPERIMENT, dataset=name, dataset_options={})


def photograph(height, width):
    """Noise of the shape of a photograph, the same each time."""
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


class Colours(ClusterHead):
    """Eight clusters whose logits are the first eight channels of the features."""

    num_clusters = 8

    def logits(self, levels):
        return 4 * levels[..., :8]


class Recording(ColourBackbone):
    """The backbone of colours, which notes the precisions it is asked for."""

    def __init__(self):
        super().__init__(next(spec for spec in available() if spec.name == "colour_patches"))
        self.asked = set()

    def forward(self, images, *, precision="float32"):
        self.asked.add(precision)
        return super().forward(images)


def same(first, second):
    """Whether the weights of two networks of one shape are bit-identical."""
    return all(torch.equal(first[name], second[name]) for name in first)
