"""How long the search page takes to start and to answer: the command itself, over random weights and embeddings."""

import contextlib
import http.client
import io
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import jax
import numpy as np
from PIL import Image

from cusa_jax.benchmark.measure import Row
from cusa_jax.errors import InputError
from cusa_jax.evaluation.scores import normalised
from cusa_jax.experiment import build_student
from cusa_jax.models.student import Embeds
from cusa_jax.search import index
from cusa_jax.search.model import compiled_beside
from cusa_jax.weights.formats import write_weights
from cusa_jax.weights.hub import Weights

_TEXTS = 20
_CHUNK = 10_000
_SERVE = "import sys; from cusa_jax.cli import main; sys.argv[1:1] = ['search', 'serve']; main()"


def rows(config: Any, photos: Sequence[int], repeats: int) -> Iterator[Row]:
    """A row for each number of photos; medians over `repeats` (at least 1) rounds of two starts and 20 texts.

    cold_s, warm_s: from the command to the first text's result; cold has nothing compiled and no file in memory.
    text_ms, slowest_ms: a new short text over HTTP, as the page asks; median, and slowest of all. long_ms: a text as
    long as the model reads. photo_ms: a photo of 1,200 by 900 pixels, with its upload.
    """
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder, "model.safetensors")
        student, variables, _ = build_student(config)
        if not isinstance(student, Embeds):
            raise InputError(f"config.model.name='{config.model.name}' has no embeddings, and cannot search")
        variables = jax.device_get(variables)
        write_weights(checkpoint, Weights(student.family, student.sizes, variables, student.heads))
        origin = index.Origin(folder, str(checkpoint), index.fingerprint(student, variables))
        tokens = jax.ShapeDtypeStruct((1, student.inputs.text.length), np.int32)
        shapes = jax.eval_shape(lambda held, ids: student.embed(held, "text", ids), variables, tokens)
        for count in photos:
            file = Path(folder, f"{count}.index")
            _write_index(file, origin, count, shapes)
            figures = [_round(file, checkpoint) for _ in range(repeats)]
            yield {"photos": count} | {
                key: round((max if key == "slowest_ms" else statistics.median)(f[key] for f in figures), 1)
                for key in figures[0]
            }


def _write_index(file: Path, origin: index.Origin, photos: int, embedding: Any) -> None:
    """Random embeddings, of photos that are not there. embedding: shapes of both."""
    rng = np.random.default_rng(0)
    with index.opened(file, create=True) as opened:
        index.create(opened, origin)
        for start in range(0, photos, _CHUNK):
            count = min(_CHUNK, photos - start)
            cross, uni = (rng.standard_normal((count, head.shape[1]), np.float32) for head in embedding)
            names = [b"%09d.jpg" % (start + number) for number in range(count)]
            chunk = zip(names, normalised(cross, "cross"), normalised(uni, "uni"), strict=True)
            index.replace(opened, [], (index.row(name, (1, 1), *pair) for name, *pair in chunk))


def _round(file: Path, checkpoint: Path) -> dict[str, float]:
    for path in (file, checkpoint):
        _out_of_memory(path)
    shutil.rmtree(compiled_beside(file), ignore_errors=True)
    with _served(file) as (server, cold):
        _compile_everything(server)
    with _served(file) as (server, warm):
        _compile_everything(server)
        texts = [_seconds(_ask, server, text=f"{number} dogs on grass") for number in range(_TEXTS)]
        return {
            "cold_s": cold,
            "warm_s": warm,
            "text_ms": 1e3 * statistics.median(texts),
            "slowest_ms": 1e3 * max(texts),
            "long_ms": 1e3 * _seconds(_ask, server, text="dog " * 200),
            "photo_ms": 1e3 * _seconds(_drop, server),
        }


def _out_of_memory(file: Path) -> None:
    """What the system keeps of a file in memory is let go, where the system can be asked to."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextlib.contextmanager
def _served(file: Path) -> Iterator[tuple[http.client.HTTPConnection, float]]:
    """(connection to a page of its own, s from its command to the first text's result)."""
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    started = time.perf_counter()
    command = [sys.executable, "-c", _SERVE, str(file), "--port=0"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout
            told = re.search(r"http://(\S+)", server.stdout.readline())
            if not told:
                raise InputError("the page did not start; what it says of that is above")
            with contextlib.closing(http.client.HTTPConnection(told[1])) as connection:
                _ask(connection, text="two dogs")
                yield connection, time.perf_counter() - started
        finally:
            server.terminate()


def _compile_everything(server: http.client.HTTPConnection) -> None:
    """The page compiles for long texts and photos while it answers: until it needs no more time for that."""
    _ask(server, text="photo " * 200)
    _drop(server)
    time.sleep(1)


def _seconds(call: Callable[..., Any], *arguments: Any, **named: Any) -> float:
    start = time.perf_counter()
    call(*arguments, **named)
    return time.perf_counter() - start


def _ask(server: http.client.HTTPConnection, **query: str) -> None:
    _answer(server, "GET", f"/find?{urlencode(query)}")


def _drop(server: http.client.HTTPConnection) -> None:
    """A photo of its own every time: the page remembers those that it knows."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(time.perf_counter_ns()).integers(0, 256, (9, 12, 3), np.uint8)
    Image.fromarray(pixels).resize((1200, 900)).save(buffer, "JPEG")
    _ask(server, photo=_answer(server, "POST", "/photo", buffer.getvalue())["photo"])


def _answer(server: http.client.HTTPConnection, method: str, address: str, body: bytes | None = None) -> Any:
    server.request(method, address, body)
    response = server.getresponse()
    content = json.loads(response.read())
    if response.status != 200:
        raise InputError(f"{address[:40]}: {content}")
    return content
