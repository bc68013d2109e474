"""Runs ONNX files in onnxruntime-web in a headless Chromium, for portability.py."""

from __future__ import annotations

import base64
import functools
import http.server
import json
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np

PACKAGE = Path(__file__).parents[1] / "web" / "node_modules" / "onnxruntime-web"
PAGE = Path(__file__).with_suffix(".html")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
TIMEOUT = 300


def browser() -> str | None:
    """Return the path of Chromium or Chrome, or None."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


def version() -> str:
    """Return the versions of onnxruntime-web and of the browser; "" if one is not installed."""
    program = browser()
    if program is None or not PACKAGE.is_dir():
        return ""
    package = json.loads((PACKAGE / "package.json").read_text(encoding="utf-8"))["version"]
    shown = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    number = next(part for part in shown.stdout.split() if part[0].isdigit())
    return f"{package} in Chromium {number.partition('.')[0]}"


class Page:
    """A page in the browser that runs one file at a time."""

    def __init__(self) -> None:
        self.work: Queue[Any] = Queue()
        self.answers: Queue[Any] = Queue()

    def ask(self, **work: Any) -> Any:
        """Give work to the page; returns its outputs.

        Raises:
            RuntimeError: The page reports an error.
        """
        self.work.put(work)
        answer = self.answers.get(timeout=TIMEOUT)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["outputs"]


class Session:
    """A file that is open in the page."""

    def __init__(self, page: Page, content: bytes, artifact: Any) -> None:
        self._page, self._artifact = page, artifact
        page.ask(file=base64.b64encode(content).decode())

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Run the file once."""
        inputs = [
            {
                "name": name,
                "dtype": array.dtype.name,
                "shape": array.shape,
                "data": base64.b64encode(np.ascontiguousarray(array).tobytes()).decode(),
            }
            for name, array in zip(self._artifact.inputs, arrays, strict=True)
        ]
        found = {
            one["name"]: np.frombuffer(base64.b64decode(one["data"]), one["dtype"]).reshape(
                one["shape"]
            )
            for one in self._page.ask(inputs=inputs)
        }
        return [found[name] for name in self._artifact.outputs]


@contextmanager
def open_page() -> Iterator[Page]:
    """Open the page in a headless browser; the server is on this machine alone."""
    page = Page()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def translate_path(self, path: str) -> str:
            if path == "/":
                return str(PAGE)
            return str(PACKAGE / "dist" / Path(path).name)

        def do_GET(self) -> None:
            if self.path != "/work":
                super().do_GET()
                return
            content = json.dumps(page.work.get()).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(content)

        def do_POST(self) -> None:
            size = int(self.headers["Content-Length"])
            page.answers.put(json.loads(self.rfile.read(size)))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    handler = functools.partial(Handler, directory=str(PAGE.parent))
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        process = subprocess.Popen(
            [str(browser()), *FLAGS, f"--user-data-dir={profile}", url],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield page
        finally:
            page.work.put(None)
            process.terminate()
            process.wait(30)
            server.shutdown()
