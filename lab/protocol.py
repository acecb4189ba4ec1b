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
FEWEST_SETS = 4  # so that each half has two


class Choice(NamedTuple):
    """A recipe chosen on one half of the sets, and what it gains over the default on either half.

    Parameters
    ----------
    recipe
        The recipe with the best mean on the half that chooses; the default if nothing is better.
    gain_seen, gain_unseen
        Mean gain on the half that chose, and on the other.
    """

    recipe: str
    gain_seen: float
    gain_unseen: float


class Verdict(NamedTuple):
    """Whether a recipe may replace the default, and the numbers that say so.

    Parameters
    ----------
    recipe, default
        The recipe in question, the best mean over all sets unless one was named, and the default.
    choices
        Either half of each random halving chooses, first of all halvings the first half.
    gains
        Score of the recipe less that of the default, by set, largest first.
    adopted
        Whether choices won on at least `WINS_NEEDED` of the `HALVINGS` halvings (the first half
        chooses), the median gain is positive, and the recipe is the choice of all sets together: a
        recipe that another one beats is not adopted on the other's wins.
    """

    recipe: str
    default: str
    choices: list[Choice]
    gains: pd.Series
    adopted: bool

    @property
    def wins(self) -> tuple[int, int]:
        """Wins where the first half chooses, and where the second does."""
        won = [choice.gain_unseen > 0 for choice in self.choices]
        half = len(won) // 2
        return sum(won[:half]), sum(won[half:])

    def summary(self) -> dict[str, Any]:
        """Return the numbers to report, by name."""
        choices = pd.DataFrame(self.choices)
        return {
            "recipe": self.recipe,
            "default": self.default,
            "wins": self.wins,
            "mean gain, half that chose": float(choices["gain_seen"].mean()),
            "mean gain, other half": float(choices["gain_unseen"].mean()),
            "choices": choices["recipe"].value_counts().to_dict(),
            "mean gain": float(self.gains.mean()),
            "median gain": float(self.gains.median()),
            "mean gain without its best sets": mean_without_best(self.gains),
            "best sets": list(self.gains.index[:BEST_SETS]),
            "worst set": (str(self.gains.index[-1]), float(self.gains.iloc[-1])),
            "adopted": self.adopted,
        }


def mean_without_best(gains: pd.Series) -> float:
    """Return the mean of gains by set without the largest `BEST_SETS`."""
    return float(gains.sort_values(ascending=False).iloc[BEST_SETS:].mean())


def halvings(names: list[str], *, n: int = HALVINGS, seed: int = 0) -> list[tuple[list, list]]:
    """Return n random halvings of the names of sets; of an odd number the second half has more."""
    rng = np.random.default_rng(seed)
    middle = len(names) // 2
    shuffles = [rng.permutation(names).tolist() for _ in range(n)]
    return [(shuffled[:middle], shuffled[middle:]) for shuffled in shuffles]


def best(table: pd.DataFrame, default: str) -> str:
    """Return the recipe with the best mean score, the default among equals."""
    means = table.mean()
    return default if means[default] >= means.max() else str(means.idxmax())


def choose(table: pd.DataFrame, default: str, seen: list[str], unseen: list[str]) -> Choice:
    """Return what some sets choose, and its gain on these and on others."""
    recipe = best(table.loc[seen], default)
    on_seen, on_unseen = table.loc[seen].mean(), table.loc[unseen].mean()
    return Choice(
        recipe,
        float(on_seen[recipe] - on_seen[default]),
        float(on_unseen[recipe] - on_unseen[default]),
    )


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
        If a score is missing, or there are fewer than `FEWEST_SETS`.
    """
    if table.isna().any(axis=None):
        raise ValueError("a score is missing: every recipe needs one on every set")
    if len(table) < FEWEST_SETS:
        raise ValueError(f"{len(table)} sets are too few to halve")
    pairs = halvings(list(table.index), seed=seed)
    choices = [choose(table, default, one, other) for one, other in pairs]
    choices += [choose(table, default, other, one) for one, other in pairs]
    of_all = best(table, default)
    recipe = recipe or of_all
    gains = (table[recipe] - table[default]).sort_values(ascending=False)
    verdict = Verdict(recipe, default, choices, gains, adopted=False)
    adopted = recipe == of_all and verdict.wins[0] >= WINS_NEEDED and gains.median() > 0
    return verdict._replace(adopted=bool(adopted))
