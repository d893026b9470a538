"""The paper's tables run with what a profile has: plan, runs, and the numbers beside the paper's.

Every number of ours is read from ``results.csv``. What cannot be run, for want of photographs, of weights or of a
stand-in, is said to be ``not run``, with the reason.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from neuralef import datasets
from neuralef.config import FEATURE_FIELDS, PAPER_EIGENFUNCTIONS, Config, Profile, StandIn, TableSetup, load_profile
from neuralef.errors import InputError
from neuralef.evaluation import MATCHINGS, Matching
from neuralef.experiments import read_image_tables, run_experiment, run_seeds
from neuralef.findings import VERDICT_COLUMNS, Setting
from neuralef.findings import VERDICT_RULE as VERDICT_RULE  # notebooks write it under a table's findings
from neuralef.methods import REGISTRY
from neuralef.provenance import digest
from neuralef.reporting import IOU_RULE, METRICS, NOT_IN_PAPER, markdown, mean_and_spread, method_title, paper_numbers
from neuralef.results import read_results
from neuralef.studies import described
from neuralef.tables import PEERS, VIT_SMALL, Spec, Table
from neuralef.training import training_settings
from neuralef.workbench import Experiment, Workbench, open_workbench

log = logging.getLogger(__name__)

NOT_RUN = "not run"
IDENTITY = list(Setting._fields)


@dataclass(frozen=True)
class Line:
    """A set-up of a table as a profile runs it.

    Attributes:
        spec: Set-up in the paper's names.
        experiment: Experiment with the first seed; ``None`` where it cannot be run.
        reason: Why the experiment cannot be run, or empty.
    """

    spec: Spec
    experiment: Experiment | None
    reason: str = ""

    @property
    def description(self) -> str:
        """What really runs, or why nothing does."""
        if self.experiment is None:
            return f"{NOT_RUN}: {self.reason}"
        used = self.experiment
        transfer = f", trained on {_named(used.trained_on, used.trained_on_options)}" if used.trained_on else ""
        wider = f"; psi of {used.clusters} channels" if used.config.width == used.clusters else ""
        return f"{_named(used.dataset, used.dataset_options)}{transfer}; {used.backbone}; K = {used.clusters}{wider}"


@dataclass
class TableStudy:
    """The tables of a profile; features, psi and clusters are shared by all of them."""

    profile: Profile
    setup: TableSetup
    progress: bool = True
    _benches: dict[str, Workbench] = field(default_factory=dict, init=False, repr=False)
    _absent: dict[str, str] = field(default_factory=dict, init=False, repr=False)

    def lines(self, table: Table) -> list[Line]:
        """Every set-up of a table, in its order, with what it is here."""
        return [self.line(spec, scaled=table.varies != "clusters") for spec in table.lines(self._values(table))]

    def line(self, spec: Spec, *, scaled: bool = True) -> Line:
        """One set-up as it is run here.

        Args:
            spec: Set-up in the paper's names.
            scaled: Whether the set-up's K is the paper's, to be scaled to the profile's, or already the one to run.
        """
        data, source = self._sources(spec)
        chosen = self._backbone(spec.backbone)
        reasons = [self._absence(part.name) for part in (data, source) if part]
        reasons += [] if chosen else [f"profile {self.profile.name} has no stand-in for {spec.backbone}"]
        experiment = Experiment(
            dataset=data.name,
            dataset_options=data.options,
            trained_on=source.name if source else "",
            trained_on_options=source.options if source else {},
            backbone=chosen or spec.backbone,
            clusters=0,  # known once the dataset can be opened
            seed=self.setup.seeds[0],
            config=self.profile.config.updated(
                {
                    **(source or data).config,
                    **spec.changes,
                    "protocol": spec.protocol,
                    # The paper speaks of a CRF for its square crops alone; see Table 3's note.
                    **({"crf": "none"} if spec.protocol == "sliding" else {}),
                }
            ),
        )
        if not any(reasons):
            reasons = [self._unusable(experiment)]
        if any(reasons):
            return Line(spec, None, "; ".join(dict.fromkeys(filter(None, reasons))))
        clusters = self._clusters(spec, experiment, scaled=scaled)
        return Line(spec, replace(experiment, clusters=clusters, config=_wide_enough(experiment.config, clusters)))

    def bench(self, experiment: Experiment) -> Workbench:
        """The workbench of an experiment, shared with all that have its features."""
        features = {name: getattr(experiment.config, name) for name in FEATURE_FIELDS}
        bare = replace(experiment, clusters=0, seed=0, config=replace(self.profile.config, **features))
        return self._benches.setdefault(_key(bare), open_workbench(bare, progress=self.progress))

    def plan(self, tables: Sequence[Table]) -> pd.DataFrame:
        """What running some tables takes: one line for each, trainings that earlier ones share counted once.

        Trainings whose psi is in the cache are among them.

        Returns:
            Columns ``table``, ``set-ups``, ``not run``, ``trainings of psi``.
        """
        known: set[str] = set()
        rows = []
        for table in tables:
            lines = self.lines(table)
            trainings = {key for line in lines if line.experiment for key in self._trainings(line)}
            missing = sum(line.experiment is None for line in lines)
            rows.append([table.number, len(lines), missing, len(trainings - known)])
            known |= trainings
        return pd.DataFrame(rows, columns=["table", "set-ups", NOT_RUN, "trainings of psi"])

    def run(self, table: Table, out: Path) -> pd.DataFrame:
        """Run what can be run and read its numbers from ``out/results.csv``.

        Returns:
            One row for each set-up, method, matching and seed: the columns of :class:`neuralef.findings.Setting` in the
            paper's names (``clusters`` as run), ``matching``, ``here``, ``dataset_used`` and ``backbone_used`` (what
            was really used), ``experiment_id``, ``seed``, ``accuracy`` and ``mean_iou`` as fractions, and
            ``clusters_used``.
        """
        return self.run_lines(self.lines(table), out)

    def run_lines(self, lines: Sequence[Line], out: Path) -> pd.DataFrame:
        """:meth:`run` for some set-ups alone."""
        wanted = [row for line in lines if line.experiment for row in self._run(line, out)]
        columns = [*IDENTITY, "matching", "here", "dataset_used", "backbone_used", "experiment_id"]
        measured = ["seed", *METRICS, "clusters_used"]
        if not wanted:
            return pd.DataFrame(columns=[*columns, *measured])
        found = read_results(out / "results.csv")[["experiment_id", "method", "matching", *measured]]
        return pd.DataFrame(wanted, columns=columns).merge(found, on=["experiment_id", "method", "matching"])

    def _run(self, line: Line, out: Path) -> Iterator[list[Any]]:
        ours, bench, methods = line.experiment, self.bench(line.experiment), line.spec.methods
        for rows in run_seeds(ours, self.setup.seeds, methods, out, bench=bench, progress=self.progress):
            used = [line.description, ours.dataset, ours.backbone, rows[0]["experiment_id"]]
            for matching, setting in _settings(line.spec):
                yield [*setting._replace(clusters=ours.clusters), matching, *used]

    def image_tables(self, line: Line, out: Path) -> dict[str, np.ndarray]:
        """Pixels of every ``val`` image by cluster and class, shape ``(N, K, C)``, for each method and the first seed.

        Raises:
            InputError: If the set-up cannot be run here.
        """
        if line.experiment is None:
            raise InputError(f"{line.spec.dataset} cannot be shown: {line.reason}")
        bench, methods = self.bench(line.experiment), line.spec.methods
        rows = run_experiment(line.experiment, methods, out, bench=bench, image_tables=True, progress=self.progress)
        return {method: read_image_tables(out, rows[0]["experiment_id"], method) for method in methods}

    def class_maps(
        self, line: Line, tables: Mapping[str, np.ndarray], image_ids: Sequence[str]
    ) -> Iterator[dict[str, np.ndarray]]:
        """What a qualitative figure shows of some photographs, for the first seed.

        Args:
            line: Set-up to show.
            tables: Counts of the set-up, from :meth:`image_tables`: clusters are matched over all of ``val``, by its
                first matching.
            image_ids: Ids of images of ``val``.

        Yields:
            ``photograph`` as the protocol evaluates it, uint8 ``(H, W, 3)``; by method the class of every pixel,
            ``(H, W)``; and ``truth``, the same of the label.
        """
        experiment, protocol = line.experiment, line.spec.protocol
        bench, match = self.bench(experiment), MATCHINGS[line.spec.matchings[0]]
        fitted = {
            method: bench.segmenter(method, experiment.clusters, experiment.seed, experiment.config)
            for method in tables
        }
        classes = {method: match(counts.sum(axis=0, dtype=np.int64)) for method, counts in tables.items()}
        for image_id in image_ids:
            image = bench.dataset.image(image_id)
            whole = protocol == "sliding"
            maps = {method: (found(image) if whole else found.crop(image)) for method, found in fitted.items()}
            yield {
                "photograph": image if whole else bench.image(image_id),
                **{method: classes[method][clusters] for method, clusters in maps.items()},
                "truth": bench.label(image_id, protocol),
            }

    def beside_paper(self, table: Table, numbers: pd.DataFrame) -> pd.DataFrame:
        """The paper's numbers and ours, set-up by set-up.

        Args:
            table: Table of the paper.
            numbers: Numbers of ours, from :meth:`run`.

        Returns:
            Table of strings, ready to print: what tells rows apart, ``paper Acc`` and ``paper mIoU`` (where the paper
            prints any), ``here Acc`` and ``here mIoU`` (mean ± spread over seeds), ``seeds`` and ``here``, what was
            run.
        """
        rows = list(table.rows)
        paper, ours = (dict(list(frame.groupby(rows, sort=False))) for frame in (published(table), numbers))
        reasons = {
            tuple(getattr(setting, name) for name in rows): line.description
            for line in self.lines(table)
            if line.experiment is None
            for _, setting in _settings(line.spec)
        }
        printed = [metric for metric in METRICS if published(table)[metric].notna().any()]
        body = []
        for key in sorted(dict.fromkeys([*paper, *ours, *reasons]), key=_order(rows, [*paper, *ours, *reasons])):
            row = {name: title_of(name, value) for name, value in zip(rows, key, strict=True)}
            for metric in printed:
                value = paper[key][metric].item() if key in paper else np.nan
                row[f"paper {METRICS[metric]}"] = NOT_IN_PAPER if np.isnan(value) else f"{100 * value:.1f}"
            for metric, title in METRICS.items():
                row[f"here {title}"] = mean_and_spread(ours[key][metric]) if key in ours else NOT_RUN
            row["seeds"] = str(ours[key]["seed"].nunique()) if key in ours else "0"
            row["here"] = ours[key]["here"].iloc[0] if key in ours else reasons.get(key, self._why_not(rows, key))
            body.append(row)
        return pd.DataFrame(body)

    def _why_not(self, rows: Sequence[str], key: Sequence[Any]) -> str:
        values = dict(zip(rows, key, strict=True))
        if values.get("method") in PEERS:
            return f"{NOT_RUN}: a method of others"
        return f"{NOT_RUN}: not among the values of profile {self.profile.name}"

    def verdicts(self, table: Table, numbers: pd.DataFrame) -> pd.DataFrame:
        """Every finding of a table, put to the paper's numbers and to ours.

        Returns:
            Table of strings: ``table``, its name; ``finding``; ``paper`` and ``here``, each ``holds``,
            ``does not hold``, ``undecided`` or ``not run``; ``paper's differences`` and ``differences here``,
            smallest and largest; ``seeds``.
        """
        rows = []
        for finding in table.findings:
            paper, here = finding.judge(published(table), single_runs=True), finding.judge(numbers)
            rows.append([table.name, finding.text, paper.outcome, paper.size, here.outcome, here.size, str(here.seeds)])
        return pd.DataFrame(rows, columns=VERDICT_COLUMNS)

    def differences(self, table: Table, numbers: pd.DataFrame) -> pd.DataFrame:
        """Every difference behind :meth:`verdicts` here, with its interval.

        Returns:
            Table of strings: ``table``, its name; ``finding``; ``of``, what both settings share where the table has
            several; ``difference``, which setting minus which; ``metric``, ``Acc`` or ``mIoU``; ``points (95 %)``, the
            mean over seeds and its interval by Student's t, none of one seed; ``seeds``. Names are the paper's.
        """
        rows = []
        for finding in table.findings:
            for each in finding.judge(numbers).differences:
                first, second = each.first._asdict(), each.second._asdict()
                apart = [name for name in first if first[name] != second[name]]
                alike = [name for name in table.rows if name not in apart]
                shared = filter(None, (title_of(name, first[name]) for name in alike))
                sides = [[title_of(name, side[name]) or "default" for name in apart] for side in (first, second)]
                low, high = each.interval()
                interval = f" ({100 * low:+z.1f} to {100 * high:+z.1f})" if len(each.values) > 1 else ""
                rows.append(
                    [
                        table.name,
                        finding.text,
                        ", ".join(shared),
                        " − ".join(map(", ".join, sides)),
                        METRICS[finding.metric],
                        f"{100 * each.mean:+z.1f}{interval}",
                        str(len(each.values)),
                    ]
                )
        return pd.DataFrame(rows, columns=["table", "finding", "of", "difference", "metric", "points (95 %)", "seeds"])

    def caption(self, table: Table) -> str:
        """Caption of a table: what it is, how it was matched and scored, what the numbers are of."""
        spec, config = table.specs[0], self.profile.config
        crf = "none" if spec.protocol == "sliding" else config.crf
        rule = f"matching {spec.matchings[0]}" if len(spec.matchings) == 1 else "matching as named in each row"
        parts = [
            f"{table.name} of the paper: {table.title}.",
            f"Percent; here mean ± standard deviation over {len(self.setup.seeds)} seeds, the paper one number without "
            "a spread.",
            f"{rule[0].upper()}{rule[1:]}; protocol {spec.protocol}, CRF here: {crf}. {IOU_RULE}",
            "Paper columns are of the paper's own photographs and backbones, `here` says what ours are of: compare "
            "differences between rows, not columns.",
            table.note,
        ]
        return f"{' '.join(filter(None, parts))} {self.describe(table)}."

    def describe(self, *tables: Table) -> str:
        """One line that says what profile, photographs and backbone some tables are of."""
        roles = dict.fromkeys(role for table in tables for spec in table.specs for role in self._roles(spec))
        names = {role: self._dataset(role).name for role in roles}
        used = ", ".join(used_for(name, role, " ") for role, name in names.items())
        data = f"{'datasets' if len(names) > 1 else 'dataset'} {used}"
        wanted = (spec.backbone for table in tables for spec in table.lines(self._values(table)))
        used = list(filter(None, dict.fromkeys(map(self._backbone, wanted)))) or [NOT_RUN]
        return f"{described(self.profile, data, used)}; seeds {', '.join(map(str, self.setup.seeds))}"

    def data_key(self, tables: Sequence[Table]) -> str:
        """Digest of all datasets that some tables read; changes when one that was missing arrives."""
        parts: list[Any] = []
        read = [part for table in tables for spec in table.specs for part in self._sources(spec) if part]
        for part in {_key(part): part for part in read}.values():
            missing = self._absence(part.name)
            found = "" if missing else datasets.fingerprint(datasets.load(part.name, **part.options))
            parts.append([part.name, missing, found])
        return digest(parts)

    def _values(self, table: Table) -> tuple[Any, ...]:
        if table.varies != "backbone":
            return tuple(self.setup.values.get(table.varies, table.values))
        local = (*self.setup.backbones, *self.setup.further_backbones)
        return tuple(dict.fromkeys([*table.values, *local]))

    def _sources(self, spec: Spec) -> tuple[StandIn, StandIn | None]:
        """The dataset evaluated here, and the one trained on where that is another."""
        data, *source = map(self._dataset, self._roles(spec))
        return data, source[0] if source else None

    def _roles(self, spec: Spec) -> tuple[str, ...]:
        """Names in the paper of the dataset evaluated and, where it is another, of the one trained on."""
        source = self.setup.transfer.get(spec.dataset, spec.trained_on) if spec.trained_on else ""
        return (spec.dataset, source) if source else (spec.dataset,)

    def _dataset(self, role: str) -> StandIn:
        used = self.setup.datasets.get(role, StandIn())
        return replace(used, name=used.name or role)

    def _backbone(self, role: str) -> str | None:
        if role in self.setup.further_backbones or not self.setup.backbones:
            return role
        return self.setup.backbones.get(role)

    def _absence(self, name: str) -> str:
        """Why a dataset cannot be had, or nothing; it is downloaded where that is possible, as for ``quick``."""
        if name not in self._absent:
            self._absent[name] = f"{name} is not here and could not be fetched" if datasets.obtain(name) else ""
        return self._absent[name]

    def _unusable(self, experiment: Experiment) -> str:
        """Why a backbone cannot be used, or nothing."""
        if experiment.backbone not in self._absent:
            self._absent[experiment.backbone] = ""
            try:
                self.bench(experiment).backbone  # noqa: B018 (built when first asked for)
            except InputError as error:
                log.warning("%s", error)
                fault = str(error).partition("; ")[0]  # what to do about it would fill a table's cell; the log has it
                self._absent[experiment.backbone] = f"{experiment.backbone} cannot be used: {fault}"
        return self._absent[experiment.backbone]

    def _clusters(self, spec: Spec, experiment: Experiment, *, scaled: bool) -> int:
        if spec.clusters == "classes":
            return len(self.bench(experiment).dataset.classes)
        if not scaled:
            return int(spec.clusters)
        return max(1, round(spec.clusters * self.profile.clusters / PAPER_EIGENFUNCTIONS))

    def _trainings(self, line: Line) -> Iterator[str]:
        if not any(REGISTRY[method].needs_psi for method in line.spec.methods):
            return
        trained_on = line.experiment
        if trained_on.trained_on:
            trained_on = replace(
                trained_on, dataset=trained_on.trained_on, dataset_options=trained_on.trained_on_options
            )
        settings = training_settings(trained_on.config)
        for seed in self.setup.seeds:
            identity = [trained_on.dataset, dict(trained_on.dataset_options), trained_on.backbone, trained_on.clusters]
            yield digest(identity, settings, seed)


def open_tables(profile_name: str, *, progress: bool = True) -> TableStudy:
    """The tables of a profile.

    Raises:
        InputError: If the profile is unknown or runs no tables.
    """
    profile = load_profile(profile_name)
    if profile.tables is None:
        raise InputError(f"profile {profile_name!r} runs no tables of the paper; use --profile standard")
    return TableStudy(profile, profile.tables, progress)


def published(table: Table) -> pd.DataFrame:
    """The paper's numbers of a table and of those it refers to, as fractions, with ``seed`` 0: it prints one each.

    Where the paper does not say which K or backbone, that of its other tables is taken. Methods of others have neither.
    """
    frame = paper_numbers()
    own = frame["table"] == table.number
    for spec in table.specs:
        repeated = (
            frame["table"].isin(table.references)
            & (frame["dataset"] == spec.dataset)
            & (frame["backbone"] == spec.backbone)
            & frame["method"].isin(spec.methods)
        )
        own |= repeated
    chosen = frame[own].assign(seed=0, **{metric: frame[metric] / 100 for metric in METRICS})
    peers = chosen["method"].isin(PEERS)
    usual = {
        "clusters": chosen["clusters"].fillna(PAPER_EIGENFUNCTIONS).astype(int).astype(object).mask(peers, ""),
        "backbone": chosen["backbone"].fillna(VIT_SMALL).mask(peers, ""),
    }
    chosen = chosen.assign(setting=chosen["setting"].fillna(""), **usual)
    return chosen[[*IDENTITY, "seed", *METRICS]]


def changes(table: Table, numbers: pd.DataFrame, *, along: str = "") -> pd.DataFrame:
    """How mIoU changes with what a table varies: every run minus the same run at one value that both sides have.

    Args:
        table: Table of the paper; methods of others are left out.
        numbers: Numbers of ours, from :meth:`TableStudy.run`.
        along: Column that changes, of the table's ``rows``; default: the last of them.

    Returns:
        Columns ``panel`` (whatever else tells rows apart, datasets and backbones as in :func:`names_here`), ``value``
        (in order), ``source`` (``paper`` or ``here``), ``seed``, ``change`` (a fraction) and ``reference``, the value
        it is counted from.
    """
    axis = along or table.rows[-1]
    others = [name for name in table.rows if name != axis]
    names = {column: names_here(numbers, column) for column in ("dataset", "backbone")}
    paper = published(table)
    sides = {"paper": paper[~paper["method"].isin(PEERS)], "here": numbers}
    common = [value for value in sides["here"][axis].unique() if value in set(sides["paper"][axis])]
    rows = []
    for source, frame in sides.items():
        for (*values, seed), group in frame.groupby([*others, "seed"], sort=False):
            scores = group.set_index(axis)["mean_iou"]
            reference = next((value for value in common if value in scores.index), scores.index[0])
            panel = ", ".join(
                names.get(column, {}).get(value) or title_of(column, value)
                for column, value in zip(others, values, strict=True)
            )
            rows += [
                [panel, value, source, seed, score - scores[reference], reference] for value, score in scores.items()
            ]
    found = pd.DataFrame(rows, columns=["panel", "value", "source", "seed", "change", "reference"])
    return found.sort_values("value", key=lambda column: column.map(_number), kind="stable")


def image_accuracies(counts: np.ndarray, matching: Matching = "max_iou") -> np.ndarray:
    """Accuracy of every image, clusters having been matched once over all of them.

    Args:
        counts: Pixels of every image by cluster and class, shape ``(N, K, C)``.
        matching: Matching of clusters to classes.

    Returns:
        Accuracy of every image, shape ``(N,)``, fractions; NaN for an image without a labelled pixel.
    """
    classes = MATCHINGS[matching](counts.sum(axis=0, dtype=np.int64))
    right, pixels = counts[:, np.arange(len(classes)), classes].sum(axis=1), counts.sum(axis=(1, 2))
    return np.where(pixels > 0, right / np.maximum(pixels, 1), np.nan)


@dataclass(frozen=True)
class Agreement:
    """How often clusters meet the same class most in two sets of images.

    Attributes:
        share: Share of clusters with the same class, among those that have labelled pixels in both sets.
        clusters: Number of clusters that have labelled pixels in both sets.
        chance: Mean share when the clusters of one set are shuffled, which frequent classes keep above 0.
        bound: Share that 95 % of the shuffles do not exceed.
    """

    share: float
    clusters: int
    chance: float
    bound: float

    @property
    def outcome(self) -> str:
        """``holds`` where shuffling rarely gives as much, else ``undecided``."""
        return "holds" if self.share > self.bound else "undecided"


def favourite_agreement(first: np.ndarray, second: np.ndarray, *, draws: int) -> Agreement:
    """Compare the class that each cluster meets most in one set of images with that in another, by a permutation test.

    Args:
        first: Pixels by cluster and class in one set, shape ``(K, C)``.
        second: Pixels by cluster and class in the other set, shape ``(K, C)``.
        draws: Number of shuffles.
    """
    used = np.flatnonzero((first.sum(axis=1) > 0) & (second.sum(axis=1) > 0))
    one, other = first[used].argmax(axis=1), second[used].argmax(axis=1)
    rng = np.random.default_rng(0)
    shuffled = np.array([(one == rng.permutation(other)).mean() for _ in range(draws)])
    share, chance, bound = map(float, ((one == other).mean(), shuffled.mean(), np.quantile(shuffled, 0.95)))
    return Agreement(share, len(used), chance, bound)


def verdict_lines(verdicts: pd.DataFrame) -> str:
    """Markdown list, one sentence for each finding of :meth:`TableStudy.verdicts`."""
    lines = []
    for row in verdicts.to_dict("records"):
        text = markdown(row["finding"])
        sides = []
        for side, differences in (("paper", "paper's differences"), ("here", "differences here")):
            size = f" (mean differences: {row[differences]})" if row[differences] else ""
            sides.append(f"{'in the paper' if side == 'paper' else 'here'} **{row[side]}**{size}")
        seeds = f" over {row['seeds']} seeds" if row["seeds"] != "0" else ""
        lines.append(f"- {text[0].upper()}{text[1:]}: {'; '.join(sides)}{seeds}.")
    return "\n".join(lines)


def title_of(column: str, value: Any) -> str:
    """How a table prints a value of one of its columns."""
    if column == "method":
        return PEERS.get(value) or method_title(value)
    return "its own" if column == "backbone" and not value else str(value)


def used_for(used: str, role: str, between: str = "\n") -> str:
    """Name of what is used and, where that is something else, the paper's name that it stands in for."""
    return used if used == role else f"{used}{between}for {role}"


def names_here(numbers: pd.DataFrame, column: str, between: str = "\n") -> dict[str, str]:
    """How figures name what our numbers are of, for every name of the paper that they have.

    Args:
        numbers: Numbers of ours, from :meth:`TableStudy.run`.
        column: ``dataset`` or ``backbone``.
        between: What separates both names, see :func:`used_for`.
    """
    pairs = numbers[[column, f"{column}_used"]].drop_duplicates().itertuples(index=False, name=None)
    return {role: used_for(used, role, between) for role, used in pairs}


def _settings(spec: Spec) -> Iterator[tuple[Matching, Setting]]:
    """What tells the numbers of a set-up apart, for each method and matching."""
    for method, matching in product(spec.methods, spec.matchings):
        named = spec.dataset, spec.protocol, spec.backbone, method, spec.clusters, spec.setting(matching)
        yield matching, Setting(*named)


def _order(rows: Sequence[str], keys: Sequence[tuple]) -> Any:
    """Sorts keys by first appearance, column by column, and by number where a column holds numbers."""
    places = [list(dict.fromkeys(values)) for values in zip(*keys, strict=True)]

    def rank(key: tuple) -> list[tuple[float, int]]:
        return [(_number(value), place.index(value)) for value, place in zip(key, places, strict=True)]

    return rank


def _number(value: Any) -> float:
    """A number, or the one behind the ``=`` of a setting; -1 for anything else."""
    text = str(value).rpartition("=")[2]
    return float(text) if text.replace(".", "", 1).isdecimal() else -1.0


def _wide_enough(config: Config, clusters: int) -> Config:
    """The settings with a psi of at least K channels, which K orthogonal functions need; the paper's always is."""
    return replace(config, width=clusters) if config.width and config.width < clusters else config


def _key(specification: Experiment | StandIn) -> str:
    return json.dumps(asdict(specification), sort_keys=True)


def _named(name: str, options: Mapping[str, Any]) -> str:
    return f"{name} ({', '.join(f'{key} {value}' for key, value in options.items())})" if options else name
