"""A cell of the experiment: which losses, with which teachers, under which recipe; and its configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from cusa_jax.config import LOSSES, default_config, flat, nearest, with_argument
from cusa_jax.errors import InputError
from cusa_jax.settings import parsed

# Name -> teacher.control.
TEACHERS = {"trained": "none", "shuffled": "shuffled", "uniform": "uniform"}
# Without CSA and USA: what the configuration trains on beside them, contrastive or hinge.
_ALONE = "baseline"
_LOSSES = {_ALONE: "contrastive"} | {loss: loss for loss in LOSSES if loss != "contrastive"}
# What a recipe has no say in, and where it comes from.
_OWN_KEYS = {
    "seed": "--seeds",
    "teacher.control": "the cell's name, such as cusa-shuffled",
    "checkpoint.keep": "this command, which needs one",
}
# Recipe name -> {key of the configuration: its value there}.
Recipes = Mapping[str, Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Cell:
    """loss: 'baseline', 'csa', 'usa' or 'cusa'. teachers: of TEACHERS; '' for the baseline, which has none.

    recipe: '' for the configuration as it is given.
    """

    loss: str = _ALONE
    teachers: str = ""
    recipe: str = ""

    def __str__(self) -> str:
        return ".".join(filter(None, (self.recipe, "-".join(filter(None, (self.loss, self.teachers))))))


BASELINE = Cell()
CELLS = (BASELINE, *(Cell(loss, teachers) for loss in _LOSSES if loss != _ALONE for teachers in TEACHERS))


def read_cell(name: str, recipes: Recipes) -> Cell:
    """'cusa-shuffled', or of a recipe 'RECIPE.cusa-shuffled'. Raises InputError for what does not exist."""
    recipe, _, plain = name.rpartition(".")
    known = {str(cell): cell for cell in CELLS}
    if plain not in known:
        raise InputError(f"--cells: '{plain}' is none of {', '.join(known)}{nearest(plain, known)}")
    if recipe and recipe not in recipes:
        raise InputError(f"--cells: '{name}' is of a recipe '{recipe}', and there is no --recipe={recipe}:…")
    return dataclasses.replace(known[plain], recipe=recipe)


def read_recipes(texts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """`read_recipe` of each. Raises InputError for a name that is given twice."""
    recipes: dict[str, dict[str, Any]] = {}
    for name, values in map(read_recipe, texts):
        if name in recipes:
            raise InputError(f"--recipe={name}: is given twice")
        recipes[name] = values
    return recipes


def read_recipe(text: str) -> tuple[str, dict[str, Any]]:
    """'NAME: KEY=VALUE KEY=VALUE' -> its name, and the values by their keys in the configuration.

    Raises InputError for a key that is none, or a value of another type.
    """
    name, _, settings = text.partition(":")
    name = name.strip()
    if not name.isidentifier():
        raise InputError(
            f"--recipe: '{name}' is no name; it is NAME: KEY=VALUE KEY=VALUE, such as centred: teacher.centre=true"
        )
    defaults, values = flat(default_config()), {}
    for item in settings.split():
        key, _, value = item.partition("=")
        if key not in defaults:
            raise InputError(f"--recipe={name}: there is no config key '{key}'{nearest(key, defaults)}")
        if key in _OWN_KEYS:
            raise InputError(f"--recipe={name}: {key} is set by {_OWN_KEYS[key]}")
        values[key] = _read_value(name, key, value, type(defaults[key]))
    return name, values


def _read_value(recipe: str, key: str, value: str, kind: type) -> Any:
    try:
        return parsed(value, kind)
    except ValueError as error:
        raise InputError(f"--recipe={recipe}: {key}={value} must be {kind.__name__}") from error


def cell_config(config: ConfigDict, cell: Cell, seed: int, recipes: Recipes | None = None) -> ConfigDict:
    """The configuration of one run. The baseline does without teachers, which would only cost time."""
    own = ConfigDict(config.to_dict())
    own.update_from_flattened_dict(dict((recipes or {}).get(cell.recipe, {})))
    own.seed = seed
    with_argument(own, f"loss={_LOSSES[cell.loss]}")
    if cell.teachers:
        own.teacher.control = TEACHERS[cell.teachers]
    else:
        own.teacher.update(image="", text="", bank="", control="none")
    own.checkpoint.keep = 1
    return own
