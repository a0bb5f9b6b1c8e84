"""SGR and SAF beside their own PyTorch code, github.com/Paranioar/SGRAF, timed in alternating rounds.

Its training step is its `train_emb` (model.py:532-551); its scores are those of a batch's images with all captions of
the batch, as its evaluation computes them. Both see the same captions, as long as Flickr30K's are; ours are padded to
the bucket of the longest. On a GPU both may multiply in TensorFloat-32, which is JAX's default and not PyTorch's.
"""

import dataclasses
import functools
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch

from cusa_jax.benchmark import measure, steps, synthetic
from cusa_jax.benchmark.measure import Row
from cusa_jax.data.tokenize import text_length_bucket
from cusa_jax.errors import InputError
from cusa_jax.models.sgraf_sizes import SgrafSizes
from cusa_jax.types import Batch

LONGEST = 30  # words of a caption


def is_checkout(path: Path) -> bool:
    """Whether this is SGRAF's code, not CUSA's."""
    return (path / "model.py").is_file() and (path / "vocab.py").is_file()


def import_original(checkout: Path) -> types.ModuleType:
    """Its model.py, written for Python 2, whose `/` halves a whole number to one (model.py:122).

    Without a GPU, what it moves to one stays: its loss exists there only (model.py:443).
    """
    if not torch.cuda.is_available():
        torch.cuda.is_available = lambda: True
        torch.Tensor.cuda = torch.nn.Module.cuda = lambda self: self  # type: ignore[assignment, method-assign]
    module = types.ModuleType("model")
    source = (checkout / "model.py").read_text(encoding="utf8").replace(".size(2)/2", ".size(2)//2")
    exec(compile(source, checkout / "model.py", "exec"), vars(module))
    return module


def rows(module: types.ModuleType, config: Any, repeats: int) -> list[Row]:
    """A training step, and the scores of a batch, of ours as `config` has it and of the original in float32."""
    sizes = steps.sizes_of(config)
    if not isinstance(sizes, SgrafSizes):
        raise InputError(f"--model={config.model.name}: SGRAF's code has SGR and SAF; take --model=saf")
    torch.set_float32_matmul_precision("high")
    count = config.batch_size
    lengths = caption_lengths(count)
    tokens = np.random.default_rng(1).integers(4, sizes.vocab_size, (count, text_length_bucket(lengths)))
    tokens *= np.arange(tokens.shape[1]) < lengths[:, None]
    ours, original = f"ours, {config.model.dtype}", "original, float32"
    both = {ours: _ours(config, tokens), original: _original(module, config, sizes, tokens, lengths)}
    rows = []
    for part in ("step", "scores"):
        times = measure.time_rounds({name: calls[part] for name, calls in both.items()}, repeats)
        rows += [
            {"model": config.model.name, "batch": count, "part": part, "of": name, "s": time.seconds,
             "± s": time.spread, "pairs/s": count / time.seconds, "ours takes ×": times[ours].seconds / time.seconds}
            for name, time in times.items()
        ]  # fmt: skip
    return rows


def caption_lengths(count: int) -> np.ndarray:
    """Words of `count` captions with the marks around them, longest first; Flickr30K's have 12.4 in the mean."""
    lengths = np.random.default_rng(0).poisson(10.4, count) + 2
    return np.sort(np.clip(lengths, 4, LONGEST))[::-1].copy()


def _ours(config: Any, tokens: np.ndarray) -> dict[str, Callable[[], Any]]:
    planned = steps.plan(
        config,
        steps.VARIANTS[steps.BASE],
        dataclasses.replace(synthetic.TEACHERS["toy"], student_tokens=tokens.shape[1]),
    )
    student = planned.recipe.student

    drawn = planned.inputs

    def inputs() -> Batch:
        return dataclasses.replace(drawn(), tokens=tokens.astype(np.int32))

    planned = dataclasses.replace(planned, inputs=inputs)
    variables, batch = jax.jit(student.init)(jax.random.key(0)), jax.jit(inputs)()

    @jax.jit
    def scores(variables: Any, batch: Batch) -> jax.Array:
        images = student.encode_side(variables, "image", batch.image)
        return student.score(variables, images, student.encode_side(variables, "text", batch.tokens))

    return {
        "step": planned.start(planned.compile()),
        "scores": functools.partial(scores, variables, batch),
    }


def _original(
    module: types.ModuleType, config: Any, sizes: SgrafSizes, tokens: np.ndarray, lengths: np.ndarray
) -> dict[str, Callable[[], Any]]:
    options = types.SimpleNamespace(
        grad_clip=config.optim.clip_norm, learning_rate=config.optim.lr, margin=config.loss.hinge.margin,
        max_violation=True, img_dim=sizes.img_dim, embed_size=sizes.embed_size, sim_dim=sizes.sim_dim,
        vocab_size=sizes.vocab_size, word_dim=sizes.word_dim, num_layers=sizes.num_layers, bi_gru=sizes.bi_gru,
        module_name=sizes.module_name, sgr_step=sizes.sgr_step, no_imgnorm=False, no_txtnorm=False,
    )  # fmt: skip
    model = module.SGRAF(options)
    model.logger = types.SimpleNamespace(update=lambda *_: None)
    images = torch.randn(len(tokens), sizes.regions, sizes.img_dim).cuda()
    captions = torch.as_tensor(tokens[:, : lengths[0]]).cuda()
    words = lengths.tolist()

    def step() -> float:
        model.train_start()
        model.train_emb(images, captions, words)
        return model.params[0][0].sum().item()  # waits for the device

    @torch.no_grad()
    def scores() -> float:
        model.val_start()
        return model.forward_sim(*model.forward_emb(images, captions, words)).sum().item()

    return {"step": step, "scores": scores}
