"""Paired comparisons of methods over data sets: differences and signed-rank tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from bench.tables import EQUAL, pivot, summarise

FEWEST_PAIRS = 6  # with five, no outcome of the signed-rank test has a two-sided p below .05


class SignedRank(NamedTuple):
    """The outcome of `signed_rank`; there is no test where pairs are too few."""

    n: int  # pairs
    mean: float  # of the differences, NaN without any
    sd: float  # of the differences (n - 1), NaN for one
    wins: int  # positive differences
    losses: int  # negative ones
    ties: int
    statistic: float  # the smaller sum of ranks; NaN where there is no test
    p: float  # two-sided; NaN where there is no test


def signed_rank(differences: Sequence[float]) -> SignedRank:
    """Test whether paired differences lie around zero: Wilcoxon's signed-rank test (1945).

    NaN differences are no pairs. Differences of zero, to six decimals, count as pairs and ties but
    have no rank; if all are zero, p is 1. p is that of `scipy.stats.wilcoxon`: exact for up to 50
    ranked differences, up to 13 if some are of equal size, else from the normal approximation.
    """
    from scipy.stats import wilcoxon

    pairs = np.asarray(differences, dtype=float)
    pairs = pairs[~np.isnan(pairs)].round(EQUAL)
    ranked = pairs[pairs != 0]
    statistic = p = math.nan
    if len(pairs) >= FEWEST_PAIRS:
        statistic, p = wilcoxon(ranked) if len(ranked) else (0.0, 1.0)
    return SignedRank(
        n=len(pairs),
        mean=float(pairs.mean()) if len(pairs) else math.nan,
        sd=float(pairs.std(ddof=1)) if len(pairs) > 1 else math.nan,
        wins=int((pairs > 0).sum()),
        losses=int((pairs < 0).sum()),
        ties=len(pairs) - len(ranked),
        statistic=float(statistic),
        p=float(p),
    )


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Adjust p-values for their number by Holm's step-down method (1979).

    The i-th smallest of m p-values, from 0, becomes max over j <= i of (m - j) p_(j), at most 1.
    NaN stays NaN and does not count among the m.
    """
    p = np.asarray(p_values, dtype=float)
    adjusted = np.full(len(p), np.nan)
    order = np.argsort(p)[: np.count_nonzero(~np.isnan(p))]  # NaN sorts last
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted


def paired_means(jobs: pd.DataFrame, one: str, other: str, *, same_seeds: bool) -> pd.DataFrame:
    """Pair the means over seeds of two methods on each data set that both have finished.

    Parameters
    ----------
    jobs
        Table of `tables.jobs_table`, one regime of it.
    one, other
        The two methods.
    same_seeds
        Whether to take only the seeds that both methods ran on a data set; the outcome of all other
        seeds, also a failure, then does not count.

    Returns
    -------
    A table with a row for each data set and the columns ARI_one, ARI_other, seconds_one and
    seconds_other; seconds are NaN where no job was timed.
    """
    both = jobs[jobs["method"].isin([one, other])]
    if same_seeds:
        both = both[both.groupby(["dataset", "seed"])["method"].transform("nunique") == 2]
    columns: dict[str, pd.Series] = {}
    for measure in ("ARI", "seconds"):
        wide = pivot(summarise(both), f"{measure}_mean", finished=True)
        wide = wide.reindex(columns=[one, other])
        columns[f"{measure}_one"] = wide[one]
        columns[f"{measure}_other"] = wide[other]
    return pd.DataFrame(columns).dropna(subset=["ARI_one", "ARI_other"])


def compare(
    jobs: pd.DataFrame, pairs: Sequence[tuple[str, str]], *, same_seeds: bool
) -> pd.DataFrame:
    """Test the differences in ARI between pairs of methods over data sets.

    Parameters
    ----------
    jobs
        Table of `tables.jobs_table`, one regime of it.
    pairs
        Pairs of methods, (one, other).
    same_seeds
        As in `paired_means`.

    Returns
    -------
    A table with a row for each pair: `method` (one), `other`, one_ARI and other_ARI (means over
    the paired data sets), the fields of `SignedRank` for one's ARI minus the other's, p_holm (p
    adjusted for all the pairs), seconds_ratio (geometric mean over data sets of one's seconds over
    the other's) and `differences` (a series by data set).
    """
    rows = []
    for one, other in pairs:
        means = paired_means(jobs, one, other, same_seeds=same_seeds)
        differences = means["ARI_one"] - means["ARI_other"]
        log_ratios = np.log(means["seconds_one"] / means["seconds_other"])
        row = {
            "method": one,
            "other": other,
            "one_ARI": means["ARI_one"].mean(),
            "other_ARI": means["ARI_other"].mean(),
            **signed_rank(differences)._asdict(),
            "seconds_ratio": float(np.exp(log_ratios.mean())),
            "differences": differences,
        }
        rows.append(row)
    table = pd.DataFrame(rows)
    if rows:
        table.insert(table.columns.get_loc("p") + 1, "p_holm", holm(table["p"]))
    return table


def phases(jobs: pd.DataFrame) -> pd.DataFrame:
    """Compare the ARI before and after the clustering phase, seed by seed.

    Parameters
    ----------
    jobs
        Table of `tables.jobs_table`, one regime of it; jobs without initial scores are left out.

    Returns
    -------
    A table with a row for each method and data set and the means over seeds of the ARI of the
    `initial` and the `final` clusters and of the `difference`, final minus initial.
    """
    scored = jobs.dropna(subset=["initial_ARI", "ARI"])
    scored = scored.assign(difference=scored["ARI"] - scored["initial_ARI"])
    columns = {"initial_ARI": "initial", "ARI": "final", "difference": "difference"}
    means = scored.groupby(["method", "dataset"])[list(columns)].mean()
    return means.rename(columns=columns).reset_index()
