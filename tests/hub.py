"""A Hugging Face Hub of this machine, as much of it as huggingface_hub asks for to upload and download a model."""

import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

COMMIT = "1" * 40


@contextlib.contextmanager
def serving() -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yields the address for HF_ENDPOINT, and the files of the one model that is there, by name, as they come in."""
    files: dict[str, bytes] = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(files))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", files
    finally:
        server.shutdown()
        server.server_close()


def _handler(files: dict[str, bytes]) -> type[BaseHTTPRequestHandler]:
    large: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body, path = self._body(), urlsplit(self.path).path
            here = f"http://{self.headers['Host']}"
            if path == "/api/repos/create":
                self._json({"url": f"{here}/someone/model"})
            elif "/preupload/" in path:
                asked = json.loads(body)["files"]
                modes = ["lfs" if file["path"].endswith(".safetensors") else "regular" for file in asked]
                self._json({"files": [
                    {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}
                    for file, mode in zip(asked, modes, strict=True)
                ]})  # fmt: skip
            elif path.endswith("/info/lfs/objects/batch"):
                self._json({"transfer": "basic", "objects": [
                    {**one, "actions": {"upload": {"href": f"{here}/lfs/{one['oid']}"}}}
                    for one in json.loads(body)["objects"]
                ]})  # fmt: skip
            elif "/commit/" in path:
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                    elif line["key"] == "lfsFile":
                        files[line["value"]["path"]] = large[line["value"]["oid"]]
                self._json({"commitOid": COMMIT, "commitUrl": f"{here}/someone/model/commit/{COMMIT}"})
            else:
                self._json({})

        def do_PUT(self) -> None:
            body = self._body()
            large[hashlib.sha256(body).hexdigest()] = body
            self._json({})

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            if "/resolve/" in path:
                name = path.partition("/resolve/")[2].partition("/")[2]
                content = files[name]
                digest = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
                self._answer(content, "application/octet-stream", digest)
            else:
                about = {
                    "id": "someone/model",
                    "sha": COMMIT,
                    "siblings": [{"rfilename": name} for name in files],
                }
                self._json({**about, "tags": [], "downloads": 0, "private": False})

        def log_message(self, *_: object) -> None:
            pass

        def _body(self) -> bytes:
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def _json(self, content: object) -> None:
            self._answer(json.dumps(content).encode(), "application/json", {})

        def _answer(self, content: bytes, kind: str, more: dict[str, str]) -> None:
            self.send_response(200)
            for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **more}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

    return Handler
