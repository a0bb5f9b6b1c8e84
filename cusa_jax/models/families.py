"""The table of students: a family is an entry here, or one that a program adds (docs/extending.md)."""

from __future__ import annotations

import dataclasses
from typing import Any

from cusa_jax.errors import InputError
from cusa_jax.models import clip, sgraf, vse
from cusa_jax.models.student import Family, Options, Student

FAMILIES: dict[str, Family] = {"clip": clip.FAMILY, "sgraf": sgraf.FAMILY, "vse": vse.FAMILY}


def presets() -> dict[str, tuple[str, Any]]:
    """{name for `model.name`: (family, sizes)} of all families."""
    return {name: (key, sizes) for key, family in FAMILIES.items() for name, sizes in family.presets.items()}


def preset_name(sizes: Any) -> str | None:
    """The name of the preset with these sizes, else None."""
    return next((name for name, (_, preset) in presets().items() if preset == sizes), None)


def make(family: str, sizes: Any, options: Options) -> Student:
    """The student of a family with these sizes. Raises InputError where they make no model."""
    return FAMILIES[family].student(sizes, options)


def describe(family: str, sizes: Any) -> dict[str, Any]:
    """JSON that `read_description` turns back into family and sizes."""
    return {"family": family, "sizes": dataclasses.asdict(sizes)}


def read_description(described: Any, where: Any) -> tuple[str, Any]:
    """(family, sizes) of a checkpoint or file; older ones say {'clip': sizes}.

    Raises InputError naming `where` it is from, for a family that is not known or sizes that make no model.
    """
    try:
        if "clip" in described:
            described = {"family": "clip", "sizes": described["clip"]}
        family, sizes = str(described["family"]), described["sizes"]
        if family not in FAMILIES:
            raise InputError(
                f"{where}: its model is of the family '{family}'; known are {', '.join(FAMILIES)}"
            )
        # JSON has no tuples.
        plain = {
            key: tuple(value) if isinstance(value, list) else value for key, value in dict(sizes).items()
        }
        return family, FAMILIES[family].sizes(**plain)
    except (TypeError, KeyError, ValueError, ArithmeticError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{where}: does not say the model's sizes ({error!r})") from error
