"""An HTTP server that answers as a script says, for what a real S3 server never does on demand."""

import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Answer:
    """One answer; ``declared`` is the Content-Length if it is to differ from the body's.

    One that ``stalls`` is followed by nothing, not even the connection's end; without a body it has
    not begun. An ``early`` one comes before the request's body is read, which it never is.
    """

    status: int
    body: bytes = b""
    headers: dict = field(default_factory=dict)
    declared: int | None = None
    stalls: bool = False
    early: bool = False


@contextmanager
def answering(*answers):
    """Yield the server's URL and the list of requests it has had, as ``METHOD path``.

    The last answer is given to every further request.
    """
    left, requests, lock, over = list(answers), [], threading.Lock(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self):
            with lock:
                requests.append(f"{self.command} {self.path}")
                answer = left.pop(0) if len(left) > 1 else left[0]
            if not answer.early:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if answer.stalls and not answer.body:
                over.wait()
                self.close_connection = True
                return
            length = len(answer.body) if answer.declared is None else answer.declared
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(answer.body)
            if answer.stalls or answer.early:
                over.wait()
            if length != len(answer.body):
                self.close_connection = True

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = answer

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", requests
    finally:
        over.set()
        server.shutdown()
        thread.join()
        server.server_close()
