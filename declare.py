"""How a setting is declared: one field of a dataclass says all that is known of it.

`setting` makes the field, `Spec` is what it declares, `specs_of` collects the declarations of a
dataclass. `settings.py` has the declarations themselves.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import numbers
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils import InputError

AS_SCTAG = object()  # stands for: "official" has the default of "sctag"


@dataclass(frozen=True, kw_only=True)
class Spec:
    """The declaration of one setting.

    Parameters
    ----------
    sentence
        What the setting does, as `--help` says it.
    group
        Heading under which `--help` lists it.
    stage
        What reads it: "data" (file, genes, graph), "model", "training" or "run". The rivals of
        `baselines.py` use the settings of "data" and "run" only.
    official
        Default in the variant "official", where it differs from that of "sctag".
    low, below, above
        Bounds of a number: value >= low, value < below, value > above.
    choices
        The words that are allowed.
    words
        Words that stand for a value that is not a number, as {"none": None}.
    shown
        The default as `--help` shows it, where it is a rule rather than a value.
    metavar
        Placeholder of the value in `--help`.
    switch
        Whether the flag takes no value and has no `--no-` form.
    neutral
        Whether the setting only says where a run reads and writes or on what it runs, so that it
        cannot change the result.
    name, default, types
        Filled in by `specs_of` from the field itself.
    """

    sentence: str
    group: str
    stage: str
    official: Any = AS_SCTAG
    low: float | None = None
    below: float = math.inf
    above: float | None = None
    choices: tuple[str, ...] | None = None
    words: dict[str, Any] = field(default_factory=dict)
    shown: str | None = None
    metavar: str | None = None
    switch: bool = False
    neutral: bool = False
    name: str = ""
    default: Any = None
    types: tuple[type, ...] = ()

    def default_in(self, variant: str) -> Any:
        """Return the default of the setting in a variant."""
        has_own = variant == "official" and self.official is not AS_SCTAG
        value = self.official if has_own else self.default
        return list(value) if isinstance(value, list) else value

    @property
    def is_list(self) -> bool:
        """Whether the setting is a list of numbers, of paths or of words."""
        return typing.get_origin(self.types[0]) is list

    @property
    def kinds(self) -> tuple[type, ...]:
        """The types of the value, or of each item where the setting is a list."""
        return typing.get_args(self.types[0]) if self.is_list else self.types

    @property
    def number(self) -> type | None:
        """The type, int or float, of a setting that is a number or a list of them, else None."""
        return next((kind for kind in self.kinds if kind in (int, float)), None)

    @property
    def noun(self) -> str:
        """What a value of a setting that is a number must be, in words."""
        return "a whole number" if self.number is int else "a number"

    def check_number(self, value: float) -> None:
        """Raise ValueError, with half a sentence, where a number is out of bounds."""
        # Written so that NaN, for which every comparison is false, is refused.
        within_low = self.low is None or value >= self.low
        within_above = self.above is None or value > self.above
        if within_low and within_above and value < self.below:
            return
        bound = f"above {self.above:g}" if self.low is None else f"at least {self.low:g}"
        if self.below != math.inf:
            bound += f" and below {self.below}"
        raise ValueError(f"must be {bound}, not {value}")

    def check(self, value: Any) -> Any:
        """Return a value that a program gives, as the type that the setting has.

        Raises
        ------
        InputError
            If the value is of the wrong type, not one of the choices, or out of bounds.
        """
        try:
            if isinstance(value, str) and value in self.words:
                return self.words[value]
            if value is None and self._may_be_none():
                return None
            if self.is_list and self.number is None and isinstance(value, str | Path):
                value = [value]  # one path or word may stand without its list
            if self.is_list and not isinstance(value, str):
                if not len(value):
                    noun = "value" if self.number is None else "number"
                    raise ValueError(f"must have one {noun} at least")
                return [self._checked_item(item) for item in value]
            return self._checked_item(value)
        except (OverflowError, TypeError, ValueError) as error:
            raise InputError(f"the setting {self.name} {error}") from None

    def _may_be_none(self) -> bool:
        return type(None) in self.types

    def _checked_item(self, value: Any) -> Any:
        return self._checked_number(value) if self.number else self._checked_word(value)

    def _checked_number(self, value: Any) -> float:
        """Return a number of the setting's type; a fraction is never cut off, text never read."""
        kind = self.number
        is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        is_whole = is_number and math.isfinite(value) and value == math.floor(value)
        if not is_number or (kind is int and not is_whole):
            raise ValueError(f"must be {self.noun}, not {value!r}")
        self.check_number(value)
        return int(value) if kind is int else float(value)

    def _checked_word(self, value: Any) -> Any:
        """Return a value of a setting that is no number: a choice, a truth value, a path, text."""
        if self.choices is not None:
            if value not in self.choices:
                raise ValueError(f"must be one of {', '.join(self.choices)}, not {value!r}")
        elif bool in self.types:
            if not isinstance(value, bool):
                raise ValueError(f"must be True or False, not {value!r}")
        elif Path in self.kinds:
            return Path(value)
        elif not isinstance(value, str):
            raise ValueError(f"must be text, not {value!r}")
        return value


def setting(default: Any, sentence: str, **properties: Any) -> Any:
    """Declare a field of a group of settings: its default in "sctag", and what `Spec` lists."""
    metadata = {"spec": Spec(sentence=sentence, **properties)}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def specs_of(group: type) -> dict[str, Spec]:
    """Return the declaration of each field of a dataclass by name, in the order of the fields."""
    hints = typing.get_type_hints(group)
    declared = {}
    for item in dataclasses.fields(group):
        hint = hints[item.name]
        types = (hint,) if typing.get_origin(hint) is list else typing.get_args(hint) or (hint,)
        factory = item.default_factory
        default = item.default if factory is dataclasses.MISSING else factory()
        spec = item.metadata["spec"]
        declared[item.name] = dataclasses.replace(
            spec, name=item.name, default=default, types=types
        )
    return declared


def check_values(specs: dict[str, Spec], given: dict[str, Any]) -> dict[str, Any]:
    """Return the values that a program gives by name, each checked by its declaration.

    Raises
    ------
    InputError
        If a name is not declared, or a value is of the wrong type or out of bounds.
    """
    for name in given:
        if name not in specs:
            near = difflib.get_close_matches(name, specs, n=1)
            advice = f", did you mean {near[0]}?" if near else ""
            raise InputError(f"there is no setting {name!r}{advice}")
    return {name: specs[name].check(value) for name, value in given.items()}
