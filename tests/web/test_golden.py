"""Exported bundles in onnxruntime-web, under Node and in a browser: golden cases, predictions."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import http.server
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from bilstm_runtime import load
from bilstm_runtime.bundle.folder import open_bundle
from bilstm_runtime.comparison import compare

from .conftest import WEB
from .models import MODELS, RECIPES

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
).split()


def requests() -> dict[str, list[Any]]:
    """By bundle, examples as a user would give them, of different lengths where that is allowed."""
    rng = np.random.default_rng(3)

    def floats(*shape: int) -> Any:
        return rng.normal(size=shape).astype(np.float32).tolist()

    sequences = [floats(n, 4) for n in (3, 7, 2, 7, 12, 1, 3)]
    found = {
        "speaker": [[floats(n, 12) for n in (7, 29, 8, 9, 30)]],
        "fixed": [[[1, 2, 3], [4, 0, 5, 6]], [[n, n + 1] for n in range(7)]],
        "tagger": [[[1, 2, 3], [4, 5], [6], [7, 8, 9, 10, 11, 12]], [[3, 0, 4]]],
        "words": [["so good", "not at all, été!", "", "?!", "so so so bad \u00a0x"], ["it's"]],
        "characters": [["so", "it's really rather long", "É"]],
        "lookup": [[["the", "cat"], ["mat"], ["dog", "", "été"]]],
        "meter": [[floats(5, 3)]],
        "pair": [
            {"ids": [[1, 2, 3], [4]], "extra": floats(2, 3)},
            {"ids": [[1, 2, 29], [4, 0, 5]], "extra": floats(2, 3)},
        ],
        "unmasked": [sequences],
        "pooled": [sequences[:5], sequences[3:5]],
        "typed": [
            {
                "ids": [[1, 2], [3, 19]],
                "image": [[[0, 255], [7, 8]], [[1, 2], [3, 4]]],
                "flag": [[[True], [False]], [[False], [False]]],
                "half": [[[0.1, -2.5], [3.0, 0.0]], [[65504.0, 1e-7], [1.0, 2.0]]],
            }
        ],
        "batchwise": [[floats(6, 4), floats(6, 4)]],
        "gru": [sequences],
        "entities": [["The été sat", "on a CAT, the mat on the mat the été", "", "?"]],
        "speech": [sequences],
        "mixed": [
            {"text": ["so good", "not", "so so bad"], "place": ["x", "été", ""],
             "numbers": [floats(n, 4) for n in (3, 5, 2)]},
            {"text": ["at all"], "place": ["x"], "numbers": floats(1, 3, 4)},
        ],
        "sources": [
            {
                "text": ["So good?!", "", "it's \u00c9T\u00c9"],
                "users": [[1, -7], [0, 0], [2**40, 5]],
            },
            [["at all", "not"], [[3, 4], [0, 9]]],
        ],
        "subwords": [["So goodness!", "cafés caf\u00e9", "", "x good"], ["GOOD"]],
    }  # fmt: skip
    return {name: one for name, one in found.items() if name in {"speaker", "fixed", *MODELS}}


def jobs(bundles: Path, source: str) -> list[dict[str, Any]]:
    return [
        {"name": name, "source": source.format(name), "requests": examples}
        for name, examples in requests().items()
    ]


def judge(bundles: Path, results: list[dict[str, Any]]) -> None:
    """Every report passed, and every output is that of the Python runtime."""
    found = [(result["name"], result["recipe"]) for result in results]
    assert not [result for result in results if "error" in result]
    assert found == [(name, recipe) for name in requests() for recipe in RECIPES]
    assert not [result for result in results if not result["report"]["passed"]]
    assert all(result["report"]["cases"] > 1 for result in results)
    examples = requests()
    for result in results:
        folder = bundles / result["name"]
        manifest = open_bundle(folder).manifest
        model = load(folder, backend="onnx", recipe=result["recipe"])
        artifact = next(a for a in manifest.artifacts if a.recipe == result["recipe"])
        # Another build of onnxruntime rounds the activations of int8 files differently.
        tolerance = artifact.tolerance or manifest.tolerance
        for x, output in zip(examples[result["name"]], result["outputs"], strict=True):
            model.reset()
            same(model.predict(x), output, tolerance)
        for x, answers in zip(examples[result["name"]], result["answers"], strict=True):
            same_answers(model, x, answers)


def same(expected: Any, found: Any, tolerance: Any) -> None:
    if isinstance(expected, dict):
        assert set(expected) == set(found)
        for name, output in expected.items():
            same(output, found[name], tolerance)
    elif isinstance(expected, list):
        assert len(expected) == len(found)
        for output, item in zip(expected, found, strict=True):
            same(output, item, tolerance)
    else:
        output = np.array(found["data"], found["dtype"]).reshape(found["shape"])
        assert compare(output, expected, tolerance).passed, (output, expected)


def same_answers(model: Any, x: Any, found: dict[str, Any]) -> None:
    """Compare names, places and, within the error of the recipe, scores."""
    decodings = model.spec.decoding
    expected = model.decode(x) if decodings else {}
    for item in decodings:
        if getattr(item, "scheme", None):
            expected[f"{item.output} spans"] = model.spans(x, output=item.output)
    assert set(found) == set(expected)
    for output, answers in expected.items():
        plain = [[dataclasses.asdict(one) for one in row] for row in answers]
        assert len(plain) == len(found[output])
        for row, other in zip(plain, found[output], strict=True):
            names = ("label", "tag", "text", "token", "start", "end")
            for one, item in zip(row, other, strict=True):
                assert [one.get(key) for key in names] == [item.get(key) for key in names]
                assert one["score"] == pytest.approx(item["score"], abs=0.02)


@pytest.mark.parametrize("package", ["onnxruntime-web", "onnxruntime-node"])
def test_golden_cases_and_predictions_under_node(package, bundles, node, onnxruntime_web):
    if not (onnxruntime_web.parent / package).is_dir():
        pytest.skip(f"{package} is not installed")
    result = subprocess.run(
        [node, HERE / "node.mjs", WEB, package],
        input=json.dumps(jobs(bundles, f"{bundles}/{{}}")),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    judge(bundles, json.loads(result.stdout))


@pytest.mark.parametrize(
    ("name", "part", "reason"),
    [
        ("words", "ids", "the ids of text 0 for 'text' are wrong"),
        ("words", "answers", "the answer to text 0 for 'mood' is wrong"),
        ("mixed", "outputs", "the answer to text 0 for 'kind' is wrong"),
        ("unmasked", "windows", "the windows of recording 0 are wrong"),
        ("unmasked", "ends", "the answers to recording 0 for 'label' are wrong"),
    ],
)
def test_a_wrong_raw_case_is_found(name, part, reason, bundles, node, onnxruntime_web, tmp_path):
    folder = tmp_path / name
    shutil.copytree(bundles / name, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    item = manifest.get("golden_texts") or manifest["golden_windows"]
    cases = json.loads((folder / item["file"]).read_text())
    if part == "ids":
        cases[0]["ids"]["text"] = [9]
    elif part == "answers":
        cases[0]["answers"]["mood"][0]["label"] = "neither"
    elif part == "windows":
        cases[0]["windows"][1]["start"] += 1
    elif part == "ends":
        cases[0]["answers"]["label"][1][0]["end"] += 1
    else:
        cases[0]["outputs"] = [[[-1.0, -2.0, -3.0]]]
    content = json.dumps(cases).encode()
    (folder / item["file"]).write_bytes(content)
    item.update(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    (folder / "manifest.json").write_text(json.dumps(manifest))
    result = subprocess.run(
        [node, HERE / "node.mjs", WEB, "onnxruntime-web"],
        input=json.dumps([{"name": name, "source": str(folder), "requests": []}]),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert {one["report"]["reason"] for one in json.loads(result.stdout)} == {reason}


@contextmanager
def server(folders: dict[str, Path], work: list[Any]) -> Iterator[tuple[str, Queue[Any]]]:
    """Serve folders under names; `/jobs` gives the work, and what is posted goes to the queue."""
    results: Queue[Any] = Queue()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def translate_path(self, path: str) -> str:
            _, name, *rest = urlsplit(path).path.split("/")
            return str(folders.get(name, Path("/nonexistent")).joinpath(*rest))

        def do_GET(self) -> None:
            if self.path != "/jobs":
                super().do_GET()
                return
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(work).encode())

        def do_POST(self) -> None:
            size = int(self.headers["Content-Length"])
            results.put(json.loads(self.rfile.read(size)))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    handler = functools.partial(Handler, directory=str(WEB))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as found:
        thread = threading.Thread(target=found.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{found.server_port}", results
        found.shutdown()
        thread.join()


def served(bundles: Path, onnxruntime_web: Path) -> dict[str, Path]:
    return {"ort": onnxruntime_web / "dist", "web": WEB, "tests": HERE, "bundles": bundles}


@contextmanager
def opened(chromium: str, profile: Path, url: str) -> Iterator[None]:
    """Open a page in a browser without a window."""
    browser = subprocess.Popen(
        [chromium, *FLAGS, f"--user-data-dir={profile}", url],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        browser.terminate()
        browser.wait(30)


def test_golden_cases_and_predictions_in_chromium(bundles, chromium, onnxruntime_web, tmp_path):
    work = jobs(bundles, "/bundles/{}/")
    with (
        server(served(bundles, onnxruntime_web), work) as (address, results),
        opened(chromium, tmp_path, f"{address}/tests/golden.html"),
    ):
        found = results.get(timeout=300)
    judge(bundles, found)


@pytest.mark.parametrize(
    "name", ["speaker", "words", "pair", "meter", "lookup", "batchwise", "entities", "speech"]
)
def test_the_example_page_predicts_at_once(name, bundles, chromium, onnxruntime_web, tmp_path):
    """Served from this machine alone, with onnxruntime-web copied beside it."""
    example = tmp_path / "web"
    example.mkdir()
    for item in WEB.iterdir():
        if item.name not in {"node_modules", "example"}:
            (example / item.name).symlink_to(item)
    (example / "example").mkdir()
    for item in (WEB / "example").iterdir():
        if item.is_file():
            (example / "example" / item.name).symlink_to(item)
    (example / "example" / "ort").symlink_to(onnxruntime_web / "dist")
    folders = {"web": example, "bundles": bundles, "tests": HERE}
    url = f"/web/example/index.html?bundle=/bundles/{name}/"
    with (
        server(folders, [url]) as (address, results),
        opened(chromium, tmp_path / "profile", f"{address}/tests/watch.html"),
    ):
        page, requested, seen = results.get(timeout=120)
    assert not seen
    assert {f"{urlsplit(one).scheme}://{urlsplit(one).netloc}" for one in requested} == {address}
    assert len(requested) > 10
    assert 'data-state="ready"' in page
    assert '<p id="problem" role="alert" hidden' in page
    manifest = open_bundle(bundles / name).manifest
    assert f"{manifest.spec.name} in the browser" in page
    for spec in manifest.spec.outputs:
        assert f"<h3>{spec.name}</h3>" in page
    for item in manifest.spec.decoding:
        shown = "a b" if item.kind == "ctc" else item.labels  # a text is made of the characters
        assert any(f">{label}" in page for label in shown if label)
    assert "the mean of the middle half of" in page


def test_every_model_has_requests():
    assert set(requests()) == {"speaker", "fixed", *MODELS}
