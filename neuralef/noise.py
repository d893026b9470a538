r"""How much of an ablation is more than noise between seeds (notebook 34).

Scores :math:`y_{sv}` of S seeds at V values of what is varied, every seed at every value, are split into an effect of
the seed, an effect of the value and a rest (two-way analysis of variance without replication). The rest is what seeds
do *after* pairing; its mean square :math:`M_r` has :math:`(S - 1)(V - 1)` degrees of freedom.

If no value made a difference, the means over seeds would still lie apart: their range, largest minus smallest, in units
of :math:`\sqrt{M_r / S}` follows the studentized range distribution (Tukey, 1949). An ablation *exceeds seed noise* if
its range is above the 95 % point. How much of it does: with the mean square :math:`M_v` of the values, noise explains
:math:`M_r / M_v` of the variance between the means, and :math:`1 - M_r / M_v`, not below 0, is left.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
from scipy import integrate, stats

from neuralef.reporting import markdown, mean_and_spread, method_title
from neuralef.tables import Table

LEVEL = 0.95
SYMBOLS = {"clusters": "K", "pixel_weight": "alpha", "orthogonality_weight": "beta"}

AUTHORS_LOGS = (0.371, 0.404, 0.379)
"""mIoU that the authors' own logs show for one setting: Pascal Context, ViT-S."""


@dataclass(frozen=True)
class Spread:
    """What the values of an ablation do beside what seeds do; scores are fractions.

    Attributes:
        width: Largest minus smallest mean over seeds.
        between_seeds: Standard deviation between seeds at one value, pooled over the values: what a single run is off
            by; NaN for a single seed.
        rest: Standard deviation that is left when each seed's own mean is taken away; NaN for a single seed.
        share: Share of the variance between the means that noise does not explain; NaN for a single seed.
        best: Value with the largest mean.
        worst: Value with the smallest mean.
        seeds: Number of seeds.
        values: Number of values.
    """

    width: float
    between_seeds: float
    rest: float
    share: float
    best: str
    worst: str
    seeds: int
    values: int

    @property
    def ratio(self) -> float:
        """Range of the means in units of the spread between seeds."""
        if self.between_seeds == 0:
            return math.inf if self.width else 0.0
        return self.width / self.between_seeds

    @property
    def noise_width(self) -> float:
        """What the range stays below in 95 % of cases if no value makes a difference; NaN for a single seed."""
        if self.seeds == 1:
            return math.nan
        return _critical(self.values, self._freedom) * self.rest / math.sqrt(self.seeds)

    @property
    def p_value(self) -> float:
        """Chance of a range as large or larger if no value makes a difference; NaN for a single seed."""
        if self.seeds == 1:
            return math.nan
        if self.rest == 0:
            return 0.0 if self.width else 1.0
        scaled = self.width * math.sqrt(self.seeds) / self.rest
        return float(stats.studentized_range.sf(scaled, self.values, self._freedom))

    @property
    def exceeds(self) -> bool:
        """Whether the values differ by more than seeds alone let them; a single seed cannot tell."""
        return self.width > self.noise_width

    @property
    def _freedom(self) -> int:
        return (self.seeds - 1) * (self.values - 1)


def spread(scores: pd.DataFrame) -> Spread:
    """Split the scores of an ablation.

    Args:
        scores: Scores as fractions, seeds in rows and values in columns; none missing, at least two values.

    Raises:
        ValueError: If a score is missing or there is one value only.
    """
    y = scores.to_numpy(dtype=float)
    S, V = y.shape  # seeds, values
    if V < 2 or np.isnan(y).any():
        raise ValueError(f"scores of {S} seeds at {V} values: every seed needs a score at each of at least two values")
    means = scores.mean()
    ends = {"best": str(means.idxmax()), "worst": str(means.idxmin()), "seeds": S, "values": V}
    width = float(means.max() - means.min())
    if S == 1:
        return Spread(width, math.nan, math.nan, math.nan, **ends)
    rest = paired(scores).to_numpy() - y.mean(axis=0) + y.mean()
    rest_square = float(np.square(rest).sum()) / ((S - 1) * (V - 1))
    value_square = S * float(means.var(ddof=1))
    share = max(0.0, 1 - rest_square / value_square) if value_square else 0.0
    between = math.sqrt(y.var(axis=0, ddof=1).mean())
    return Spread(width, between, math.sqrt(rest_square), share, **ends)


def paired(scores: pd.DataFrame) -> pd.DataFrame:
    """Scores minus each seed's own mean over the values."""
    return scores.sub(scores.mean(axis=1), axis=0)


def expected_width(runs: int) -> float:
    r"""Mean range of ``runs`` independent standard normal numbers, :math:`\int 1 - \Phi^n - (1 - \Phi)^n`.

    Times a standard deviation, it is how far single runs of one and the same setting lie apart on average.
    """
    integral, _ = integrate.quad(lambda x: 1 - stats.norm.cdf(x) ** runs - stats.norm.sf(x) ** runs, -np.inf, np.inf)
    return integral


def columns(table: Table, numbers: pd.DataFrame, *, names: Mapping[str, str] | None = None) -> dict[str, pd.DataFrame]:
    """The mIoU of an ablation, apart for each dataset and method.

    Args:
        table: Table that varies K or a hyper-parameter.
        numbers: Numbers of the paper or ours, see :func:`neuralef.table_study.published` and
            :meth:`neuralef.table_study.TableStudy.run`.
        names: What titles say for the paper's datasets, see :func:`neuralef.table_study.names_here`; the same for the
            paper's numbers as for ours, so that both have one title. Default: the paper's names.

    Returns:
        Scores by title: seeds in rows; values in columns, as strings, in their order.
    """
    axis, names = table.rows[-1], names or {}
    found = {}
    for (dataset, method), group in numbers.groupby(["dataset", "method"], sort=False):
        scores = group.pivot(index="seed", columns=axis, values="mean_iou")[list(group[axis].unique())]
        scores.columns = [str(value).rpartition("=")[2] for value in scores.columns]
        of = f"{names.get(dataset, dataset)}, {method_title(method)}"
        found[f"{table.name} ({SYMBOLS[table.varies]}), {of}"] = scores
    return found


def by_method(rows: pd.DataFrame) -> pd.DataFrame:
    """mIoU under ``max_iou`` of rows of one dataset: seeds in rows; methods in columns, by title, as they stand."""
    chosen = rows[rows["matching"] == "max_iou"]
    scores = chosen.pivot(index="seed", columns="method", values="mean_iou")[list(chosen["method"].unique())]
    return scores.rename(columns=method_title)


def method_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """Scores of :func:`by_method` in percent, as strings: methods in rows; each seed and mean ± spread in columns."""
    printed = (100 * scores.T).map("{:.1f}".format).rename(columns="seed {}".format)
    return (
        printed.assign(**{"mean ± spread": scores.apply(mean_and_spread)})
        .rename_axis(index="method", columns=None)
        .reset_index()
    )


def spread_table(spreads: Mapping[str, Spread]) -> pd.DataFrame:
    """One line for each title, as strings, in points of the score; see :class:`Spread`."""
    rows = []
    for title, found in spreads.items():
        known = found.seeds > 1
        rows.append(
            {
                "ablation": title,
                "seeds": str(found.seeds),
                "range": f"{100 * found.width:.1f}",
                "seed spread": f"{100 * found.between_seeds:.1f}" if known else "one seed",
                "range / spread": f"{found.ratio:.1f}" if known else "one seed",
                "seeds alone": f"{100 * found.noise_width:.1f}" if known else "one seed",
                "p": _chance(found.p_value) if known else "one seed",
                "share beyond noise": f"{100 * found.share:.0f} %" if known else "one seed",
                "exceeds seed noise": ("yes" if found.exceeds else "no") if known else "not known",
            }
        )
    return pd.DataFrame(rows)


def sentence(title: str, found: Spread) -> str:
    """The verdict on one ablation in Markdown."""
    title = markdown(title)
    ends = markdown(f"{100 * found.width:.1f} points between best ({found.best}) and worst ({found.worst})")
    if found.seeds == 1:
        return f"{title}: {ends}; one seed shows no noise, so nothing is decided."
    beyond = f"; {100 * found.share:.0f} % of the variance between the means is beyond noise" if found.exceeds else ""
    return (
        f"{title} **{'exceeds' if found.exceeds else 'does not exceed'} seed noise**: {ends}, {found.ratio:.1f} times "
        f"the spread of {100 * found.between_seeds:.1f} between seeds. Seeds alone reach {100 * found.noise_width:.1f} "
        f"in one case of twenty; p {_chance(found.p_value, equals='= ')}{beyond}."
    )


def single_runs(papers: Mapping[str, pd.DataFrame], spreads: Mapping[str, Spread]) -> pd.DataFrame:
    """Ranges of the paper's single runs beside what single runs of one setting show.

    Args:
        papers: Scores of the paper by title, from :func:`columns`.
        spreads: Spreads of our runs by title.

    Returns:
        Table of strings: title, how many values the paper has, its range, and of as many runs at the spread between
        seeds here the mean range and the one that 95 % stay below, in points.
    """
    rows = []
    for title, scores in papers.items():
        here = spreads.get(title)
        runs, deviation = scores.shape[1], 100 * here.between_seeds if here else math.nan
        ranges = {
            "mean range of alike runs": expected_width(runs) * deviation,
            "95 % of them below": _critical(runs, math.inf) * deviation,
        }
        rows.append(
            {
                "ablation": title,
                "values in paper": str(runs),
                "paper range": f"{100 * spread(scores).width:.1f}",
                **{name: "not known" if math.isnan(value) else f"{value:.1f}" for name, value in ranges.items()},
            }
        )
    return pd.DataFrame(rows)


def family_sentence(spreads: Mapping[str, Spread]) -> str:
    """Whether the rarest of several ablations is beyond what so many would show by chance (Bonferroni), in Markdown."""
    chances = {markdown(title): found.p_value for title, found in spreads.items() if found.seeds > 1}
    if not chances:
        return "one seed shows no noise, so nothing is decided"
    rarest = min(chances, key=chances.__getitem__)
    bound = min(1.0, len(chances) * chances[rarest])
    verdict = "beyond chance" if bound < 1 - LEVEL else "not beyond chance, and so none is"
    return (
        f"the smallest p of {len(chances)} ablations ({rarest}), times their number, is {_chance(bound)}: by that "
        f"measure **{verdict}**"
    )


def logs_sentence(runs: Sequence[int]) -> str:
    """How far single runs would lie apart at the spread of the authors' own logs, for several numbers of runs."""
    logs = 100 * np.array(AUTHORS_LOGS)
    deviation = logs.std(ddof=1)
    lie = ", ".join(f"{deviation * expected_width(number):.1f} points for {number} runs" for number in runs)
    shown = ", ".join(f"{value:.1f}" for value in logs)
    return (
        f"The authors' own logs show {shown} mIoU for one setting (Pascal Context, ViT-S): a standard deviation of "
        f"{deviation:.1f}, if they differ in nothing but chance. At that spread single runs of one setting would lie "
        f"apart, on average, by {lie}."
    )


def changes(scores: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Every run minus its seed's own mean: columns ``panel``, ``value``, ``seed`` and ``change`` (a fraction)."""
    if not scores:
        return pd.DataFrame(columns=["seed", "value", "change", "panel"])
    long = []
    for title, of in scores.items():
        molten = paired(of).rename_axis("seed").reset_index().melt("seed", var_name="value", value_name="change")
        long.append(molten.assign(panel=title))
    return pd.concat(long)


def bands(scores: Mapping[str, pd.DataFrame], spreads: Mapping[str, Spread]) -> pd.DataFrame:
    """Where the means of :func:`changes` would stay if seeds alone moved them.

    The band is as high as ``noise_width`` and lies so that the means have as far to both of its ends: they leave it
    exactly where the ablation exceeds seed noise.

    Returns:
        Bands by title: ``low`` and ``high`` (fractions, NaN for a single seed) and ``exceeds``.
    """
    rows = {}
    for title, found in spreads.items():
        means = paired(scores[title]).mean()
        middle = (means.max() + means.min()) / 2
        low, high = middle - found.noise_width / 2, middle + found.noise_width / 2
        rows[title] = {"low": low, "high": high, "exceeds": found.exceeds}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["low", "high", "exceeds"])


def widths(spreads: Mapping[str, Spread], papers: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Ranges for a figure: columns ``label``, ``here``, ``noise``, ``paper`` (NaN where it has none), ``exceeds``."""
    rows = [
        [title, found.width, found.noise_width, spread(papers[title]).width if title in papers else math.nan]
        for title, found in spreads.items()
    ]
    drawn = pd.DataFrame(rows, columns=["label", "here", "noise", "paper"])
    return drawn.assign(exceeds=drawn["here"] > drawn["noise"])


def _chance(p_value: float, *, equals: str = "") -> str:
    return "< 0.001" if p_value < 0.001 else f"{equals}{p_value:.3f}"


@cache
def _critical(values: int, freedom: float) -> float:
    # Found by bisecting a double integral, which takes a fraction of a second.
    return float(stats.studentized_range.ppf(LEVEL, values, freedom))
