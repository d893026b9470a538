"""A million patches, from images to table, and what a pilot of a twenty-fifth of it predicted."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from benchmarks import inputs
from benchmarks.harness import Row, less_is_better, measure
from neuralef.experiments import run_experiment
from neuralef.workbench import Experiment

NAME = "scale"
IMAGES = (1600, 400)  # to train and to validate: 1,058,000 patches of 14 x 14 pixels
PILOT = 25
EPOCHS = 10
MEMORY_LIMIT_MB = 8000
METHODS = ("kmeans", "ours", "ours_star")
STAGES = {
    "extract_s": "painting, decoding, backbone",
    "train_s": "training psi",
    "cluster_s": "K-means",
    "eval_s": "evaluation",
}


def run() -> Iterator[Row]:
    """Seconds of each stage beside the cost model, and the memory of the process."""
    with TemporaryDirectory() as folder:
        pilot = measure(experiment, f"{folder}/pilot", *(images // PILOT for images in IMAGES), repeats=0).result
        whole = measure(experiment, f"{folder}/whole", *IMAGES, repeats=0)
    images = sum(IMAGES)
    for stage, title in STAGES.items():
        model = predicted(stage, pilot)
        yield less_is_better(NAME, f"{images} images, {title}", "time, s", "cost model", (model, whole.result[stage]))
    case = f"{images} images, {images * whole.result['patches']:,} patches"
    model = sum(predicted(stage, pilot) for stage in STAGES)
    yield less_is_better(NAME, case, "time from images to table, s", "cost model", (model, whole.result["total_s"]))
    memory = (MEMORY_LIMIT_MB, whole.process_mb)
    yield less_is_better(NAME, case, "memory of the process, MB", "limit", memory, 1)


def predicted(stage: str, pilot: dict[str, float]) -> float:
    """The cost model: every stage is taken to be linear in the images.

    K-means is not: it runs on at most ``kmeans_patches`` patches, and only psi's pass over all images before it grows.
    Its stage is predicted too high for that, and says so.
    """
    return pilot[stage] * PILOT


def experiment(folder: str, train: int, val: int) -> Callable[[], dict[str, float]]:
    """The whole pipeline on painted scenes with an empty cache."""
    os.environ["NEURALEF_CACHE"] = f"{folder}/cache"
    profile = inputs.study().profile
    config = profile.config.updated({"epochs": EPOCHS})
    scenes = {"train": train, "val": val, "size": (240, 320), "seed": 0}
    spec = Experiment(
        dataset="synthetic_scenes",
        dataset_options=scenes,
        backbone=profile.backbone,
        clusters=profile.clusters,
        seed=0,
        config=config,
    )

    def pipeline() -> dict[str, float]:
        began = perf_counter()
        rows = [row for row in run_experiment(spec, METHODS, Path(folder)) if row["matching"] == "max_iou"]
        seconds = {"total_s": perf_counter() - began}
        for stage in ("extract_s", "train_s"):
            seconds[stage] = rows[-1][stage]
        for stage in ("cluster_s", "eval_s"):
            seconds[stage] = sum(row[stage] for row in rows)
        patch = inputs.study().bench.backbone.patch_size
        return {**seconds, "patches": (config.crop_size(patch) // patch) ** 2}

    return pipeline
