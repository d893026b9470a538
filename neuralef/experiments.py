"""One experiment is one frozen specification; running it gives rows of ``results.csv``.

Everything expensive is kept under a digest of all that determines it (specification, bytes of the data, weights, code):
features and psi in the cache shared by all runs, contingency tables under ``<out>/runs/``. An interrupted run takes up
what is whole and computes the rest; rows are then derived from the contingency tables, so they are the same either way.
"""

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from neuralef import backbones, crf, datasets, provenance
from neuralef.augmentation import AugmentedPhotographs
from neuralef.backbones import Backbone
from neuralef.clustering import ClusterHead, EigenfunctionHead, Method
from neuralef.config import FEATURE_FIELDS, Config
from neuralef.datasets.base import Dataset
from neuralef.datasets.crops import crop_image, crop_label
from neuralef.errors import InputError
from neuralef.evaluation import MATCHINGS, Scores, image_counts, score
from neuralef.features import FeatureStore, extract, to_tensor
from neuralef.files import (
    computed_once,
    ensure_writable_folder,
    held_alone,
    read_checked_tensors,
    read_json,
    tensors_digest,
    write_checked_tensors,
    write_json,
    write_png,
)
from neuralef.methods import REGISTRY, Recipe
from neuralef.paths import cache_root
from neuralef.precision import require
from neuralef.protocols import Sliding
from neuralef.provenance import digest as _digest
from neuralef.results import CLASS_COLUMNS, ResultRow, append_classes, append_rows, check_columns, parameter_columns
from neuralef.segmentation import Segmenter, joint_logits, merged_maps, segment_store, store_windows
from neuralef.tally import Tally
from neuralef.training import Training, check_sizes, train, training_settings

log = logging.getLogger(__name__)

TRAINING_MODULES = ("config", "precision", "loops", "graph", "graph_torch", "eigenfunctions", "objective", "training")
AUGMENTATION_MODULES = ("backbones", "features", "protocols", "augmentation")
EVALUATION_MODULES = (
    "kmeans",
    "spectral",
    "clustering",
    "deep_spectral",
    "upsampling",
    "ours_plus",
    "methods",
    "protocols",
    "crf",
    "segmentation",
    "evaluation",
    "tally",
    "datasets.crops",
    "experiments",
)


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """All that a reader must know to repeat a number, but for the method.

    Attributes:
        dataset: Registry name of the dataset, or ``folder:PATH``.
        backbone: Name of the backbone, for :func:`neuralef.backbones.build`.
        clusters: Number of clusters, the paper's K.
        seed: Seed of psi, batches, noise and K-means.
        config: Hyper-parameters.
        dataset_options: Options passed to :func:`neuralef.datasets.load`.
        trained_on: Dataset whose ``train`` split every method is fitted to; empty: ``dataset`` itself.
        trained_on_options: Options of the dataset ``trained_on``.
    """

    dataset: str
    backbone: str
    clusters: int
    seed: int
    config: Config
    dataset_options: Mapping[str, Any] = field(default_factory=dict)
    trained_on: str = ""
    trained_on_options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Fitted:
    """A method fitted to training features.

    Attributes:
        head: Head that was fitted.
        seconds: Seconds that the fit took when it was computed, features and psi not counted.
    """

    head: ClusterHead
    seconds: float


@dataclass(frozen=True)
class Counted:
    """One evaluated image.

    Attributes:
        image_id: Id of the image.
        clusters: Cluster of every pixel, shape ``(H, W)``, uint16.
        label: Class of every pixel, shape ``(H, W)``, uint8.
        counts: Pixels by cluster and class, shape ``(K, C)``, int64.
    """

    image_id: str
    clusters: np.ndarray
    label: np.ndarray
    counts: np.ndarray


@dataclass
class Workbench:
    """Dataset, backbone and features that all seeds and methods of a study share; each is made when first needed."""

    dataset_name: str
    backbone_name: str
    config: Config
    dataset_options: Mapping[str, Any] = field(default_factory=dict)
    trained_on: str = ""
    trained_on_options: Mapping[str, Any] = field(default_factory=dict)
    progress: bool = True
    _trained: dict[str, Training] = field(default_factory=dict, init=False, repr=False)
    _fitted: dict[tuple, Fitted] = field(default_factory=dict, init=False, repr=False)
    _views: dict[int, FeatureStore] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def dataset(self) -> Dataset:
        """The photographs and labels."""
        return datasets.load(self.dataset_name, **self.dataset_options)

    @cached_property
    def train_dataset(self) -> Dataset:
        """What methods are fitted to: the same dataset, or another one (zero-shot transfer, Table 8)."""
        return datasets.load(self.trained_on, **self.trained_on_options) if self.trained_on else self.dataset

    @cached_property
    def backbone(self) -> Backbone:
        """The frozen network with its weights, on the device of the configuration."""
        config = self.config
        require(config.device)
        backbone = backbones.build(
            self.backbone_name, blocks=config.blocks, high_level=config.high_level, checkpoint=config.checkpoint
        )
        return backbone.to(config.device)

    @cached_property
    def train(self) -> FeatureStore:
        """Features of the ``train`` split of :attr:`train_dataset`."""
        return extract(self.train_dataset, "train", self.backbone, self.config, progress=self.progress)

    @cached_property
    def val(self) -> FeatureStore:
        """Features of the ``val`` split."""
        return extract(self.dataset, "val", self.backbone, self.config, progress=self.progress)

    def evaluated(self, head: ClusterHead) -> FeatureStore:
        """Features of the ``val`` split as a head wants them: :attr:`val`, or those of its shifted views."""
        if head.views == 1:
            return self.val
        if head.views not in self._views:
            self._views[head.views] = extract(
                self.dataset, "val", self.backbone, self.config, views=head.views, progress=self.progress
            )
        return self._views[head.views]

    def extract_s(self, head: ClusterHead, config: Config) -> float:
        """Seconds that the stored features took, shifted views among them; those of windows count as evaluation."""
        return self.train.extract_s + (0.0 if config.protocol == "sliding" else self.evaluated(head).extract_s)

    def image(self, image_id: str) -> np.ndarray:
        """The evaluated crop of a photograph, uint8 ``(crop_size, crop_size, 3)``."""
        return crop_image(self.dataset.image(image_id), self.config.crop_size(self.backbone.patch_size))

    def label(self, image_id: str, protocol: str = "crop320") -> np.ndarray:
        """Ground truth as a protocol evaluates it, uint8: of the square crop, or of the whole photograph."""
        label = self.dataset.label(image_id)
        if protocol == "sliding":
            return label
        return crop_label(label, self.config.crop_size(self.backbone.patch_size))

    def training(self, clusters: int, seed: int, config: Config | None = None) -> Training:
        """psi trained on the ``train`` features, from the cache if it is there; never touches a label."""
        config = config or self.config
        key = self.training_key(clusters, seed, config)
        if key not in self._trained:
            store, folder = self.train, cache_root() / "psi" / key
            with computed_once(folder / ".lock", f"is training this psi (seed {seed})"):
                self._trained[key] = train(
                    store,
                    config,
                    num_eigenfunctions=clusters,
                    seed=seed,
                    folder=folder,
                    progress=self.progress,
                    augmented=self.augmented(config) if config.augment else None,
                )
        return self._trained[key]

    def check_training(self, clusters: int, config: Config) -> None:
        """Raise the ``InputError`` of a training whose batches are too small, before any feature is computed."""
        patch = self.backbone.patch_size
        side = (config.train_crop_size if config.augment else config.crop_size)(patch) // patch
        check_sizes((side, side), len(self.train_dataset.ids("train")), config, clusters)

    def augmented(self, config: Config) -> AugmentedPhotographs:
        """The training photographs as random crops."""
        crop = config.train_crop_size(self.backbone.patch_size)
        short_side = self._training_short_side(config)
        ahead = config.device == "cuda"  # without a GPU the backbone keeps all processors busy
        return AugmentedPhotographs(
            self.train_dataset.image, self.train.ids, self.backbone, crop, short_side, config, ahead
        )

    def _training_short_side(self, config: Config) -> int:
        return self.sliding(config, self.trained_on or self.dataset_name).short_side

    def sliding(self, config: Config, dataset_name: str | None = None) -> Sliding:
        """Windows of a configuration, for the evaluated dataset or another one: as large as the crops of training."""
        side = config.train_crop_size if config.augment else config.crop_size
        return Sliding.of(config, side(self.backbone.patch_size), dataset_name or self.dataset_name)

    def training_key(self, clusters: int, seed: int, config: Config) -> str:
        """Digest of all that determines psi; labels and settings of the clustering are not among it."""
        settings = training_settings(config)
        settings["short_side"] = self._training_short_side(config) if config.augment else None
        modules = (*TRAINING_MODULES, *(AUGMENTATION_MODULES if config.augment else ()))
        return _digest(self.train.key, settings, clusters, seed, provenance.code_digest(*modules))

    def fitted(self, method: Method, clusters: int, seed: int, config: Config | None = None) -> Fitted:
        """Fit one method to the ``train`` features, or take it from the cache.

        Raises:
            InputError: If the method is unknown, K too large, or the cached file damaged.
        """
        config = config or self.config
        check_methods([method])
        key = (method, clusters, seed, config)
        if key not in self._fitted:
            self._fitted[key] = self._fit(*key)
        return self._fitted[key]

    def _fit(self, method: Method, clusters: int, seed: int, config: Config) -> Fitted:
        recipe = REGISTRY[method]
        psi = self.training(clusters, seed, config).psi if recipe.needs_psi else None
        if recipe.fit is None:
            return Fitted(recipe.fitted(self.train, psi, config, num_clusters=clusters, seed=seed), seconds=0.0)
        path = cache_root() / "kmeans" / f"{self._head_key(method, recipe, clusters, seed, config)}.safetensors"
        if not path.is_file():
            ensure_writable_folder(path.parent)  # now, not after the fit
            store = self.train
            with computed_once(path.with_suffix(".lock"), f"is fitting {method} (seed {seed})"):
                if not path.is_file():  # or it was another process that fitted it
                    began = perf_counter()
                    head = recipe.fitted(store, psi, config, num_clusters=clusters, seed=seed, progress=self.progress)
                    write_checked_tensors(path, head.tensors(), {"method": method, "seconds": perf_counter() - began})
        tensors, document = read_checked_tensors(path)
        return Fitted(recipe.head.from_tensors(tensors, psi, config), document["seconds"])

    def _head_key(self, method: Method, recipe: Recipe, clusters: int, seed: int, config: Config) -> str:
        features = self.training_key(clusters, seed, config) if recipe.needs_psi else self.train.key
        settings = {name: value for name, value in asdict(config).items() if name in recipe.settings}
        return _digest(method, features, settings, clusters, seed, provenance.code_digest("methods", *recipe.modules))

    def head(self, method: Method, clusters: int, seed: int, config: Config | None = None) -> ClusterHead:
        """The fitted method alone; see :meth:`fitted`."""
        return self.fitted(method, clusters, seed, config).head

    def fit_digest(self, method: Method, clusters: int, seed: int, config: Config | None = None) -> str:
        """Digest of the bytes of a fitted method: the same settings give other ones on another machine."""
        tensors = self.head(method, clusters, seed, config).tensors()
        if REGISTRY[method].needs_psi:
            psi = self.training(clusters, seed, config).psi
            tensors |= {f"psi.{name}": tensor for name, tensor in psi.state_dict().items()}
        return tensors_digest(tensors)

    def segmenter_key(self, method: Method, clusters: int, seed: int, config: Config | None = None) -> str:
        """Digest of all that determines the maps of a :meth:`segmenter`, besides the images it is given."""
        config = config or self.config
        parts = (self.backbone.fingerprint, self.fit_digest(method, clusters, seed, config))
        settings = asdict(config) | {"sliding": asdict(self.sliding(config))}
        return _digest(method, *parts, settings, provenance.code_digest(*AUGMENTATION_MODULES, *EVALUATION_MODULES))

    def segmenter(self, method: Method, clusters: int, seed: int, config: Config | None = None) -> Segmenter:
        """A fitted method as a function from image to cluster map."""
        config = config or self.config
        return self._segmenter(self.head(method, clusters, seed, config), config)

    def _segmenter(self, head: ClusterHead, config: Config) -> Segmenter:
        return Segmenter(
            self.backbone,
            head,
            crop_size=self.config.crop_size(self.backbone.patch_size),
            precision=self.config.precision,
            sliding=self.sliding(config) if config.protocol == "sliding" else None,
            temperature=softmax_temperature(head, config),
            crf=config.crf,
        )

    def predictions(
        self, heads: Sequence[ClusterHead], config: Config, *, done: int = 0
    ) -> Iterator[tuple[str, tuple[np.ndarray, ...]]]:
        """Id of every evaluated image, and its clusters under every head, uint16 of the shape of its :meth:`label`.

        Args:
            heads: Heads of fitted methods.
            config: Hyper-parameters, protocol and CRF among them.
            done: Number of images to pass over.
        """
        if config.protocol == "sliding":  # windows are stored nowhere: all heads share their passes of the backbone
            segmenters = [self._segmenter(head, config) for head in heads]
            ids = self.dataset.ids("val")[done:]
            photographs = ((image_id, self.dataset.image(image_id)) for image_id in ids)
            pictures = (
                (image_id, logits, image)
                for image_id, image in photographs
                for logits in joint_logits(segmenters, image)
            )
            maps = merged_maps(pictures, config.crf)  # image after image, of each head after head
            for image_id in ids:
                yield image_id, tuple(clusters for _, clusters in islice(maps, len(heads)))
        else:
            for found in zip(*(self._of_stored(head, config, done) for head in heads), strict=True):
                yield found[0][0], tuple(clusters for _, clusters in found)

    def _of_stored(self, head: ClusterHead, config: Config, done: int) -> Iterator[tuple[str, np.ndarray]]:
        store = self.evaluated(head)
        if config.crf == "none":
            return segment_store(head, store, self.image, start=done)
        crops = store_windows(head, store, softmax_temperature(head, config), start=done)
        return merged_maps(((image_id, logits, self.image(image_id)) for image_id, logits in crops), config.crf)

    def counted(
        self, heads: Sequence[ClusterHead], config: Config, *, title: str, done: int = 0
    ) -> Iterator[tuple[Counted, ...]]:
        """Every evaluated image under every head: its clusters, its labels and its pixels by cluster and class.

        Args:
            heads: Heads of fitted methods.
            config: Hyper-parameters, protocol and CRF among them.
            title: Label of the progress bar.
            done: Number of images to pass over.
        """
        predictions = tqdm(
            self.predictions(heads, config, done=done),
            initial=done,
            total=len(self.dataset.ids("val")),
            desc=title,
            unit="image",
            disable=not self.progress,
        )
        C = len(self.dataset.classes)
        for image_id, maps in predictions:
            label = self.label(image_id, config.protocol)
            yield tuple(
                Counted(image_id, clusters, label, image_counts(clusters, label, head.num_clusters, C))
                for head, clusters in zip(heads, maps, strict=True)
            )

    def seconds_per_image(self, head: ClusterHead, images: int = 8) -> float:
        """What a new image costs beyond what all methods share, which is reading it and one pass of the backbone.

        Median seconds from an image's features to its clusters, after one image to warm up; for a head that wants
        shifted views, also the passes they take beyond the first.
        """
        store, passes = self.evaluated(head), head.views**2 - 1
        chosen = [0, *range(min(images, len(store)))]
        taken = []
        for index in chosen:
            image = self.image(store.ids[index])
            crop = to_tensor(image[None])
            began = perf_counter()
            for _ in range(passes):
                self.backbone(crop, precision=self.config.precision).cpu()  # waits for a GPU
            next(segment_store(head, store.only(index), lambda _, image=image: image))
            taken.append(perf_counter() - began)
        return float(np.median(taken[1:]))

    def experiment_id(self, clusters: int, seed: int, config: Config) -> str:
        """Digest of all that determines the rows: photographs, labels and classes, weights, settings, code."""
        labels = [
            self.dataset.name,
            self.dataset.label_fingerprint("val"),
            [semantic.name for semantic in self.dataset.classes],
            provenance.code_digest(*self.dataset.reader_modules),
        ]
        code = provenance.code_digest(*TRAINING_MODULES, *AUGMENTATION_MODULES, *EVALUATION_MODULES)
        images = self._val_key(config)
        return _digest(self.train.key, images, labels, asdict(config), clusters, seed, code)

    def _val_key(self, config: Config) -> str:
        if config.protocol == "sliding":  # windows pass the backbone when they are evaluated: there is no store of them
            return _digest(self.dataset.image_fingerprint("val"), asdict(self.sliding(config)))
        return self.val.key


def softmax_temperature(head: ClusterHead, config: Config) -> float:
    """Divisor of a head's logits before a softmax: for psi's own the last temperature of its training, else 1."""
    return config.temperature_end if isinstance(head, EigenfunctionHead) else 1.0


def check_methods(methods: Sequence[str]) -> None:
    """Raise ``InputError`` naming the first method that is not registered."""
    for method in methods:
        if method not in REGISTRY:
            raise InputError(f"unknown method {method!r}; there are {', '.join(REGISTRY)}")


def open_workbench(experiment: Experiment, *, progress: bool = True) -> Workbench:
    """The workbench an experiment runs on; share it between experiments that differ in K, seed or training alone."""
    return Workbench(
        experiment.dataset,
        experiment.backbone,
        experiment.config,
        experiment.dataset_options,
        experiment.trained_on,
        experiment.trained_on_options,
        progress=progress,
    )


def run_experiment(
    experiment: Experiment,
    methods: Sequence[Method],
    out: Path,
    *,
    bench: Workbench | None = None,
    save_maps: bool = False,
    image_tables: bool = False,
    progress: bool = True,
) -> list[ResultRow]:
    """Fit, segment and score; add the rows to ``out/results.csv`` and ``out/per_class.csv``.

    Args:
        experiment: Experiment to run.
        methods: Methods to run, of :data:`neuralef.methods.REGISTRY`.
        out: Results folder.
        bench: Workbench with the experiment's dataset, backbone and feature settings, to share features; default: a new
            one.
        save_maps: Whether to write every evaluated image's clusters and ground truth to ``out/maps``.
        image_tables: Whether to keep the counts of every evaluated image, for :func:`read_image_tables`.
        progress: Whether to show progress bars; a workbench that is given keeps its own setting.

    Returns:
        The experiment's rows, new or already there: one for each method and matching.

    Raises:
        InputError: If something in the specification, the data or the output folder cannot be used.
        ValueError: If the workbench has another dataset or backbone, or features of other settings.
    """
    (rows,) = _run([experiment], methods, out, bench, save_maps=save_maps, image_tables=image_tables, progress=progress)
    return rows


def run_seeds(
    experiment: Experiment,
    seeds: Sequence[int],
    methods: Sequence[Method],
    out: Path,
    *,
    bench: Workbench | None = None,
    progress: bool = True,
) -> list[list[ResultRow]]:
    """:func:`run_experiment` for several seeds; sliding windows pass the backbone once for all of them.

    Args:
        experiment: Experiment to run; its own seed is left out.
        seeds: Seeds, each once.
        methods: Methods to run, of :data:`neuralef.methods.REGISTRY`.
        out: Results folder.
        bench: Workbench to share features, as for :func:`run_experiment`.
        progress: Whether to show progress bars.

    Returns:
        The rows of each seed, in the order of ``seeds``.

    Raises:
        InputError: As :func:`run_experiment`.
        ValueError: As :func:`run_experiment`, and if there is no seed or one is given twice.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds are {list(seeds)}; give at least one, and each once")
    experiments = [replace(experiment, seed=seed) for seed in seeds]
    return _run(experiments, methods, out, bench, save_maps=False, image_tables=False, progress=progress)


TRUTH = "truth"
"""Folder of the ground truth beside those of the methods' maps."""

SAME_FIT = 0.001
"""Share of the pixels that may change their cluster when a fitted method is evaluated again."""


@dataclass(frozen=True)
class _Job:
    """One method of one experiment, and where its record and its counts by image are kept."""

    experiment: Experiment
    experiment_id: str
    method: Method
    record_path: Path
    tables_path: Path


def _run(
    experiments: Sequence[Experiment],
    methods: Sequence[Method],
    out: Path,
    bench: Workbench | None,
    *,
    save_maps: bool,
    image_tables: bool,
    progress: bool,
) -> list[list[ResultRow]]:
    """The rows of experiments that differ in their seed alone."""
    check_methods(methods)
    if not methods:
        return [[] for _ in experiments]
    first = experiments[0]
    if bench:
        check_same_features(first, bench)
    crf.require(first.config.crf)
    ensure_writable_folder(out)
    check_columns(out / "results.csv")  # now, not after the first fit
    check_columns(out / "per_class.csv", CLASS_COLUMNS)
    bench = bench or open_workbench(first, progress=progress)
    if any(REGISTRY[method].needs_psi for method in methods):
        bench.check_training(first.clusters, first.config)
    jobs: list[_Job] = []
    rows: dict[str, list[ResultRow]] = {}
    for experiment in experiments:
        experiment_id = bench.experiment_id(experiment.clusters, experiment.seed, experiment.config)
        rows[experiment_id] = []
        for method in dict.fromkeys(methods):
            paths = (_run_path(out, experiment_id, method, kind) for kind in ("json", "safetensors"))
            jobs.append(_Job(experiment, experiment_id, method, *paths))
    # Under sliding windows all share the backbone's passes; else the rows of each are kept before the next.
    groups = [jobs] if first.config.protocol == "sliding" else [[job] for job in jobs]
    maps = out / "maps" if save_maps else None
    with _claimed_maps(maps, jobs[0].experiment_id) if maps else nullcontext():
        for group in groups:
            _run_together(group, bench, maps=maps, image_tables=image_tables)
            for job in group:
                record = read_json(job.record_path, "experiment_id")
                rows[job.experiment_id] += _store_rows(out, job.experiment, record, bench)
    warn_of_absent_classes(bench.dataset, np.array(record["counts"]).sum(axis=0))
    return list(rows.values())


def _run_together(jobs: Sequence[_Job], bench: Workbench, *, maps: Path | None, image_tables: bool) -> None:
    """Evaluate those of the jobs of which something is not kept yet, and keep it."""
    wanted = [
        job for job in jobs if not job.record_path.is_file() or maps or (image_tables and not job.tables_path.is_file())
    ]
    if not wanted:
        return
    unchecked = maps / ".unchecked" if maps else None
    tally, records = _evaluate(wanted, bench, maps=unchecked, image_tables=image_tables)
    for job, record, tables in zip(wanted, records, tally.tables, strict=True):
        if job.record_path.is_file():
            _check_same_fit(job, np.array(record["counts"]))
        else:
            write_json(job.record_path, {"experiment_id": job.experiment_id, **record})
        if image_tables:
            write_checked_tensors(job.tables_path, {"counts": torch.from_numpy(tables)}, {"method": job.method})
        if maps:
            _take_over(unchecked / job.method, maps / job.method)
    if maps:
        _take_over(unchecked / TRUTH, maps / TRUTH)
        unchecked.rmdir()
    tally.discard()


def _take_over(source: Path, target: Path) -> None:
    """Move the maps of one folder to another, in place of those of the same name."""
    target.mkdir(exist_ok=True)
    for path in source.iterdir():
        path.replace(target / path.name)
    source.rmdir()


def _check_same_fit(job: _Job, counts: np.ndarray) -> None:
    """Raise ``InputError`` if a method that is evaluated again is not the one whose rows are there.

    The same settings give another psi on another machine; what changes where only roundings do is a few pixels.
    """
    before = _counts(job.record_path)
    if np.abs(counts - before).sum() > 2 * SAME_FIT * counts.sum():  # a pixel that moves is missed here and new there
        raise InputError(
            f"{job.record_path} has scores of another fit of {job.method} than this one, as another machine makes; "
            "choose another folder with --out, or bring the cache that the first was made with"
        )


def check_same_features(experiment: Experiment, bench: Workbench) -> None:
    """Raise ``ValueError`` if a workbench has another dataset or backbone, or features of other settings."""
    opened = open_workbench(experiment)  # which opens nothing yet
    names = ("dataset_name", "backbone_name", "dataset_options", "trained_on", "trained_on_options")
    pairs = {name: (getattr(bench, name), getattr(opened, name)) for name in names}
    pairs |= {name: (getattr(bench.config, name), getattr(experiment.config, name)) for name in FEATURE_FIELDS}
    for name, (theirs, wanted) in pairs.items():
        if theirs != wanted:
            raise ValueError(f"{name} is {wanted!r} in the experiment and {theirs!r} on the workbench; open one for it")


def read_counts(out: Path, experiment_id: str, method: Method) -> np.ndarray:
    """Counts of all evaluated images together, kept by :func:`run_experiment`: shape ``(K, C)``, int64.

    Raises:
        InputError: If the experiment has not been run with the method, or the file is damaged.
    """
    path = _run_path(out, experiment_id, method, "json")
    if not path.is_file():
        raise InputError(f"there are no counts in {path}; run the experiment with this method first")
    return _counts(path)


def _counts(record: Path) -> np.ndarray:
    return np.array(read_json(record, "counts")["counts"])


def read_image_tables(out: Path, experiment_id: str, method: Method) -> np.ndarray:
    """Counts of every evaluated image, kept by :func:`run_experiment`: shape ``(N, K, C)``, int32.

    Raises:
        InputError: If they were not kept, or the file is damaged.
    """
    path = _run_path(out, experiment_id, method, "safetensors")
    if not path.is_file():
        raise InputError(f"there are no counts by image in {path}; run the experiment with image_tables=True")
    return read_checked_tensors(path)[0]["counts"].numpy()


def _run_path(out: Path, experiment_id: str, method: Method, kind: str) -> Path:
    return out / "runs" / experiment_id / f"{method}.{kind}"


def _evaluate(
    jobs: Sequence[_Job], bench: Workbench, *, maps: Path | None, image_tables: bool
) -> tuple[Tally, list[dict[str, Any]]]:
    """The counts of every job, and the records of their runs; ``eval_s`` of all of them is shared equally."""
    clusters, config = jobs[0].experiment.clusters, jobs[0].experiment.config
    fitted = [bench.fitted(job.method, clusters, job.experiment.seed, config) for job in jobs]
    heads = [of.head for of in fitted]
    extract_s = [bench.extract_s(head, config) for head in heads]  # extracts what is missing: no part of eval_s
    tally = _tally(jobs, bench, maps=maps, image_tables=image_tables)
    names = ", ".join(dict.fromkeys(job.method for job in jobs))
    for found in bench.counted(heads, config, title=f"evaluating {names}", done=tally.images):
        if maps:
            for job, image in zip(jobs, found, strict=True):
                write_png(maps / job.method / f"{image.image_id}.png", image.clusters)
                write_png(maps / TRUTH / f"{image.image_id}.png", image.label)
        tally.add([image.counts for image in found])
    require_labels(bench.dataset, tally.counts[0].sum(axis=0))
    eval_s = tally.seconds / len(jobs)
    trained = [
        bench.training(clusters, job.experiment.seed, config).train_s if REGISTRY[job.method].needs_psi else 0.0
        for job in jobs
    ]
    return tally, [
        {
            "method": job.method,
            "counts": tally.counts[number].tolist(),
            "images": tally.images,
            **provenance.measured_stamp(
                config.device,
                extract_s=extract_s[number],
                train_s=trained[number],
                cluster_s=fitted[number].seconds,
                eval_s=eval_s,
            ),
        }
        for number, job in enumerate(jobs)
    ]


def _tally(jobs: Sequence[_Job], bench: Workbench, *, maps: Path | None, image_tables: bool) -> Tally:
    """What an interrupted evaluation of these jobs has counted, if its maps are there as well; else an empty one."""
    clusters, config, ids = jobs[0].experiment.clusters, jobs[0].experiment.config, bench.dataset.ids("val")
    fits = [
        (job.experiment_id, job.method, bench.fit_digest(job.method, clusters, job.experiment.seed, config))
        for job in jobs
    ]
    path, identity = jobs[0].record_path.with_suffix(".unfinished.safetensors"), _digest(fits, image_tables)
    shape = (len(jobs), clusters, len(bench.dataset.classes))
    tally = Tally(path, identity, shape, tables_of=len(ids) if image_tables else 0)
    if maps:
        folders = [maps / name for name in (*(job.method for job in jobs), TRUTH)]
        if not all((folder / f"{image_id}.png").is_file() for image_id in ids[: tally.images] for folder in folders):
            tally.discard()
            return _tally(jobs, bench, maps=maps, image_tables=image_tables)
        if not tally.images and maps.is_dir():  # of a run that failed
            shutil.rmtree(maps)
    if tally.images:
        log.info("continuing after image %d of %d from %s", tally.images, len(ids), tally.path)
    return tally


def require_labels(dataset: Dataset, pixels: np.ndarray) -> None:
    """Raise ``InputError`` if no evaluated pixel has a label, by labelled pixels of each class, ``(C,)``."""
    if not np.any(pixels):
        images = len(dataset.ids("val"))
        raise InputError(f"no pixel of the {images} evaluated images of {dataset.name} has a label; check them")


def warn_of_absent_classes(dataset: Dataset, pixels: np.ndarray) -> None:
    """Say which classes of one's own dataset no label holds, by labelled pixels, ``(C,)``: more often a mistake."""
    absent = [semantic.name for semantic, count in zip(dataset.classes, pixels, strict=True) if not count]
    if absent and dataset.name.startswith(datasets.PREFIX):  # one's own: others are known to be as they are
        log.warning(
            "no label that was evaluated holds class %s of %s, so scores leave it out; where masks are 0 and 255, save "
            "them as 0 and 1, since 255 means ignore",
            ", ".join(map(repr, absent)),
            dataset.name,
        )


def _store_rows(out: Path, experiment: Experiment, record: dict[str, Any], bench: Workbench) -> list[ResultRow]:
    counts = np.array(record["counts"])
    rows, class_rows = [], []
    for matching in MATCHINGS:
        scores = score(counts, matching)
        identity = {"experiment_id": record["experiment_id"], "method": record["method"], "matching": matching}
        kept = {name: value for name, value in record.items() if name in ResultRow.__annotations__}
        trained_on = experiment.trained_on or experiment.dataset
        columns = score_columns(experiment, scores, num_clusters=len(counts))
        rows.append({**kept, **identity, "trained_on": trained_on, **columns})
        class_rows += [
            {**identity, "class": semantic.name, "iou": iou}
            for semantic, iou in zip(bench.dataset.classes, scores.class_iou, strict=True)
        ]
    append_rows(out / "results.csv", rows)
    append_classes(out / "per_class.csv", class_rows)
    return rows


def score_columns(experiment: Experiment, scores: Scores, *, num_clusters: int) -> dict[str, Any]:
    """What a row of scores on ``val`` says of its experiment, by column; ``num_clusters`` is the head's."""
    config = experiment.config
    return {
        "dataset": experiment.dataset,
        "split": "val",
        "backbone": experiment.backbone,
        "clusters": num_clusters,
        "classes": len(scores.class_iou),
        "protocol": config.protocol,
        "crf": config.crf,
        "seed": experiment.seed,
        "accuracy": scores.accuracy,
        "mean_iou": scores.mean_iou,
        "clusters_used": scores.clusters_used,
        **parameter_columns(config),
    }


@contextmanager
def _claimed_maps(folder: Path, experiment_id: str) -> Iterator[None]:
    """Keep a folder of maps for one experiment, and other processes out while it is filled."""
    folder.mkdir(parents=True, exist_ok=True)
    refusal = f"another process is writing maps to {folder}; wait until it ends, or choose another --out"
    with held_alone(folder / ".lock", refusal):
        _claim_maps(folder, experiment_id)
        yield


def _claim_maps(folder: Path, experiment_id: str) -> None:
    owner = folder / "experiment.json"
    filled = any(folder.glob("*/*.png"))  # a run that failed before its first map leaves its claim alone
    if filled and owner.is_file() and read_json(owner, "experiment_id")["experiment_id"] != experiment_id:
        raise InputError(f"{folder} holds the maps of another experiment; choose another --out, or remove the folder")
    write_json(owner, {"experiment_id": experiment_id})
