"""The methods by name: how each is fitted, and what its fit depends on.

A new method registers a :class:`Recipe` under a name of :data:`neuralef.clustering.Method`; running, caching and the
results file need nothing else. Its title stands in :data:`neuralef.reporting.METHOD_TITLES`, its code in
``EVALUATION_MODULES`` of :mod:`neuralef.workbench`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from neuralef.clustering import (
    EigenfunctionHead,
    FeatureKMeans,
    FittedHead,
    HiddenKMeans,
    PCAKMeans,
    SpectralHead,
    fit_feature_kmeans,
    fit_hidden_kmeans,
    fit_pca_kmeans,
    fit_spectral,
)
from neuralef.config import Config
from neuralef.deep_spectral import DeepSpectralHead, fit_deep_spectral
from neuralef.eigenfunctions import Eigenfunctions
from neuralef.errors import InputError
from neuralef.features import FeatureStore
from neuralef.ours_plus import FeaturePlusHead, PlusHead, fit_feature_plus, fit_plus


@dataclass(frozen=True)
class Recipe:
    """One method.

    Attributes:
        head: Class of the fitted head, which comes back from its tensors.
        fit: Function called as ``fit(store, config, num_clusters=, seed=, progress=)`` with the training features, or
            as ``fit(store, psi, config, ...)`` where the method clusters what psi has learned. ``None``: psi is the
            answer itself. It is never given a label.
        settings: Fields of :class:`neuralef.config.Config` that the fit depends on, besides psi's own.
        modules: Modules whose code the fit depends on, besides psi's own.
        needs_psi: Whether psi is trained first.
    """

    head: type[FittedHead]
    fit: Callable[..., FittedHead] | None
    settings: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    needs_psi: bool = False

    def fitted(
        self,
        store: FeatureStore,
        psi: Eigenfunctions | None,
        config: Config,
        *,
        num_clusters: int,
        seed: int,
        progress: bool = True,
    ) -> FittedHead:
        """The method fitted to the training features in ``store``; ``psi`` is ``None`` where it is not needed."""
        if self.fit is None:
            return self.head.from_tensors({}, psi, config)
        given = (store, psi, config) if self.needs_psi else (store, config)
        return self.fit(*given, num_clusters=num_clusters, seed=seed, progress=progress)


_SAMPLED_KMEANS = ("kmeans_patches", "kmeans_iterations")
_KMEANS = ("kmeans", "clustering")
_GRAPH = ("loops", "graph", "spectral")
_PLUS = (*_KMEANS, "spectral", "ours_plus")

REGISTRY: dict[str, Recipe] = {}
"""Every method by its name, in the order of tables."""


def register(name: str, recipe: Recipe) -> None:
    """Make a method known.

    Raises:
        ValueError: If the name is taken, or the recipe neither fits nor needs psi.
    """
    if name in REGISTRY:
        raise ValueError(f"there is a method {name!r} already")
    if recipe.fit is None and not recipe.needs_psi:
        raise ValueError(f"method {name!r} has nothing to fit")
    REGISTRY[name] = recipe


register("kmeans", Recipe(FeatureKMeans, partial(fit_feature_kmeans, centred=False), _SAMPLED_KMEANS, _KMEANS))
register("kmeans_centred", Recipe(FeatureKMeans, partial(fit_feature_kmeans, centred=True), _SAMPLED_KMEANS, _KMEANS))
register("kmeans_pca", Recipe(PCAKMeans, fit_pca_kmeans, (*_SAMPLED_KMEANS, "pca_channels"), _KMEANS))
register("kmeans_plus", Recipe(FeaturePlusHead, fit_feature_plus, _SAMPLED_KMEANS, _PLUS))
register(
    "deep_spectral",
    Recipe(
        DeepSpectralHead,
        fit_deep_spectral,
        ("kmeans_iterations", "deep_spectral_eigenvectors", "deep_spectral_segments", "deep_spectral_colour_weight"),
        (*_KMEANS, *_GRAPH, "deep_spectral"),
    ),
)
register(
    "spectral",
    Recipe(
        SpectralHead,
        fit_spectral,
        ("kmeans_iterations", "spectral_landmarks", "spectral_neighbors"),
        (*_KMEANS, *_GRAPH),
    ),
)
register("ours", Recipe(EigenfunctionHead, None, needs_psi=True))
register("ours_star", Recipe(HiddenKMeans, fit_hidden_kmeans, _SAMPLED_KMEANS, _KMEANS, needs_psi=True))
register("ours_plus", Recipe(PlusHead, fit_plus, _SAMPLED_KMEANS, _PLUS, needs_psi=True))


def check_methods(methods: Sequence[str]) -> None:
    """Raise ``InputError`` naming the first method that is not registered."""
    for method in methods:
        if method not in REGISTRY:
            raise InputError(f"unknown method {method!r}; there are {', '.join(REGISTRY)}")
