"""The table of suites: those of the paper's tables, and whatever a program adds."""

from cusa_jax.evaluation import cxc, eccv, human, image_retrieval, recall, sts, zero_shot
from cusa_jax.evaluation.suite import Suite

SUITES: dict[str, Suite] = {
    suite.name: suite
    for suite in (
        recall.FLICKR30K,
        recall.COCO5K,
        recall.COCO1K,
        eccv.ECCV,
        cxc.CXC,
        image_retrieval.CUB,
        image_retrieval.SOP,
        image_retrieval.INSHOP,
        image_retrieval.INAT,
        sts.STS,
        human.HUMAN,
        zero_shot.ZERO_SHOT,
    )
}
