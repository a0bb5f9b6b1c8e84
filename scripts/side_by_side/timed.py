"""The train step of the PyTorch reference beside ours, on as many samples, timed in alternating rounds.

Its step is what its `train` does with a batch (retrieval.py:213-231): the text teacher, forward, backward, AdamW; the
image features are stored, and every caption is padded to 77 tokens, where ours are cut to the longest of the batch.
Left out, in its favour: copies to the device, the tokenization and the chunks of 32 captions of
SentenceTransformer.encode, DistributedDataParallel, and the text teacher of its contrastive step, which it runs
without using it. On a GPU both may multiply in TensorFloat-32, which is JAX's default and not PyTorch's.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
import yaml

from cusa_jax.benchmark import measure, steps, synthetic
from cusa_jax.benchmark.measure import Row
from cusa_jax.benchmark.synthetic import Sizes
from cusa_jax.data.images import normalise
from cusa_jax.models import clip
from cusa_jax.models.clip import PRESETS
from side_by_side.original import Original

# Our variant and the reference's YAML for it.
PAIRS = {"contrastive": "only_contrastive.yaml", "cusa-live-text": "cusa.yaml"}
YAMLS = Path("configs/vitb32/flickr")


def rows(
    modules: dict[str, Any], checkout: Path, config: Any, sizes: Sizes, repeats: int, names: Sequence[str]
) -> list[Row]:
    """Ours as `config` has it; the reference in float32, and in bfloat16 (autocast), as it is and compiled.

    modules: of `original.import_reference(checkout)`. names: of PAIRS. One pair to a process is fairest: XLA takes its
    memory anew in every step, and gets it more slowly where an earlier pair has left it in pieces.
    """
    torch.set_float32_matmul_precision("high")
    rows = []
    for name, file in PAIRS.items():
        if name not in names:
            continue
        ours = f"ours, {config.model.dtype}"
        calls: dict[str, Callable[[], Any]] = {ours: steps.started(config, name, sizes)}
        raw = yaml.safe_load((checkout / YAMLS / file).read_text(encoding="utf8"))
        calls |= _reference_steps(modules, raw, config, sizes, teacher=name != "contrastive")
        times = measure.time_rounds(calls, repeats)
        padded = PRESETS[config.model.name].context_length
        rows += [
            {"model": config.model.name, "batch": config.batch_size,
             "tokens": sizes.student_tokens if label == ours else padded, "step": name,
             "of": label, "s": time.seconds, "± s": time.spread, "pairs/s": config.batch_size / time.seconds,
             "ours takes ×": times[ours].seconds / time.seconds}
            for label, time in times.items()
        ]  # fmt: skip
    return rows


def _reference_steps(
    modules: dict[str, Any], raw: dict[str, Any], config: Any, sizes: Sizes, teacher: bool
) -> dict[str, Callable[[], Any]]:
    """A step in each mode; all train the same float32 parameters with the same optimiser."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    clip_sizes = PRESETS[config.model.name]
    original = Original(modules, raw, clip_sizes, None, x64=False, device=device)
    model, mpnet = original.model.train(), _mpnet(sizes).to(device)
    settings = modules["utils"].AttrDict(raw["optimizer"])
    optimizer = modules["optim"].create_optimizer(settings, model)

    def tensor(array: Any) -> torch.Tensor:
        return original.tensor(np.array(array))

    padded = dataclasses.replace(sizes, student_tokens=clip_sizes.context_length)
    batch = synthetic.batch(config.batch_size, clip.inputs(clip_sizes), padded, "bank", "live")
    images, tokens = original.images(np.asarray(normalise(batch.image))), tensor(batch.tokens)
    numbers = tensor(batch.image_index)
    text = {name: tensor(ids) for name, ids in (batch.teacher_text or {}).items()}
    features = torch.randn(config.batch_size, sizes.image.patches * sizes.image.dim, device=device)

    def step(encode: Callable[..., Any], teach: Callable[..., Any], precision: Any) -> float:
        with precision:
            soft = (features, _mean(teach, text)) if teacher else (None, None)
            terms = encode(images, tokens, *soft, epoch=0, idx=numbers)
        loss = sum(terms)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()  # waits for the device

    half = functools.partial(torch.autocast, device, torch.bfloat16)
    compiled = torch.compile(model), torch.compile(mpnet)
    return {
        "reference, float32": lambda: step(model, mpnet, contextlib.nullcontext()),
        "reference, bfloat16": lambda: step(model, mpnet, half()),
        "reference, bfloat16, compiled": lambda: step(*compiled, half()),
    }


def _mpnet(sizes: Sizes) -> Any:
    """The architecture of all-mpnet-base-v2 at these sizes, with random weights."""
    names = {field.name for field in dataclasses.fields(sizes.text)} - {"model_type"}
    settings = {name: getattr(sizes.text, name) for name in names}
    return transformers.MPNetModel(transformers.MPNetConfig(**settings), add_pooling_layer=False).eval()


@torch.no_grad()
def _mean(teach: Callable[..., Any], text: dict[str, torch.Tensor]) -> torch.Tensor:
    """The mean of its token states, as a sentence encoder pools them."""
    mask = text["attention_mask"].unsqueeze(-1)
    return (teach(**text).last_hidden_state * mask).sum(1) / mask.sum(1)
