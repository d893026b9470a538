"""What the seeds and methods of a study share: photographs, features, psi and fitted methods, each made when needed.

Everything expensive is kept in the cache under a digest of all that determines it (specification, bytes of the data,
weights, code), so that runs, notebooks and studies take it from one another.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import islice
from time import perf_counter
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from neuralef import backbones, datasets, provenance
from neuralef.augmentation import AugmentedPhotographs
from neuralef.backbones import Backbone
from neuralef.clustering import ClusterHead, Method
from neuralef.config import FEATURE_FIELDS, Config
from neuralef.datasets.base import Dataset
from neuralef.datasets.crops import crop_image, crop_label
from neuralef.eigenfunctions import check_width
from neuralef.evaluation import image_counts
from neuralef.features import FeaturePlan, FeatureStore, extract, planned, to_tensor
from neuralef.files import (
    computed_once,
    ensure_writable_folder,
    read_checked_tensors,
    tensors_digest,
    write_checked_tensors,
)
from neuralef.methods import REGISTRY, Recipe, check_methods
from neuralef.paths import cache_root
from neuralef.precision import require
from neuralef.protocols import Sliding
from neuralef.provenance import digest as _digest
from neuralef.segmentation import Segmenter, joint_logits, merged_maps, segment_store, store_windows
from neuralef.training import Training, check_sizes, train, training_settings

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
    "workbench",
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


def _reads_no_features(config: Config) -> bool:
    """Whether psi is trained on random crops alone, whose features are computed on the fly."""
    return config.augment and not config.standardise_inputs


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
    def plan(self) -> FeaturePlan:
        """Which images :attr:`train` has and what determines it: all that trainings on random crops ask of it."""
        return planned(self.train_dataset, "train", self.backbone, self.config)

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

    def extract_s(self, method: Method, head: ClusterHead, config: Config) -> float:
        """Seconds that the stored features took which a method reads; those of windows count as evaluation."""
        read = [] if REGISTRY[method].fit is None and _reads_no_features(config) else [self.train]
        if config.protocol != "sliding":
            read.append(self.evaluated(head))
        return sum(store.extract_s for store in read)

    def image(self, image_id: str) -> np.ndarray:
        """The evaluated crop of a photograph, uint8 ``(crop_size, crop_size, 3)``."""
        return crop_image(self.dataset.image(image_id), self.config.crop_size(self.backbone.patch_size))

    def label(self, image_id: str, protocol: str = "crop320") -> np.ndarray:
        """Ground truth as a protocol evaluates it, uint8: of the square crop, or of the whole photograph."""
        label = self.dataset.label(image_id)
        if protocol == "sliding":
            return label
        return crop_label(label, self.config.crop_size(self.backbone.patch_size))

    def training(
        self, clusters: int, seed: int, config: Config | None = None, *, part: FeatureStore | None = None
    ) -> Training:
        """psi trained on the ``train`` features, from the cache if it is there; never touches a label.

        Args:
            clusters: Number of eigenfunctions, K.
            seed: Seed of psi, batches and noise.
            config: Hyper-parameters; default: the workbench's.
            part: Part of the ``train`` features to train on; it has no random crops.

        Raises:
            InputError: If psi cannot be trained with these settings, or what the cache holds is damaged.
        """
        config = config or self.config
        key, whole = self.training_key(clusters, seed, config), part is None or part is self.train
        if not whole:
            store, key = part, _digest(key, part.key, part.ids)
        elif _reads_no_features(config):
            store = self.plan
        else:
            store = self.train
        if key not in self._trained:
            folder = cache_root() / "psi" / key
            with computed_once(folder / ".lock", f"is training this psi (seed {seed})"):
                self._trained[key] = train(
                    store,
                    config,
                    num_eigenfunctions=clusters,
                    seed=seed,
                    folder=folder,
                    progress=self.progress,
                    augmented=self.augmented(config) if config.augment and whole else None,
                )
        return self._trained[key]

    def check_training(self, clusters: int, config: Config) -> None:
        """Raise the ``InputError`` of a psi too narrow, or of batches too small, before any feature is computed."""
        check_width(config.width or sum(self.backbone.channels), clusters, config.mlp_ratio)
        patch = self.backbone.patch_size
        side = (config.train_crop_size if config.augment else config.crop_size)(patch) // patch
        check_sizes((side, side), len(self.train_dataset.ids("train")), config, clusters)

    def augmented(self, config: Config) -> AugmentedPhotographs:
        """The training photographs as random crops."""
        crop = config.train_crop_size(self.backbone.patch_size)
        short_side = self._training_short_side(config)
        ahead = config.device == "cuda"  # without a GPU the backbone keeps all processors busy
        return AugmentedPhotographs(
            self.train_dataset.image, self.plan.ids, self.backbone, crop, short_side, config, ahead
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
        return _digest(self.plan.key, settings, clusters, seed, provenance.code_digest(*modules))

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
            return Fitted(recipe.head.from_tensors({}, psi, config), seconds=0.0)
        path = cache_root() / "heads" / f"{self._head_key(method, recipe, clusters, seed, config)}.safetensors"
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
        features = self.training_key(clusters, seed, config) if recipe.needs_psi else self.plan.key
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
        crops = store_windows(head, store, start=done)
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
        return _digest(self.plan.key, images, labels, asdict(config), clusters, seed, code)

    def _val_key(self, config: Config) -> str:
        if config.protocol == "sliding":  # windows pass the backbone when they are evaluated: there is no store of them
            return _digest(self.dataset.image_fingerprint("val"), asdict(self.sliding(config)))
        return self.val.key


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


def check_same_features(experiment: Experiment, bench: Workbench) -> None:
    """Raise ``ValueError`` if a workbench has another dataset or backbone, or features of other settings."""
    opened = open_workbench(experiment)  # which opens nothing yet
    names = ("dataset_name", "backbone_name", "dataset_options", "trained_on", "trained_on_options")
    pairs = {name: (getattr(bench, name), getattr(opened, name)) for name in names}
    pairs |= {name: (getattr(bench.config, name), getattr(experiment.config, name)) for name in FEATURE_FIELDS}
    for name, (theirs, wanted) in pairs.items():
        if theirs != wanted:
            raise ValueError(f"{name} is {wanted!r} in the experiment and {theirs!r} on the workbench; open one for it")
