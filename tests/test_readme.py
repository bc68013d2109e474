"""The README's commands and snippets work as printed, and the documentation is consistent."""

import importlib
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
COMMANDS = re.findall(r'^([\w-]+) = "([\w.]+):main"', PROJECT, re.MULTILINE)
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*.md")])


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    return tmp_path


@pytest.mark.slow
def test_the_ten_lines(folder):
    """They run, and they print what the block below them shows."""
    block, shown = re.search(r"```python\n(.*?)```.*?```text\n(.*?)```", README, re.DOTALL).groups()
    assert len([line for line in block.splitlines() if line.strip()]) <= 10
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    result = subprocess.run(
        [sys.executable, "-c", block],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    error, speakers = result.stdout.splitlines()
    assert [speakers, *shown.splitlines()[1:]] == ["[0 0 2 8]"] * 2
    assert 0 < float(error) < 1e-5 > float(shown.splitlines()[0])


@pytest.mark.slow
def test_the_first_command_exports_the_example(folder):
    """Without its installation, which CI does in a fresh environment."""
    line = next(line for line in README.splitlines() if ".[export]" in line)
    command = shlex.split(line.rpartition("&&")[2])
    assert command[0] == ".venv/bin/export-bilstm"
    result = subprocess.run(
        [sys.executable, "-m", "bilstm_exporter.cli", *command[1:]],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert (folder / "japanese_vowels-edge" / "manifest.json").is_file()
    shown = re.search(r"```text\n(japanese_vowels -> .*?)```", README, re.DOTALL).group(1)
    assert _without_figures(result.stdout) == _without_figures(shown)


def _without_figures(text):
    """The words of a report: the figures depend on the processor."""
    text = re.sub(r"[0-9a-f]{64}|\b[0-9a-f]{4}\.\.\.", "DIGEST", text)
    return re.sub(r"[\d.]+(e-\d+)?", "0", " ".join(text.replace("─", "").split()))


EXAMPLES = (ROOT / "examples/README.md").read_text(encoding="utf-8")
WALKS = re.findall(
    r"((?:^    export-bilstm .*\n)(?:^    .*\n)+)\n.+?:\n\n((?:^    .*\n)+)", EXAMPLES, re.MULTILINE
)


@pytest.mark.slow
@pytest.mark.parametrize("walk", WALKS, ids=lambda walk: walk[0].split()[1])
def test_an_example_prints_what_its_readme_shows(folder, walk):
    commands, shown = walk
    modules = dict(COMMANDS)
    for line in commands.replace("\\\n", "").splitlines():
        command, *arguments = shlex.split(line)
        result = subprocess.run(
            [sys.executable, "-m", modules[command], *arguments],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
    lines = [line.removeprefix("    ") for line in shown.splitlines()]
    figures = re.compile(r"0\.\d+")
    assert [figures.sub("0", line) for line in result.stdout.splitlines()] == [
        figures.sub("0", line) for line in lines
    ]


def test_every_example_is_walked():
    models = {walk[0].split()[1] for walk in WALKS}
    assert models == {f"examples/{file.name}" for file in (ROOT / "examples").glob("*.keras")}


def test_ci_runs_the_second_command():
    assert len([line for line in README.splitlines() if ".[dev]" in line]) == 1
    assert "grep -m1 '\\.\\[dev\\]' README.md" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize(("command", "module"), COMMANDS)
def test_the_flags_of_each_command_are_those_in_the_docs(command, module, capsys):
    with pytest.raises(SystemExit):
        importlib.import_module(module).main(["--help"])
    flags = set(re.findall(r"--[a-z][a-z-]*", capsys.readouterr().out)) - {"--help", "--version"}
    page = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    section = page.partition(f"\n## {command}\n")[2].partition("\n## ")[0]
    rows = "".join(line.split("|")[1] for line in section.splitlines() if line.startswith("| `"))
    assert set(re.findall(r"--[a-z][a-z-]*", rows)) == flags


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page):
    """Also those that leave the docs site, which mkdocs does not check."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if not target.startswith(("https://", "http://")):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "ARCHITECTURE.md"])
def test_files_and_folders_named_in_text_exist(page):
    """Paths named for contributors; `NAME` is a placeholder for a new one."""
    roots = [ROOT, ROOT / "exporter/bilstm_exporter", ROOT / "runtime/bilstm_runtime"]
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    named = {name for name in re.findall(r"`([\w./]+(?:\.\w+|/))`", text) if "NAME" not in name}
    named = {name for name in named if "/" in name or name.endswith((".py", ".md", ".toml"))}
    assert len(named) > 10
    assert not {name for name in named if not any((root / name).exists() for root in roots)}


@pytest.mark.slow
def test_the_docs_site_builds_without_a_warning(tmp_path):
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("mkdocs is not installed (the extra docs)")
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "true"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "index.html").is_file()
