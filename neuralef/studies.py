"""A profile with its datasets settled: what notebooks open, and how they say what their numbers are about.

Nothing here decides a number, which is why no cache key knows of it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from neuralef import backbones, datasets
from neuralef.config import Profile, load_profile
from neuralef.errors import InputError
from neuralef.workbench import Experiment, Workbench


@dataclass(frozen=True)
class Study:
    """A profile with its dataset settled: what the notebooks open.

    Attributes:
        profile: Profile that is opened.
        dataset_name: Name of the dataset that is really used.
        reason: Why that dataset is not the profile's own, or empty.
        bench: Workbench with dataset, backbone and features.
    """

    profile: Profile
    dataset_name: str
    reason: str
    bench: Workbench

    def describe(self) -> str:
        """One line that says what the numbers are about; stands on top of every output."""
        return described(self.profile, f"dataset {self.dataset_name}{self.reason}")

    def data_key(self) -> str:
        """Key that changes with any photograph, label or class."""
        return datasets.fingerprint(self.bench.dataset)

    def experiments(self) -> Iterator[Experiment]:
        """The profile's benchmark, one experiment for each seed."""
        for seed in self.profile.seeds:
            yield Experiment(
                dataset=self.dataset_name,
                dataset_options=self.bench.dataset_options,
                backbone=self.profile.backbone,
                clusters=self.profile.clusters,
                seed=seed,
                config=self.bench.config,
            )


@dataclass(frozen=True)
class Studies:
    """Several datasets, each at the settings of one profile: what notebooks open that compare datasets.

    Attributes:
        members: Studies of the datasets that can be had, at least one.
        absent: Why each further dataset that was asked for is left out, by its name.
    """

    members: tuple[Study, ...]
    absent: Mapping[str, str]

    def describe(self) -> str:
        """One line as :meth:`Study.describe` gives it, with all datasets, and those not run."""
        names = ", ".join(f"{study.dataset_name}{study.reason}" for study in self.members)
        line = described(self.members[0].profile, f"{'datasets' if len(self.members) > 1 else 'dataset'} {names}")
        return "; ".join([line, *(f"not run: {name} ({reason})" for name, reason in self.absent.items())])

    def data_key(self) -> str:
        """Key that changes with any photograph, label or class, and with the datasets that can be had."""
        return "".join([*(study.data_key() for study in self.members), *self.absent])


def open_studies(profile_name: str, names: Sequence[str] = (), *, progress: bool = True) -> Studies:
    """The studies of several datasets at a profile's settings.

    Args:
        profile_name: Name of the profile.
        names: Names of the datasets; none: the profile's own. That one has its fallback, as in :func:`open_study`;
            another that neither lies in the data root nor can be fetched is left out, and the studies say so.
        progress: Whether to show progress bars.

    Raises:
        InputError: If a name is unknown, or none of the datasets can be had.
    """
    profile = load_profile(profile_name)
    members: dict[str, Study] = {}
    absent: dict[str, str] = {}
    for name in names or [profile.dataset]:
        if name == profile.dataset:
            study = open_study(profile_name, progress=progress)
            members[study.dataset_name] = study
        elif name not in members:  # else it stands in for the profile's own, which that study says
            absence = datasets.obtain(name)
            if absence:
                absent[name] = absence
            else:
                members[name] = _study_of(profile, name, progress=progress)
    if not members:
        raise InputError(f"none of the datasets can be had: {'; '.join(absent.values())}")
    return Studies(tuple(members.values()), absent)


def open_study(profile_name: str, *, progress: bool = True) -> Study:
    """Settle a profile's dataset and open its workbench.

    The profile's dataset is used if it lies in the data root or can be fetched, else its fallback, and the study says
    so wherever it describes itself.

    Raises:
        InputError: If the profile is unknown, or its dataset cannot be had and it has no fallback.
    """
    profile = load_profile(profile_name)
    absence = datasets.obtain(profile.dataset)
    if not absence:
        return _study_of(profile, profile.dataset, progress=progress)
    if not profile.fallback_dataset:
        raise InputError(absence)
    reason = f" (because {profile.dataset} could not be had)"
    return _study_of(profile, profile.fallback_dataset, reason, progress=progress)


def _study_of(profile: Profile, name: str, reason: str = "", *, progress: bool) -> Study:
    options = profile.dataset_options if name == "synthetic_scenes" else {}
    bench = Workbench(name, profile.backbone, profile.config_for(name), options, progress=progress)
    return Study(profile, name, reason, bench)


def described(profile: Profile, data: str, backbones_used: Sequence[str] | None = None) -> str:
    """Line on top of every output: what it is of.

    Args:
        profile: Profile, whose remark ends the line.
        data: Datasets, in words.
        backbones_used: Names of the backbones, each with its caveat, those with the same together; default: the
            profile's.
    """
    notes = {spec.name: f" ({spec.note})" for spec in backbones.available() if spec.note}
    by_note: dict[str, list[str]] = {}
    for name in [profile.backbone] if backbones_used is None else backbones_used:
        by_note.setdefault(notes.get(name, ""), []).append(name)
    used = " and ".join(f"{', '.join(names)}{note}" for note, names in by_note.items())
    return f"profile {profile.name}: {data}; backbone {used}{f'; {profile.remark}' if profile.remark else ''}"
