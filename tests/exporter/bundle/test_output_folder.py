"""Replacing a bundle: what is deleted, what stays, and what a killed export leaves."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bilstm_exporter.bundle import folder as folders
from bilstm_exporter.bundle.folder import MARKER, check_writable, output_folder, staged
from bilstm_exporter.errors import OptionError, OutputFolderError
from bilstm_runtime.bundle.folder import open_bundle

FIXTURES = Path(__file__).parents[2] / "runtime" / "fixtures"


@pytest.fixture
def old(tmp_path):
    """A bundle to replace."""
    return Path(shutil.copytree(FIXTURES / "tagger", tmp_path / "out"))


@pytest.fixture(params=[True, False], ids=["exchange", "two renames"])
def _either_way(request, monkeypatch):
    if not request.param:
        monkeypatch.setattr(folders, "_exchange", lambda *_: False)


def replace(folder, source="classifier"):
    with staged(folder, overwrite=True) as aside:
        shutil.copytree(FIXTURES / source, aside, dirs_exist_ok=True)


@pytest.mark.usefixtures("_either_way")
def test_only_the_files_that_the_manifest_names_are_replaced(old, tmp_path):
    (old / "labels.txt").write_text("no,yes")
    (old / "notes").mkdir()
    (old / "notes" / "a.md").write_text("mine")
    (old / "link").symlink_to("labels.txt")
    replace(old)
    assert open_bundle(old).manifest.spec.name == "classifier"
    assert (old / "labels.txt").read_text() == "no,yes"
    assert (old / "notes" / "a.md").read_text() == "mine"
    assert (old / "link").is_symlink()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.usefixtures("_either_way")
def test_files_of_the_old_bundle_do_not_stay(old):
    with staged(old, overwrite=True) as aside:
        shutil.copytree(FIXTURES / "leaky", aside, dirs_exist_ok=True)
    assert sorted(path.name for path in old.iterdir()) == [
        "golden.npz",
        "manifest.json",
        "model.tflite",
    ]


@pytest.mark.parametrize(
    "manifest",
    [
        {"name": "My PWA", "start_url": "/"},
        {"format_version": 1, "name": "tagger"},
        [],
        {"format_version": 99},
    ],
)
def test_a_manifest_of_something_else_is_no_bundle(tmp_path, manifest):
    public = tmp_path / "public"
    public.mkdir()
    (public / "manifest.json").write_text(json.dumps(manifest))
    (public / "index.html").write_text("site")
    with pytest.raises(OutputFolderError, match="bundle"):
        check_writable(public, overwrite=True)
    with pytest.raises(OutputFolderError, match="choose another"), staged(public, overwrite=True):
        pass
    assert sorted(path.name for path in public.iterdir()) == ["index.html", "manifest.json"]


def test_a_file_in_the_way_of_the_new_bundle_is_refused(tmp_path):
    old = Path(shutil.copytree(FIXTURES / "leaky", tmp_path / "out"))  # has a .tflite file only
    (old / "model.onnx").write_text("mine")
    with pytest.raises(OutputFolderError, match=r"model\.onnx is not part of the bundle"):
        replace(old)
    assert (old / "model.onnx").read_text() == "mine"
    assert open_bundle(old).manifest.spec.name == open_bundle(FIXTURES / "leaky").manifest.spec.name
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


KILLED = """
import os, shutil, sys
from pathlib import Path
from bilstm_exporter.bundle import folder as folders
folder, source, step = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
count = 0
def counted(call):
    def wrapper(*args, **options):
        global count
        count += 1
        if count > step:
            os._exit(9)
        return call(*args, **options)
    return wrapper
if sys.argv[4] == "renames":
    folders._exchange = lambda *_: False
else:
    folders._exchange = counted(folders._exchange)
with folders.staged(folder, overwrite=True) as aside:
    shutil.copytree(source, aside, dirs_exist_ok=True)
    Path.rename = counted(Path.rename)
    shutil.rmtree = counted(shutil.rmtree)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such locks")
@pytest.mark.parametrize("how", ["exchange", "renames"])
@pytest.mark.parametrize("step", [0, 1, 2])
@pytest.mark.slow
def test_a_killed_export_leaves_a_bundle_and_the_next_cleans_up(old, tmp_path, how, step):
    (old / "labels.txt").write_text("no,yes")
    source = str(FIXTURES / "classifier")
    command = [sys.executable, "-c", KILLED, str(old), source, str(step), how]
    assert subprocess.run(command, check=False).returncode in (9, 0)
    if how == "exchange":
        assert open_bundle(old).manifest.spec.name in ("tagger", "classifier")
        assert (old / "labels.txt").exists()
    replace(old, "pair")
    assert open_bundle(old).manifest.spec.name == "pair"
    assert (old / "labels.txt").read_text() == "no,yes"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such locks")
@pytest.mark.parametrize("name", ["new", "old"])
def test_a_file_that_was_added_before_a_kill_is_kept(old, tmp_path, name):
    """After the exchange, the old bundle stands where the new one was written."""
    left = tmp_path / ".out-x1y2z3a4.export"
    shutil.copytree(FIXTURES / "pair", left / name)
    (left / MARKER).write_text("")
    (left / name / "notes.txt").write_text("mine")
    replace(old)
    assert (old / "notes.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_export_that_is_alive_keeps_its_folder(old):
    with staged(old, overwrite=True) as aside:
        shutil.copytree(FIXTURES / "classifier", aside, dirs_exist_ok=True)
        replace(old, "pair")
        assert (aside / "manifest.json").exists()
    assert open_bundle(old).manifest.spec.name == "classifier"


def test_folders_without_the_marker_are_not_touched(old, tmp_path):
    mine = tmp_path / ".out-backup"
    mine.mkdir()
    (mine / "file").write_text("x")
    replace(old)
    assert (mine / "file").exists()
    (mine / MARKER).write_text("")  # marked: an export's
    replace(old)
    assert not mine.exists()


@pytest.mark.parametrize("has_marker", [False, True])
def test_what_a_kill_before_the_marker_leaves_is_removed(old, tmp_path, has_marker):
    left = tmp_path / ".out-x1y2z3a4.export"
    left.mkdir()
    (tmp_path / ".out-backup").mkdir()
    if has_marker:
        (left / f"{MARKER}.tmp").write_text("")
    replace(old)
    assert not left.exists()
    assert (tmp_path / ".out-backup").exists()
    left.mkdir()
    (left / "mine").write_text("x")
    replace(old)
    assert (left / "mine").exists()


def test_an_export_whose_unmarked_folder_was_removed_makes_another(old, monkeypatch):
    make, made = folders._temporary, []

    def removed_once(*args):
        made.append(make(*args))
        if len(made) == 3:  # the first two only try whether folders can be made
            made[-1].rmdir()
        return made[-1]

    monkeypatch.setattr(folders, "_temporary", removed_once)
    replace(old)
    assert len(made) == 4
    assert open_bundle(old).manifest.spec.name == "classifier"


def test_an_empty_name_is_an_option_error():
    with pytest.raises(OptionError, match="empty name"):
        output_folder("")


@pytest.mark.parametrize("out", ["nothere/../x", "nothere/../sub/../x", "link/../x", "nothere/.."])
def test_folders_that_a_name_only_passes_are_not_created(out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    other = tmp_path / "other" / "inner"
    other.mkdir(parents=True)
    (tmp_path / "link").symlink_to(other)
    folder = output_folder(out)
    expected = {"link/../x": tmp_path / "other" / "x", "nothere/..": tmp_path}
    assert folder == expected.get(out, tmp_path / "x")
    if folder != tmp_path:
        with staged(folder, overwrite=False) as aside:
            shutil.copytree(FIXTURES / "tagger", aside, dirs_exist_ok=True)
    assert not (tmp_path / "nothere").exists()
