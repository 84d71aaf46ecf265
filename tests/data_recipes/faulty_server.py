"""An HTTP server on loopback that serves a folder, counts what it is asked for, and misbehaves as it is told.

It answers GET, byte ranges too, and so speaks as much of S3 as reading needs (with path-style addresses).

What it can do wrong, besides answering with any HTTP status by its number:
    drop          close the connection without an answer
    delay         no answer until the server ends
    cut           half the body under the Content-Length of all of it
    cut_stated    half the body under its own Content-Length
    flip          a bit of each byte turned
    empty         a body of no bytes, stated as such
    ignore_range  200 and all of the file
    wrong_range   other bytes than those asked for, stated as such
    wait          the right answer, once `go_on` is set
"""

from __future__ import annotations

import fnmatch
import re
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote


class FaultyServer(ThreadingHTTPServer):
    """Serves `root` at `url`.

    `faults`: pattern of paths (as of fnmatch) -> what goes wrong with the first answers for each file and range, in
    order; `...` at the end repeats the one before it for ever. `asked` counts the requests by (path, range), `signed`
    says of each whether it carried credentials.
    """

    daemon_threads = True

    def __init__(self, root: Path):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.faults: dict[str, list] = {}
        self.asked: Counter[tuple[str, str]] = Counter()
        self.signed: list[bool] = []
        self.released, self.go_on = threading.Event(), threading.Event()
        self._seen: Counter[tuple[str, str, str]] = Counter()
        self._lock = threading.Lock()

    def chunks(self) -> dict[tuple[str, str], int]:
        """How often each file, or range of one, was asked for that is no metadata."""
        names = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata", "fragment.yaml")
        return {key: count for key, count in self.asked.items() if not key[0].endswith(names)}

    def forget(self) -> None:
        """Count, and go through the faults, from the beginning."""
        with self._lock:
            self.asked.clear()
            self._seen.clear()

    def fault(self, path: str, span: str) -> str | None:
        """What goes wrong with this request, which is counted."""
        with self._lock:
            self.asked[path, span] += 1
            for pattern, script in self.faults.items():
                if fnmatch.fnmatch(path, pattern):
                    number = self._seen[pattern, path, span]
                    self._seen[pattern, path, span] += 1
                    if script[-1] is ...:
                        number = min(number, len(script) - 2)
                    return script[number] if number < len(script) else None
        return None

    def handle_error(self, request, client_address) -> None:
        """A client that went away is what these tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyServer

    def do_GET(self) -> None:
        path, span = unquote(self.path.partition("?")[0]), self.headers.get("Range", "")
        self.server.signed.append("Authorization" in self.headers)
        fault = self.server.fault(path, span)
        if fault == "wait":
            self.server.go_on.wait(20)
        if fault == "drop":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        if fault == "delay":
            self.server.released.wait(20)
            self.close_connection = True
            return
        if fault is not None and fault.isdecimal():
            return self._send(int(fault), b"refused or overloaded")
        file = self.server.root / path.lstrip("/")
        if not file.is_file():
            return self._send(404, b"not found")
        body = file.read_bytes()
        if not span or fault == "ignore_range":
            return self._send(200, body, fault)
        match = re.fullmatch(r"bytes=(\d*)-(\d*)", span)
        assert match is not None, span
        if match[1]:
            start, stop = int(match[1]), min(int(match[2] or len(body) - 1) + 1, len(body))
        else:
            start, stop = max(0, len(body) - int(match[2])), len(body)
        if start >= len(body):
            return self._send(416, b"")
        if fault == "wrong_range":
            start, stop = start - 1 if start else start + 1, stop - 1 if start else stop
        self._send(206, body[start:stop], fault, f"bytes {start}-{stop - 1}/{len(body)}")

    def _send(self, status: int, body: bytes, fault: str | None = None, content_range: str | None = None) -> None:
        if fault == "flip":
            body = bytes(byte ^ 0x10 for byte in body)
        promised = len(body)
        if fault in ("cut", "cut_stated"):
            body = body[: len(body) // 2]
        if fault == "cut_stated":
            promised = len(body)
        if fault == "empty":
            body, promised = b"", 0
        self.send_response(status)
        self.send_header("Content-Length", str(promised))
        if content_range is not None:
            self.send_header("Content-Range", content_range)
        self.end_headers()
        self.wfile.write(body)
        if fault == "cut":
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr."""


@contextmanager
def serving(root: Path) -> Iterator[FaultyServer]:
    """A server of the folder, until the block ends."""
    with FaultyServer(root) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.released.set()
            server.go_on.set()
            server.shutdown()
            thread.join()
