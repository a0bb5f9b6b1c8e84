"""What is measured of a run: recall on annotated pairs, exact relevance where it is known, people's judgements."""

from __future__ import annotations

import numpy as np

from cusa_jax.data.splits import Split
from cusa_jax.evaluation.human import Judged
from cusa_jax.evaluation.ranking import Positives
from cusa_jax.evaluation.recall import recall_result
from cusa_jax.evaluation.relevance import per_query
from cusa_jax.evaluation.result import Result, side_by_side
from cusa_jax.evaluation.retrieval import ScoredSplit
from cusa_jax.evaluation.sources import Captioned
from cusa_jax.evaluation.statistics import average, percent


def measure(scored: ScoredSplit, split: Split, judged: Judged | None = None) -> Result:
    """'expert_tau_c' and 'crowd_tau_b' where there are judgements, 'map_at_r' where exact relevance is known, 'r_mean'.

    Each of both ways averaged; units are images.
    """
    parts = {} if judged is None else judged.results(captioned(scored, split))
    return side_by_side("image", parts | {"": _on_pairs(scored, split)})


def _on_pairs(scored: ScoredSplit, split: Split) -> Result:
    scores, group = scored.scores, scored.caption_image(split)
    images = len(scored.images)
    statistics = {}
    if (relevant := scored.relevance(split)) is not None:
        captions_of, images_of = Positives.of_matrix(relevant.T), Positives.of_matrix(relevant)
        i2t = scores.rank("i2t", captions_of, depth=captions_of.most)
        t2i = scores.rank("t2i", images_of, depth=images_of.most)
        units = ((i2t, i2t.queries), (t2i, group[t2i.queries]))
        statistics["map_at_r"] = average(
            [percent(per_query(way)["map_at_r"], unit, units=images) for way, unit in units]
        )
    statistics["r_mean"] = recall_result(scores, group).statistics["r_mean"]
    return Result("image", (images,), statistics)


def captioned(scored: ScoredSplit, split: Split) -> Captioned:
    """As the suites take it."""
    ids = [split.table.image_ids[image] for image in np.asarray(scored.images).tolist()]
    return Captioned(scored.scores, scored.caption_image(split), ids, None, None, None, "", "")
