"""Serves the page to this machine alone."""

from __future__ import annotations

import socket
import threading

import uvicorn

from cusa_jax.errors import InputError
from cusa_jax.search.finder import Finder
from cusa_jax.search.server import app

_HOST = "127.0.0.1"


def serve(finder: Finder, port: int) -> None:
    """Until interrupted. port: 0 takes a free one. Raises InputError where the port is taken."""
    finder.prepare()
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((_HOST, port))
        except OSError as error:
            raise InputError(f"--port={port}: cannot be used ({error.strerror}); name another") from error
        # A thousand connections wait here for their turn.
        listening.listen(2048)
        address = f"http://{_HOST}:{listening.getsockname()[1]}"
        threading.Thread(target=finder.prepare_the_rest, daemon=True).start()
        print(f"{len(finder.photos)} photos at {address} (Ctrl-C ends it)", flush=True)
        uvicorn.Server(uvicorn.Config(app(finder), log_level="error", backlog=2048)).run([listening])
