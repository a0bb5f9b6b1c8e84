"""The table of students: a family is an entry here, or one that a program adds (docs/extending.md)."""

from __future__ import annotations

import dataclasses
from typing import Any

from cusa_jax.errors import InputError
from cusa_jax.models import clip, region_clip, sgraf, siglip, vse
from cusa_jax.models.sgraf_sizes import Sides
from cusa_jax.models.student import Family, Options, Student
from cusa_jax.settings import nearest, parsed

FAMILIES: dict[str, Family] = {
    "clip": clip.FAMILY,
    "siglip": siglip.FAMILY,
    "sgraf": sgraf.FAMILY,
    "vse": vse.FAMILY,
    "region_clip": region_clip.FAMILY,
}
# Fields of sizes that weights decide, whatever the preset of their architecture says.
OWN = ("activation", "mean", "std", "resize", "resampling", "pad_id")


def presets() -> dict[str, tuple[str, Any]]:
    """{name for `model.name`: (family, sizes)} of all families."""
    return {name: (key, sizes) for key, family in FAMILIES.items() for name, sizes in family.presets.items()}


def preset_name(sizes: Any) -> str | None:
    """The name of the preset with these sizes, else None."""
    return next((name for name, (_, preset) in presets().items() if preset == sizes), None)


def make(family: str, sizes: Any, options: Options) -> Student:
    """The student of a family with these sizes. Raises InputError where they make no model."""
    return FAMILIES[family].student(sizes, options)


def takes_words(sizes: Any) -> bool:
    """Whether a model of these sizes reads the words of a vocabulary of its own."""
    return isinstance(sizes, Sides)


def edited(sizes: Any, changes: str) -> Any:
    """Sizes with `changes`, 'embed_size=256,bi_gru=false', as `config.model.sizes` says them.

    Raises InputError for a field that there is not, a value of another kind, and sizes that make no model.
    """
    fields = {field.name: getattr(sizes, field.name) for field in dataclasses.fields(sizes)}
    values = {}
    for change in filter(None, (part.strip() for part in changes.split(","))):
        name, _, text = change.partition("=")
        if name not in fields:
            raise InputError(
                f"config.model.sizes: there is no '{name}'{nearest(name, fields)}; there are {', '.join(fields)}"
            )
        kind = type(fields[name])
        try:
            values[name] = parsed(text, kind)
        except ValueError:
            raise InputError(
                f"config.model.sizes: '{change}' should be a {kind.__name__}, such as {name}={fields[name]}"
            ) from None
    try:
        return dataclasses.replace(sizes, **values)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise InputError(f"config.model.sizes='{changes}': {error}") from error


def describe(family: str, sizes: Any) -> dict[str, Any]:
    """JSON that `read_description` turns back into family and sizes."""
    return {"family": family, "sizes": dataclasses.asdict(sizes)}


def make_sizes(family: str, fields: Any, where: Any) -> Any:
    """The sizes of a family with these fields. Raises InputError naming `where` for those that make no model."""
    try:
        return FAMILIES[family].sizes(**fields)
    except (TypeError, ValueError, ArithmeticError) as error:
        reason = str(error) if isinstance(error, InputError) else repr(error)
        raise InputError(f"{where}: does not say the sizes of a model ({reason})") from error


def read_description(described: Any, where: Any) -> tuple[str, Any]:
    """(family, sizes) of a checkpoint or file; older ones say {'clip': sizes}.

    Raises InputError naming `where` it is from, for a family that is not known or sizes that make no model.
    """
    try:
        if "clip" in described:
            described = {"family": "clip", "sizes": described["clip"]}
        family, sizes = str(described["family"]), dict(described["sizes"])
    except (TypeError, KeyError, ValueError) as error:
        raise InputError(f"{where}: does not say the model's family and sizes ({error!r})") from error
    if family not in FAMILIES:
        raise InputError(f"{where}: its model is of the family '{family}'; known are {', '.join(FAMILIES)}")
    # JSON has no tuples.
    plain = {key: tuple(value) if isinstance(value, list) else value for key, value in sizes.items()}
    return family, make_sizes(family, plain, where)
