"""The page: one file that loads nothing, opened in a real browser."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from bilstm_bench.plan import Shape, Variant
from bilstm_bench.processes import Range, Start
from bilstm_bench.profiling import Delegation, OperatorTime, Profile
from bilstm_bench.report import html_page, markdown, print_rich, text
from bilstm_bench.results import Case, FileFacts, Result, Settings
from bilstm_bench.soak import Sample, Soak
from bilstm_bench.statistics import Comparison, Interval, Latency

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
HOSTILE = '"><script>document.title="owned"</script><img src=http://127.0.0.1:9/x>'
PLOTS = (
    "Latency against length, batch 1",
    "Size against error",
    "Threads against latency, 200 steps, batch 1",
    "Memory over time, soak",
    "Latency over time, soak",
)


def latency(ms):
    median = Interval(ms, ms * 0.95, ms * 1.06)
    return Latency(600, median, ms, ms * 1.2, ms * 1.9, ms * 4, ms * 1.05)


@pytest.fixture
def result():
    """One of everything, with names that try to be more than names."""
    variants = [
        Variant(f"model{'.int8' * (recipe == 'int8')}.{form}", recipe, backend, threads)
        for threads in (1, 2)
        for backend, form in (("onnx", "onnx"), ("litert", "tflite"))
        for recipe in ("float32", "int8")
    ]
    cases = []
    for length in (10, 50, 200):
        for number, variant in enumerate(variants):
            ms = length * 0.004 * (1 + number % 4) / variant.threads**0.5
            comparison = Comparison(Interval(1.5, 1.4, 1.6), 1.02, 30, "faster")
            cases.append(
                Case(
                    variant.label, variant, Shape(length, 1), latency(ms), latency(ms * 0.9),
                    Interval(ms * 2, None, None), 1000 / ms, comparison if number else None,
                )
            )  # fmt: skip
        failed = Case("Keras predict, 1 thread", None, Shape(length, 1), failure=HOSTILE)
        cases.append(failed)
    found = Result(HOSTILE, "model-edge", {"processor": "A & B <i>", "cores": "2"})
    found.files = [
        FileFacts("model.onnx", "float32", 53_000, 2.4e-7),
        FileFacts("model.int8.onnx", "int8", 17_000, 3.1e-3),
        FileFacts("model.tflite", "float32", 95_000, None),
        FileFacts("model.int8.tflite", "int8", 30_000, 0.0),
    ]
    found.settings = Settings(30, "some runs", 0.5, 0, variants[0])
    some = Range(10.0, 9.0, 12.0)
    found.starts = [
        Start(variants[0], 53_000, 5, some, some, some, some, some, some, some, some, some),
        Start(variants[2], 95_000, failure=HOSTILE),
    ]
    found.cases = cases
    found.profiles = [
        Profile(
            variants[2], Shape(200, 1), 20, 600.0,
            (OperatorTime(HOSTILE, "LiteRT", 3.0, 400.0, 0.6),),
            (OperatorTime("ADD #1", "LiteRT", 3.0, 400.0, 0.6),),
            (Delegation(0, {"ADD": 2}, {"WHILE": 1}, (1, 2)),),
            ("a note",),
        ),
        Profile(variants[0], Shape(200, 1), failure="the profiler crashed"),
    ]  # fmt: skip
    found.soaks = [
        Soak(
            variant, 3600.0, 1000,
            tuple(Sample(60.0 * n, 10, 70_000_000 + 1000 * n, 1.0) for n in range(60)),
            Interval(60_000.0, 50_000.0, 70_000.0), Interval(0.0, -0.01, 0.01),
        )
        for variant in variants[:2]
    ]  # fmt: skip
    found.notes = [f"not measured: {HOSTILE}"]
    return found


class Page(HTMLParser):
    """What a page is made of."""

    VOID = ("meta", "br", "img", "link", "input")

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.links, self.scripts = [], [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        self.scripts += tag == "script"
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "data", "action"):
                self.links.append(value)
            assert not name.startswith("on")

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.slow
def test_the_page_is_whole_and_refers_to_nothing_outside(result):
    pytest.importorskip("matplotlib")
    page = html_page(result)
    parsed = Page(page)
    assert parsed.open == []
    assert parsed.scripts == 0
    assert all(link.startswith("#") for link in parsed.links)
    assert not re.search(r"url\((?!#)", page)
    assert "@import" not in page
    assert "#0000" not in page  # every colour placeholder was replaced
    ids = re.findall(r'\bid="([^"]+)"', page)
    shared = {one for one in ids if ids.count(one) > 1}
    referred = set(re.findall(r"(?:url\(|href=\")#([^\")]+)", page))
    assert not shared & referred
    for title in PLOTS:
        assert f"<figcaption>{title}</figcaption>" in page


@pytest.mark.slow
def test_the_same_result_gives_the_same_page(result):
    pytest.importorskip("matplotlib")
    assert html_page(result) == html_page(result)


def test_everything_a_bundle_says_is_escaped(result):
    page = html_page(result)
    assert "<script" not in page
    assert "<img" not in page
    assert "&lt;script&gt;" in page
    shown = markdown(result)
    assert "<script" not in shown
    assert "<img" not in shown
    assert HOSTILE in text(result)


@pytest.mark.parametrize("width", [40, 60, 80, 120, 300])
def test_tables_on_a_terminal_break_no_word(result, width):
    pytest.importorskip("rich")
    from rich.console import Console

    console = Console(width=width, record=True, file=io.StringIO())
    result.model = result.notes[0] = "hostile"
    result.cases = [case for case in result.cases if case.variant is not None]
    result.starts, result.profiles = result.starts[:1], []
    print_rich(result, console)
    by_rich, plain = console.export_text(), text(result, width=width)
    words = set(re.findall(r"[^\s:;]+", text(result)))
    for shown in (by_rich, plain):
        assert max(map(len, map(str.rstrip, shown.splitlines()))) <= width
        assert {w for w in re.findall(r"[^\s:;]+", shown) if w.strip("\u2500\u2501")} <= words


@pytest.mark.parametrize("width", [60, 80])
def test_plain_tables_break_no_word(result, width):
    """As in a log of this width: every word is one of those without a limit."""

    def words(printed):
        return {word.strip(".,;:()") for word in printed.split()}

    narrow = text(result, width=width)
    assert "…" not in narrow
    assert not words(narrow) - words(text(result))


def test_an_interrupted_result_says_so(result):
    result.interrupted = True
    assert "It was interrupted" in html_page(result)


def test_a_result_of_little_has_a_page(result):
    for name in ("files", "starts", "cases", "profiles", "soaks", "notes"):
        setattr(result, name, [])
    result.settings = None
    page = html_page(result)
    assert Page(page).open == []


def test_one_length_and_no_threads_to_compare_is_a_bar_a_line(result):
    pytest.importorskip("matplotlib")
    result.cases = [c for c in result.cases if c.shape.length == 10][:2]
    page = html_page(result)
    assert "<figcaption>Latency, 10 steps, batch 1</figcaption>" in page
    assert "Threads against latency" not in page


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no chromium here")
def test_a_browser_shows_the_page_and_asks_for_nothing(result, tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "page.html"
    path.write_text(html_page(result), encoding="utf-8")
    netlog = tmp_path / "net.json"
    done = subprocess.run(
        [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", "--disable-dev-shm-usage", f"--user-data-dir={tmp_path / 'user'}",
            "--enable-logging=stderr", "--v=0", f"--log-net-log={netlog}",
            f"--screenshot={tmp_path / 'page.png'}", "--window-size=1200,900", "--dump-dom",
            path.as_uri(),
        ],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    dom = done.stdout
    assert dom.count("<figure>") == dom.count("<svg ") == len(PLOTS)
    for drawn in re.findall(r"<svg .*?</svg>", dom, re.DOTALL):
        assert drawn.count("<path") > 5
        assert "var(--text)" in drawn
    assert dom.count("<table>") >= 8
    assert "CONSOLE" not in done.stderr, done.stderr
    title = re.search(r"<title>(.*?)</title>", dom, re.DOTALL)[1]
    assert "owned" in title  # as text, which it always was
    assert title != "owned"
    assert "127.0.0.1" not in netlog.read_text()
    assert (tmp_path / "page.png").stat().st_size > 10_000
