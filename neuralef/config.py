"""Hyper-parameters, one field for each of the paper's, and the profiles that set them."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import yaml

from neuralef.errors import InputError
from neuralef.paths import PROFILES
from neuralef.precision import FASTEST, Device, Precision, fastest_device, fastest_precision

PAPER_EIGENFUNCTIONS = 256
"""K of the paper's main tables, at which its beta is 0.08."""

CLUSTERING_PREFIXES = ("kmeans_", "pca_", "spectral_", "deep_spectral_")
"""Fields that begin so take no part in features and psi: they belong to the methods that cluster."""

WITHOUT_BFLOAT16 = "in float32: this processor has no products in bfloat16"
"""Remark on a profile that asks for the fastest precision."""

FEATURE_FIELDS = ("image_size", "blocks", "high_level", "checkpoint", "precision", "device")
"""Fields that stored features depend on; ``precision`` and ``device`` are psi's as well."""

PSI_FIELDS = ("width", "depth", "attention", "mlp_ratio", "head_bias", "standardise_inputs")
"""Fields that say what network psi is."""

EVALUATION_FIELDS = ("protocol", "window", "window_stride", "crf")
"""Fields that only say how a fitted method is applied and scored; ``short_side`` too, unless training augments."""

Attention = Literal["softmax", "elu"]
"""Kinds of linear attention, see :class:`neuralef.eigenfunctions.LinearAttention`."""

LEAST, MOST = 1e-9, 1e9
"""Numbers between which float32 has room for what becomes of them: squares, quotients, exponentials."""

RANGES = {
    (1, math.inf): (
        *("image_size", "train_crop", "short_side", "window", "window_stride"),
        *("feature_neighbors", "width", "depth", "patch_stride", "epochs", "batch_images"),
        *("kmeans_patches", "kmeans_iterations", "pca_channels", "spectral_landmarks", "spectral_neighbors"),
        *("deep_spectral_eigenvectors", "deep_spectral_segments"),
    ),
    (LEAST, MOST): ("learning_rate", "temperature_start", "temperature_end", "trace_scale", "mlp_ratio"),
    (0, MOST): (
        *("pixel_weight", "pixel_neighbors", "coordinate_weights", "orthogonality_weight"),
        "deep_spectral_colour_weight",
    ),
}
"""Smallest and largest number of fields that have such; of one with several numbers, every one."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that determines a result besides dataset, backbone, method, K and seed.

    The defaults of kernel, psi, objective and training are the paper's; where it is silent, the official code's. Its
    random crops and its CRF are off unless asked for; profile ``paper`` has both.
    """

    # Features (3.1)
    image_size: int = 320  # pixels; shorter side and centre crop, rounded to the nearest multiple of the patch
    blocks: tuple[int, ...] | None = None  # low, middle, high; None: the backbone's own
    high_level: Literal["final_norm", "layer_norm", "raw", "keys"] | None = None  # None: the backbone's own
    checkpoint: str | None = None  # local safetensors file instead of the published weights
    precision: Precision = "float32"  # of the backbone and of psi's blocks
    device: Device = "cpu"  # of the backbone, the kernel, psi and merged windows; all else is the processor's

    # Kernel (Eqs. 2-4)
    feature_neighbors: int = 256  # k
    pixel_weight: float = 0.3  # alpha
    pixel_neighbors: tuple[int, ...] = (10, 5)  # k-tilde, one for each search
    coordinate_weights: tuple[float, ...] = (2.0, 0.1)  # of x and y against colour, one for each search

    # psi (3.4), which the paper describes as blocks with linear attention and a head with orthogonal columns
    width: int | None = None  # channels of its blocks; None: 3C, as in the paper
    depth: int = 2  # blocks
    attention: Attention = "softmax"  # see neuralef.eigenfunctions.LinearAttention
    mlp_ratio: float = 0.5  # 576 hidden channels of 1,152 in the official code
    head_bias: bool = True
    standardise_inputs: bool = False  # True: every input channel to zero mean and unit variance over the training set

    # Quantisation (3.5)
    quantise: bool = True  # False: plain eigenfunctions, for comparison with exact ones
    temperature_start: float = 1.0
    temperature_end: float = 0.3

    # Objective (Eqs. 5-7)
    orthogonality_weight: float = 0.08  # the paper's beta at K = 256; at other K it is scaled by 256 / K
    trace_scale: float = 0.01  # t of the official code

    # Training (4.1)
    epochs: int = 40
    batch_images: int = 16  # all of them where there are fewer
    patch_stride: int = 1  # every n-th patch of a row and column trains, from a random offset; 1 is the paper
    learning_rate: float = 1e-3
    augment: bool = False  # True: random crops, their features computed at every step, as in the paper
    train_crop: int | None = None  # pixels; side of the random crops, rounded as image_size is; None: image_size
    mask_padding: bool = True  # False: padded patches of random crops enter the kernel, as in the official code

    # K-means (3.6)
    kmeans_patches: int = 5_200_000  # at most: the official 2e9 numbers at C = 384; iterations see 50,000 of them
    kmeans_iterations: int = 100

    # Other methods than the paper's
    pca_channels: int = 64  # principal components that "kmeans_pca" keeps
    spectral_landmarks: int = 24_000  # training patches at most in the graph of "spectral"
    spectral_neighbors: int = 15  # its k, and the landmarks a new patch is linked to
    deep_spectral_eigenvectors: int = 15  # of each image's Laplacian, the constant one aside
    deep_spectral_segments: int = 15  # of each image
    deep_spectral_colour_weight: float = 10.0  # lambda: colour affinity against that of features

    # Protocol (4.1); None: the paper's for its datasets, else see neuralef.protocols.Sliding.of
    protocol: Literal["crop320", "sliding"] = "crop320"
    short_side: int | None = None  # pixels; of whole photographs before windows are cut, and before training crops
    window: int | None = None  # pixels
    window_stride: int | None = None  # pixels
    crf: Literal["none", "colour", "black"] = "none"  # black: what the official code's CRF sees in the 320 crop

    def __post_init__(self) -> None:
        """Reject values that no run could use; ``InputError`` names field, value and range."""
        hints = get_type_hints(Config)
        for name, hint in hints.items():
            value, choices = getattr(self, name), _choices(hint)
            if choices and value not in choices:
                raise InputError(f"{name} is {value!r}; it must be {' or '.join(map(repr, choices))}")
        for (least, most), names in RANGES.items():
            for name in names:
                value = getattr(self, name)
                if value is not None and not all(least <= number <= most for number in np.atleast_1d(value)):
                    upper = f", and at most {most:g}" if most < math.inf else ""
                    none = ", or none" if type(None) in get_args(hints[name]) else ""
                    raise InputError(f"{name} is {value}; it must be at least {least:g}{upper}{none}")
        if len(self.pixel_neighbors) != len(self.coordinate_weights):
            raise InputError(
                f"pixel_neighbors {self.pixel_neighbors} and coordinate_weights {self.coordinate_weights} must have "
                "one entry for each search"
            )

    def orthogonality_weight_for(self, num_eigenfunctions: int) -> float:
        """beta at this K: the paper's 0.08 at 256 and 0.04 at 512 keep beta K constant."""
        return self.orthogonality_weight * PAPER_EIGENFUNCTIONS / num_eigenfunctions

    def crop_size(self, patch_size: int) -> int:
        """Side of the evaluated square: the multiple of the patch nearest ``image_size``, at least one patch."""
        return _whole_patches(self.image_size, patch_size)

    def train_crop_size(self, patch_size: int) -> int:
        """Side of the random crops of training: as :meth:`crop_size`, of ``train_crop`` where it is set."""
        return _whole_patches(self.train_crop or self.image_size, patch_size)

    def updated(self, changes: Mapping[str, Any]) -> "Config":
        """A copy with some fields replaced; values may be strings, as from ``--set field=value``.

        ``device`` may be ``fastest``, which becomes ``cuda`` where there is a GPU, and so may ``precision``, which
        becomes what that is on the device.

        Raises:
            InputError: If a field is unknown or a value does not have its type.
        """
        hints = get_type_hints(Config)
        unknown = sorted(set(changes) - set(hints))
        if unknown:
            raise InputError(f"unknown hyper-parameter {unknown[0]!r}; there are {', '.join(hints)}")
        if changes.get("device") == FASTEST:
            changes = {**changes, "device": fastest_device()}
        if changes.get("precision") == FASTEST:
            changes = {**changes, "precision": fastest_precision(changes.get("device", self.device))}
        return dataclasses.replace(self, **{name: _parse(name, value, hints[name]) for name, value in changes.items()})


@dataclass(frozen=True)
class StandIn:
    """What a profile uses in place of a dataset of the paper.

    Attributes:
        name: Name of the dataset used here; empty: the paper's own.
        options: Options passed to :func:`neuralef.datasets.load`.
        config: Hyper-parameters where training on it takes others than the profile's.
    """

    name: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TableSetup:
    """How a profile runs the paper's tables (:mod:`neuralef.tables`): what stands in for what the paper used.

    Attributes:
        seeds: Seeds of every experiment.
        datasets: For a dataset of the paper, by its name in ``paper.csv``, what is used here; default: itself.
        transfer: For a dataset of the paper that Table 8 tests on, the one whose stand-in trains; else the paper's.
        backbones: For a backbone of the paper the one used here. Where any is listed, the others are not run; where
            none is, all are.
        further_backbones: Backbones run as well where a table compares backbones.
        values: By the name of what a table varies, the values tried here; else the paper's.
    """

    seeds: tuple[int, ...]
    datasets: Mapping[str, StandIn] = field(default_factory=dict)
    transfer: Mapping[str, str] = field(default_factory=dict)
    backbones: Mapping[str, str] = field(default_factory=dict)
    further_backbones: tuple[str, ...] = ()
    values: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A named set-up: what ``neuralef reproduce --profile NAME`` runs.

    Attributes:
        dataset: Preferred dataset, and ``fallback_dataset`` where that one cannot be had.
        notebooks: Globs over notebook names: what runs where none is asked for.
        notebook_parameters: For each notebook (by its number), values for its parameters cell.
        tables: Set-up of the paper's tables; ``None``: the profile runs none.
        remark: Remark on what this machine changes of the profile, or empty.
    """

    name: str
    dataset: str
    fallback_dataset: str | None = None
    backbone: str
    clusters: int
    seeds: tuple[int, ...]
    methods: tuple[str, ...]
    config: Config = field(default_factory=Config)
    dataset_options: Mapping[str, Any] = field(default_factory=dict)
    notebooks: tuple[str, ...] = ("*",)
    notebook_parameters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    tables: TableSetup | None = None
    remark: str = ""

    def config_for(self, dataset: str) -> Config:
        """Hyper-parameters of a training on ``dataset``: the profile's, and what its tables set for it as itself."""
        used = self.tables.datasets.get(dataset, StandIn()) if self.tables else StandIn()
        return self.config if used.name else self.config.updated(used.config)


def profiles() -> tuple[str, ...]:
    """Names of the profiles."""
    return tuple(sorted(path.stem for path in PROFILES.glob("*.yaml")))


def load_profile(name: str) -> Profile:
    """Read one profile.

    Its entry ``settings_of`` names another whose hyper-parameters it shares; those of its own ``config`` go before.

    Raises:
        InputError: If there is none of that name, it lacks an entry, or has an unknown one.
    """
    document = _document(name)
    if "settings_of" in document:
        others = _document(document.pop("settings_of")).get("config", {})
        document["config"] = others | document.get("config", {})
    _check_entries(document, Profile, f"profile {name!r}", given=("name", "remark"))
    lists = {entry: tuple(value) for entry, value in document.items() if isinstance(value, list)}
    settings = document.get("config", {})
    config = Config().updated(settings)
    remark = WITHOUT_BFLOAT16 if settings.get("precision") == FASTEST and config.precision == "float32" else ""
    tables = _table_setup(document.get("tables"), f"the tables of profile {name!r}")
    return Profile(**{**document, **lists, "name": name, "config": config, "tables": tables, "remark": remark})


def _document(name: str) -> dict[str, Any]:
    path = PROFILES / f"{name}.yaml"
    if not path.is_file():
        raise InputError(f"unknown profile {name!r}; there are {', '.join(profiles())}")
    return yaml.safe_load(path.read_text()) or {}


def parse_assignments(assignments: Sequence[str]) -> dict[str, str]:
    """``["width=384", ...]`` of the command line as a mapping; ``InputError`` where there is no ``=``."""
    for text in assignments:
        if "=" not in text:
            raise InputError(f"{text!r} is not of the form name=value")
    return dict(text.split("=", 1) for text in assignments)


def _choices(hint: Any) -> tuple[Any, ...]:
    """What a type made of literals allows; nothing for other types."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    parts = get_args(hint)
    found = tuple(choice for part in parts for choice in _choices(part))
    return (*found, None) if found and type(None) in parts else found


def _whole_patches(pixels: int, patch_size: int) -> int:
    return max(1, round(pixels / patch_size)) * patch_size


def _check_entries(document: Mapping[str, Any], kind: type, where: str, *, given: Sequence[str] = ()) -> None:
    """Raise ``InputError`` where a document has what a dataclass has not, or lacks what has no default there."""
    known = [entry for entry in dataclasses.fields(kind) if entry.name not in given]
    unknown = sorted(set(document) - {entry.name for entry in known})
    if unknown:
        names = ", ".join(entry.name for entry in known)
        raise InputError(f"unknown entry {unknown[0]!r} of {where}; there are {names}")
    required = [e.name for e in known if e.default is dataclasses.MISSING and e.default_factory is dataclasses.MISSING]
    missing = [name for name in required if name not in document]
    if missing:
        raise InputError(f"no entry {missing[0]!r} of {where}; needed are {', '.join(required)}")


def _table_setup(document: Mapping[str, Any] | None, where: str) -> TableSetup | None:
    if document is None:
        return None
    _check_entries(document, TableSetup, where)
    lists = {name: tuple(value) for name, value in document.items() if isinstance(value, list)}
    values = {name: tuple(numbers) for name, numbers in document.get("values", {}).items()}
    stand_ins = document.get("datasets", {})
    for role, entries in stand_ins.items():
        _check_entries(entries, StandIn, f"dataset {role} of {where}")
    datasets = {role: StandIn(**entries) for role, entries in stand_ins.items()}
    return TableSetup(**{**document, **lists, "values": values, "datasets": datasets})


def _parse(name: str, value: Any, hint: Any) -> Any:
    kinds = get_args(hint) if get_origin(hint) is Union or type(hint).__name__ == "UnionType" else (hint,)
    if type(None) in kinds and value in (None, "none", "None"):
        return None
    (kind,) = (kind for kind in kinds if kind is not type(None))
    try:
        return _convert(value, kind)
    except (TypeError, ValueError, KeyError) as error:
        none = ", or none" if type(None) in kinds else ""
        raise InputError(f"{name} is {value!r}; it must be {_called(kind)}{none}") from error


def _called(kind: Any) -> str:
    """What a type allows, in words."""
    if get_origin(kind) is Literal:
        return " or ".join(map(repr, get_args(kind)))
    if get_origin(kind) is tuple:
        return f"{_KINDS[get_args(kind)[0]][1]} separated by commas"
    return _KINDS[kind][0]


_KINDS = {
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    bool: ("true or false", ""),
    str: ("text", ""),
}


def _convert(value: Any, kind: Any) -> Any:
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise ValueError(value)
        return value
    if get_origin(kind) is tuple:
        parts = value.replace(";", ",").split(",") if isinstance(value, str) else value
        return tuple(_convert(part, get_args(kind)[0]) for part in parts)
    if kind is bool:
        return {"true": True, "false": False, "1": True, "0": False}[str(value).lower()]
    if kind is int and isinstance(value, float) and not value.is_integer():
        raise ValueError(value)
    return kind(value)
