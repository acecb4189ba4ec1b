"""The rule by which a default may change: what is chosen on half of the sets must win on the other.

A recipe that was picked among many because it scored best on some data sets scores worse on others.
So the choice is made again and again on a random half of the sets, and judged on the half that had
no part in it. All functions are pure: they take a table of scores, rows sets, columns recipes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

HALVINGS = 20
WINS_NEEDED = 14
BEST_SETS = 2  # without these the gain is shown as well


class Halving(NamedTuple):
    """A recipe chosen on one half of the sets, and what it and the default score on both halves.

    Parameters
    ----------
    chosen
        The recipe with the best mean on the first half; the default where nothing is better.
    here_chosen, here_default
        Means over the half that chose.
    there_chosen, there_default
        Means over the other half.
    """

    chosen: str
    here_chosen: float
    here_default: float
    there_chosen: float
    there_default: float

    @property
    def won(self) -> bool:
        """Whether the choice beats the default on the half that did not choose."""
        return self.there_chosen > self.there_default


class Verdict(NamedTuple):
    """Whether a recipe may replace the default, and the numbers that say so.

    Parameters
    ----------
    recipe, default
        The recipe in question, the best mean over all sets unless one was named, and the default.
    halvings
        Each random halving twice: either half chooses, first of all halvings the first half.
    gains
        Score of the recipe less that of the default, by set, largest first.
    adopted
        Whether choices won on at least `WINS_NEEDED` of the `HALVINGS` halvings (the first half
        chooses), the median gain is positive, and the recipe is the choice of all sets together: a
        recipe that another one beats is not adopted on the other's wins.
    """

    recipe: str
    default: str
    halvings: list[Halving]
    gains: pd.Series
    adopted: bool

    @property
    def wins(self) -> tuple[int, int]:
        """Wins where the first half chooses, and where the second does."""
        half = len(self.halvings) // 2
        won = [halving.won for halving in self.halvings]
        return sum(won[:half]), sum(won[half:])

    def summary(self) -> dict[str, Any]:
        """Return the numbers to report, by name."""
        choices = pd.Series([halving.chosen for halving in self.halvings]).value_counts()
        there = [halving.there_chosen - halving.there_default for halving in self.halvings]
        here = [halving.here_chosen - halving.here_default for halving in self.halvings]
        return {
            "recipe": self.recipe,
            "default": self.default,
            "wins": self.wins,
            "mean gain, half that chose": float(np.mean(here)),
            "mean gain, other half": float(np.mean(there)),
            "choices": choices.to_dict(),
            "mean gain": float(self.gains.mean()),
            "median gain": float(self.gains.median()),
            "mean gain without its best sets": float(self.gains.iloc[BEST_SETS:].mean()),
            "best sets": list(self.gains.index[:BEST_SETS]),
            "worst set": (str(self.gains.index[-1]), float(self.gains.iloc[-1])),
            "adopted": self.adopted,
        }


def halves(names: list[str], *, n: int = HALVINGS, seed: int = 0) -> list[tuple[list, list]]:
    """Return n random halvings of the names of sets; of an odd number the second half has more."""
    rng = np.random.default_rng(seed)
    middle = len(names) // 2
    shuffles = [rng.permutation(names).tolist() for _ in range(n)]
    return [(shuffled[:middle], shuffled[middle:]) for shuffled in shuffles]


def choose(table: pd.DataFrame, default: str) -> str:
    """Return the recipe with the best mean score, the default among equals."""
    means = table.mean()
    return default if means[default] >= means.max() else str(means.idxmax())


def judge(
    table: pd.DataFrame, default: str, *, recipe: str | None = None, seed: int = 0
) -> Verdict:
    """Judge by halvings whether the choice among the recipes of a table may replace the default.

    Parameters
    ----------
    table
        Scores, a row a set and a column a recipe, without gaps. It must hold every recipe that was
        tried, the losing ones too: the choice among few good ones proves nothing.
    default
        The column of the present default.
    recipe
        The column whose gains are reported; None for the best mean.
    seed
        Of the halvings.

    Raises
    ------
    ValueError
        If a score is missing, or there are fewer than four sets.
    """
    if table.isna().any(axis=None):
        raise ValueError("a score is missing: every recipe needs one on every set")
    if len(table) < 4:
        raise ValueError(f"{len(table)} sets are too few to halve")
    best = choose(table, default)
    recipe = recipe or best
    pairs = halves(list(table.index), seed=seed)
    judged = [_halving(table, default, one, other) for one, other in pairs]
    judged += [_halving(table, default, other, one) for one, other in pairs]
    gains = (table[recipe] - table[default]).sort_values(ascending=False)
    verdict = Verdict(recipe, default, judged, gains, adopted=False)
    adopted = recipe == best and verdict.wins[0] >= WINS_NEEDED and gains.median() > 0
    return verdict._replace(adopted=bool(adopted))


def _halving(table: pd.DataFrame, default: str, here: list, there: list) -> Halving:
    """Return the outcome of a choice on some sets, judged on others."""
    chosen = choose(table.loc[here], default)
    return Halving(
        chosen,
        float(table.loc[here, chosen].mean()),
        float(table.loc[here, default].mean()),
        float(table.loc[there, chosen].mean()),
        float(table.loc[there, default].mean()),
    )
