"""The experiment in text: every cell over its seeds, then the differences."""

from __future__ import annotations

from cusa_jax.controls.contrasts import Contrast, Table, contrasts, holm


def text(table: Table, split: str) -> str:
    """Every cell as mean ± standard deviation over seeds, then the differences with their intervals."""
    metrics, seeds = (next(iter(table.values())).metrics, len(next(iter(table.values())).runs))
    width = max(len(str(cell)) for cell in table) + 2
    lines = [f"{f'{split}, %, {seeds} seeds':<{width}}" + "".join(f"{metric:>18}" for metric in metrics)]
    for cell, measured in table.items():
        values = [measured.values(metric) for metric in metrics]
        columns = [f"{v.mean():.2f} ± {v.std(ddof=1) if seeds > 1 else float('nan'):.2f}" for v in values]
        lines.append(f"{cell!s:<{width}}" + "".join(f"{column:>18}" for column in columns))
    found = contrasts(table)
    corrected = holm(contrast.p for contrast in found)
    width = max((len(str(contrast)) for contrast in found), default=0) + 2
    shown = None
    for contrast, p in zip(found, corrected, strict=True):
        if contrast.metric != shown:
            shown = contrast.metric
            heading = f"{'mean':>8}{'95 % by seed':>19}{'95 % by image':>19}{'p (Holm)':>10}{'seeds':>7}"
            lines += ["", f"{shown + ', difference':<{width}}{heading}"]
        seed, image = (f"{low:+.2f} … {high:+.2f}" for low, high in (contrast.by_seed, contrast.by_image))
        needed = contrast.seeds_needed or "> 1000"
        chance = f"{p:.3f}" if not p < 0.001 else "< 0.001"
        lines.append(
            f"{contrast!s:<{width}}{contrast.mean:>+8.2f}{seed:>19}{image:>19}{chance:>10}{needed:>7}"
        )
    lines += ["", *_LEGEND, f"p: of {len(found)} t tests, corrected for their number (Holm)."]
    return "\n".join([*lines, *map(_in_short, found[:1])])


def _in_short(contrast: Contrast) -> str:
    """The first difference of the first figure in a sentence."""
    other_seeds, other_images = (
        f"{'would' if low > 0 or high < 0 else 'need not'} show it too ({low:+.2f} … {high:+.2f})"
        for low, high in (contrast.by_seed, contrast.by_image)
    )
    return (
        f"In short: {contrast} is {contrast.mean:+.2f} {contrast.metric}; other seeds {other_seeds}, other images "
        f"{other_images}."
    )


_LEGEND = (
    "by seed: t interval over paired runs; by image: bootstrap over images, these seeds; neither is corrected.",
    "seeds: how many would find such a difference four times in five.",
)
