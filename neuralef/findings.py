"""What a table is said to show, as predicates over its numbers that the paper's and ours are put to alike.

A finding is about differences between two settings of a table that are alike but for one thing. Runs of both that share
their seed form a pair, so that what they share drops out, and Student's t over seeds gives a 95 % confidence interval
for the mean difference. The finding *holds* if the interval of every difference lies where the finding puts it, *does
not hold* if one lies wholly outside, and is *undecided* otherwise, whether no difference is decided or only some are.
The finding that some values lie apart by more than a tolerance is the other way round: it holds if one interval
lies wholly beyond the tolerance, and does not hold if all lie within it. Where one interval is enough to decide, of
several differences the most extreme does, without a correction for their number: of m that are all 0 one lies wholly
below in up to 2.5 m % of cases, and with three seeds it takes no more than three values that happen to agree.
:mod:`neuralef.noise` pools the spread of all values instead and may say otherwise. A single run has no interval: it
decides nothing here, and counts as it is where the paper has no more.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise, product
from operator import attrgetter
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from neuralef.intervals import student_interval

Outcome = Literal["holds", "does not hold", "undecided", "not run"]
Region = Literal["above", "within", "beyond"]

VERDICT_RULE = (
    "Differences, smallest and largest, are between settings alike but for one thing, over runs that share their seed; "
    "each has a 95 % interval, by Student's t over seeds. A finding holds if every interval lies where it says, does "
    "not hold if one lies wholly elsewhere, and is undecided otherwise. A finding that some values differ by more than "
    "so much is decided the other way round: one interval wholly beyond that is enough to hold, and all within it "
    "mean that it does not. The paper's numbers, one each without a spread, count as they are; a single run here "
    "decides nothing."
)
"""Text under a table of verdicts."""

VERDICT_COLUMNS = ("table", "finding", "paper", "paper's differences", "here", "differences here", "seeds")
"""Columns of a table of verdicts."""


class Setting(NamedTuple):
    """Set-up that a number of a table belongs to, in the names of ``paper.csv``; blank where a table does not say.

    ``setting`` is ``field=value`` where a table varies a hyper-parameter, the matching or the training data.
    """

    dataset: str
    protocol: str
    backbone: str
    method: str
    clusters: int
    setting: str


Scores = Mapping[Setting, Mapping[int, float]]
"""For every setting its score by seed, a fraction."""

Pairs = Callable[[Sequence[Setting]], Iterator[tuple[Setting, Setting]]]
"""Picks, among the settings there are, those to be compared: the first minus the second."""


def scores_of(numbers: pd.DataFrame, metric: str) -> Scores:
    """The scores of a frame with the fields of :class:`Setting`, ``seed`` and metrics; missing ones are left out."""
    found: dict[Setting, dict[int, float]] = {}
    for row in numbers.dropna(subset=[metric]).to_dict("records"):
        setting = Setting(*(row[name] for name in Setting._fields))
        found.setdefault(setting, {})[row["seed"]] = row[metric]
    return found


def exceeds(field: str, high: object, low: object) -> Pairs:
    """Every setting whose ``field`` is ``high``, against the one alike but for ``low``."""

    def pairs(settings: Sequence[Setting]) -> Iterator[tuple[Setting, Setting]]:
        for first in settings:
            second = first._replace(**{field: low})
            if getattr(first, field) == high and second in settings:
                yield first, second

    return pairs


def outdoes(methods: Sequence[str], others: Sequence[str]) -> Pairs:
    """Every setting of some methods against every one of the others on the same dataset, whatever their backbones."""

    def pairs(settings: Sequence[Setting]) -> Iterator[tuple[Setting, Setting]]:
        for first, second in product(settings, settings):
            if first.method in methods and second.method in others and first.dataset == second.dataset:
                yield first, second

    return pairs


def rises(field: str, *, above: float = -math.inf, up_to: float = math.inf) -> Pairs:
    """Neighbouring values of ``field`` in a range, the larger against the smaller, all else alike."""

    def pairs(settings: Sequence[Setting]) -> Iterator[tuple[Setting, Setting]]:
        for alike in _alike(settings, field):
            inside = [setting for setting in alike if above <= getattr(setting, field) <= up_to]
            yield from ((second, first) for first, second in pairwise(sorted(inside, key=attrgetter(field))))

    return pairs


def among(field: str) -> Pairs:
    """Every two settings that are alike but for ``field``."""

    def pairs(settings: Sequence[Setting]) -> Iterator[tuple[Setting, Setting]]:
        for alike in _alike(settings, field):
            yield from combinations(alike, 2)

    return pairs


def _alike(settings: Sequence[Setting], field: str) -> list[list[Setting]]:
    groups: dict[Setting, list[Setting]] = {}
    for setting in settings:
        groups.setdefault(setting._replace(**{field: ""}), []).append(setting)
    return list(groups.values())


@dataclass(frozen=True)
class Difference:
    """The score of one setting minus that of another, run by run.

    Attributes:
        first: Setting whose score is subtracted from.
        second: Setting whose score is subtracted.
        values: Differences as fractions, one for every seed that both settings have.
    """

    first: Setting
    second: Setting
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return float(np.mean(self.values))

    def interval(self) -> tuple[float, float]:
        """Where the mean difference lies with 95 % confidence, by Student's t over the seeds; of one run, anywhere."""
        found = student_interval(self.values)
        return found.low, found.high


@dataclass(frozen=True)
class Verdict:
    """What became of a finding.

    Attributes:
        outcome: What the numbers say of the finding, one of :data:`Outcome`.
        differences: All differences that were compared.
    """

    outcome: Outcome
    differences: tuple[Difference, ...]

    @property
    def size(self) -> str:
        """Smallest and largest mean difference, in points."""
        if not self.differences:
            return ""
        means = sorted(100 * difference.mean for difference in self.differences)
        ends = dict.fromkeys(f"{value:+z.1f}" for value in (means[0], means[-1]))
        return f"{' to '.join(ends)} points"

    @property
    def seeds(self) -> int:
        """Number of runs of the difference that has fewest; 0 where there is none."""
        return min((len(difference.values) for difference in self.differences), default=0)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One sentence about a table, and what would make it true.

    Attributes:
        text: Sentence that states the finding.
        pairs: Rule that picks the settings to compare.
        region: Where the differences lie if the finding is true: ``above`` zero, ``within`` the tolerance on both sides
            of it, or at least one of them ``beyond`` the tolerance.
        tolerance: Tolerance on the differences, a fraction.
        metric: Score that is compared, ``mean_iou`` or ``accuracy``.
    """

    text: str
    pairs: Pairs
    region: Region = "above"
    tolerance: float = 0.0
    metric: Literal["mean_iou", "accuracy"] = "mean_iou"

    def judge(self, numbers: pd.DataFrame, *, single_runs: bool = False) -> Verdict:
        """Put the finding to the numbers of a table, see :func:`scores_of`.

        Args:
            numbers: Frame of the numbers.
            single_runs: Whether the difference of two single runs counts as it is, as the paper's must.
        """
        scores = scores_of(numbers, self.metric)
        differences = []
        for first, second in self.pairs(list(scores)):
            seeds = sorted(scores[first].keys() & scores[second].keys())
            if seeds:
                values = tuple(scores[first][seed] - scores[second][seed] for seed in seeds)
                differences.append(Difference(first, second, values))
        return Verdict(self._outcome(differences, single_runs=single_runs), tuple(differences))

    def _outcome(self, differences: Sequence[Difference], *, single_runs: bool) -> Outcome:
        if not differences:
            return "not run"
        places = [
            self._place(*((of.mean, of.mean) if single_runs and len(of.values) == 1 else of.interval()))
            for of in differences
        ]
        decisive, rest = ("holds", "does not hold") if self.region == "beyond" else ("does not hold", "holds")
        if decisive in places:
            return decisive
        return rest if set(places) == {rest} else "undecided"

    def _place(self, low: float, high: float) -> Outcome:
        if self.region == "above":
            return "holds" if low > 0 else "does not hold" if high <= 0 else "undecided"
        inside, outside = -self.tolerance <= low <= high <= self.tolerance, min(abs(low), abs(high)) > self.tolerance
        apart = outside and low * high > 0
        if self.region == "within":
            return "holds" if inside else "does not hold" if apart else "undecided"
        return "holds" if apart else "does not hold" if inside else "undecided"
