"""Preparing: a dataset's pixels and token ids computed once (`layouts.prepared` says what the folder holds)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cusa_jax.data.caption_table import CaptionTable
from cusa_jax.data.layouts.prepared import (
    FORMAT,
    MANIFEST,
    description,
    differing,
    is_prepared,
    read_manifest,
    sha256,
    token_dtype,
)
from cusa_jax.data.prefetch import OnBadImage
from cusa_jax.data.splits import Split
from cusa_jax.errors import InputError, needs
from cusa_jax.files import draft_of, written_whole
from cusa_jax.inputs import Inputs, Pixels


def prepare(
    folder: Path, splits: Mapping[str, Split], inputs: Inputs, *, on_bad_image: OnBadImage = "error"
) -> None:
    """Writes, continues or verifies the prepared folder of `splits`, for models of these inputs.

    Raises InputError where the folder was prepared from other captions or for other inputs, where an image cannot
    be read (unless on_bad_image is 'skip': such images stay unreadable), and where a finished folder is damaged.
    """
    with needs("prepared"):
        from cusa_jax.data import records

    rows = {name: json.dumps(_rows(split.table), indent=0) + "\n" for name, split in splits.items()}
    captions = {name: sha256(text) for name, text in rows.items()}
    seen = {getattr(split.images, "as_shown", False) for split in splits.values()}
    _claim(folder, {**description(inputs), "as_shown": seen == {True}, "captions": captions})
    longest = max(split.tokens.shape[1] for split in splits.values())
    padded = {}
    for name, split in splits.items():
        (folder / f"{name}.json").write_text(rows[name], encoding="utf8")
        np.save(folder / f"{name}_tokens.npy", split.tokens.astype(token_dtype(inputs.text.vocab_size)))
        if split.relevance is not None:
            np.save(folder / f"{name}_relevance.npy", split.relevance)
        missing = ((0, 0), (0, longest - split.tokens.shape[1]))
        tokens = np.pad(split.tokens, missing, constant_values=inputs.text.pad_id)
        padded[name] = dataclasses.replace(split, tokens=tokens)
    assert isinstance(inputs.image, Pixels)
    records.write(folder, padded, inputs.image, on_bad_image=on_bad_image)


def _rows(table: CaptionTable) -> list[dict[str, Any]]:
    """One row per caption in the layout of the reference, from which `read_captions` makes the same table."""
    rows = []
    for number, (caption, image) in enumerate(zip(table.captions, table.caption_image.tolist(), strict=True)):
        row = {
            "image_path": str(table.image_paths[image]),
            "caption": caption,
            "image_id": table.image_ids[image],
        }
        if table.caption_ids is not None:
            row["caption_id"] = int(table.caption_ids[number])
        rows.append(row)
    return rows


def _claim(folder: Path, wanted: dict[str, Any]) -> None:
    """Makes the folder that of this manifest. Raises InputError where it holds anything else."""
    if is_prepared(folder):
        manifest = read_manifest(folder)
        if manifest["captions"] != wanted["captions"]:
            raise InputError(f"{folder}: was prepared with other captions; name another folder or delete it")
        if manifest["as_shown"] != wanted["as_shown"]:
            raise InputError(
                f"{folder}: was prepared with config.data.as_shown={manifest['as_shown']}; set that, name another "
                "folder or delete it"
            )
        if (field := differing({key: wanted[key] for key in ("image", "text")}, manifest)) is not None:
            name, ours, theirs = field
            raise InputError(
                f"{folder}: was prepared with another {name} ({theirs}, not {ours}); name another folder or delete it"
            )
        return
    if folder.exists() and (not folder.is_dir() or set(folder.iterdir()) - {draft_of(folder / MANIFEST)}):
        raise InputError(f"{folder}: exists and is not a prepared folder; name another")
    folder.mkdir(parents=True, exist_ok=True)
    with written_whole(folder / MANIFEST) as fresh:
        fresh.write_text(json.dumps({"format": FORMAT, **wanted}, indent=2) + "\n")
