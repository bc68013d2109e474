"""Options and output folders that cannot be used: one clear line, and nothing is lost."""

from __future__ import annotations

import errno
import os
import tempfile

import pytest
from keras import layers as kl

from bilstm_exporter import pipeline
from bilstm_exporter.cli.export import main
from bilstm_exporter.evaluation.reasons import NO_DATA
from exporter.models import floats

PARITY, OPTION, FOLDER = 1, 2, 4


# --- options


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--formats", "nonsense"), "nonsense; choose from onnx, tflite"),
        (("--formats", "onnx,nonsense"), "nonsense; choose from onnx, tflite"),
        (("--formats", ""), "choose from onnx, tflite"),
        (("--formats", "onnx,onnx"), "twice"),
        (("--batch", "0"), "at least 1"),
        (("--batch", "-3"), "at least 1"),
        (("--time", "0"), "at least 1"),
        (("--opset", "7"), "13 to 18"),
        (("--opset", "99"), "13 to 18"),
        (("--target", "raspberry"), "or leave it out for a PC, a phone or a Raspberry Pi"),
    ],
)
def test_options_that_cannot_be_used(fails, saved, arguments, words):
    message = fails(OPTION, saved("lstm"), *arguments)
    assert words in message
    assert arguments[0].removeprefix("--") in message


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--batch=x", "invalid int value: 'x'"),
        ("--opset=1.5", "invalid int value"),
        ("--no-such-flag", "there is no option --no-such-flag"),
        ("--recipies=int8", "there is no option --recipies; did you mean '--recipes'?"),
    ],
)
def test_options_that_are_none(run, saved, argument, words, capsys):
    with pytest.raises(SystemExit) as ended:
        run(saved("lstm"), argument)
    assert ended.value.code == OPTION
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("export-bilstm: error: ")
    assert words in line


def test_help_has_at_most_80_columns_and_whole_words(run, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        run("--help")
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert any("transitions=LAYER[/WEIGHT]" in line for line in lines)


@pytest.mark.parametrize(
    ("objects", "words"),
    [
        ("my_layers:Atention", "my_layers has no 'Atention'; did you mean 'Attention'?"),
        ("code/my_layers.py:Attention", "not a file: code.my_layers:Attention"),
    ],
)
def test_custom_objects_that_are_misspelled(fails, saved, here, objects, words):
    (here / "my_layers.py").write_text("class Attention: pass\n")
    assert words in fails(OPTION, saved("lstm"), "--custom-objects", objects)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--outputs", "lable"), "there is no layer 'lable' in the model; did you mean 'label'?"),
        (("--outputs", "zzz"), "there is no layer 'zzz' in the model; its layers are lstm"),
        (("--tokenizer", "ids.json"), "no input of the model takes ids"),
    ],
)
def test_names_that_the_model_does_not_have(fails, saved, here, arguments, words):
    (here / "ids.json").write_text('{"so": 1, "good": 2}')
    assert words in fails(OPTION, saved("lstm"), *arguments)


BAD_DATA = {
    "missing": (None, "cannot be read: No such file"),
    "empty": (b"", "is empty"),
    "not numpy": (b"1,2,3", "not written by numpy"),
}


@pytest.mark.parametrize("case", BAD_DATA)
@pytest.mark.parametrize("explain", [[], ["--explain"]])
def test_bad_data_is_found_before_the_model_is_read(fails, here, monkeypatch, case, explain):
    content, words = BAD_DATA[case]
    if content is not None:
        (here / "d.npz").write_bytes(content)
    monkeypatch.setattr(pipeline, "read", None)
    message = fails(OPTION, "m.keras", "--data", "d.npz", *explain)
    assert words in message
    assert "d.npz" in message


@pytest.mark.parametrize("metric", ["wer", "out=wer", "f1,out=wer"])
def test_an_unknown_metric_is_found_before_the_model_is_read(fails, monkeypatch, metric):
    monkeypatch.setattr(pipeline, "read", None)
    assert "wer'; give one of accuracy, f1, mae, rmse" in fails(OPTION, "m", "--metric", metric)


@pytest.mark.parametrize("option", [[], ["--max-drop", "1%"], ["--explain"]])
def test_a_metric_needs_data(fails, monkeypatch, option):
    monkeypatch.setattr(pipeline, "read", None)
    message = fails(OPTION, "m", "--metric", "f1", *option)
    assert "metric: 'f1' needs examples with labels; give them with --data" in message


@pytest.mark.parametrize(
    ("content", "metric", "words"),
    [
        ('{"other": [[1, 2, 3]], "y": 0}', "f1", "the keys are other, y; expected"),
        ('{"x": [[1, 2, 3]], "label": 0}', "f1", "labels are named y, or y_OUTPUT: rename"),
        ('{"x": [[1, 2, 3]], "y": 0}', "nothing=f1", "nothing=f1'; give one of"),
        ('{"x": [[1, 2, 3]], "y": "de"}', "f1", "'de' is not a number; the label of a class"),
        ('{"x": [[1, 2, 3]]}', "f1", "needs labels; the data has none"),
        ('{"x": [[1, 2]], "y": 0}', "f1", "the shape [1, 2], expected [time, 3]: size 2"),
        ('{"x": [1, 2, 3], "y": 0}', "f1", "the shape [3], expected [time, 3]"),
        ('{"x": [["a", "b", "c"]], "y": 0}', "f1", "holds <U1 values"),
    ],
)
def test_data_for_another_model_is_found_before_keras_is_called(
    fails, saved, here, monkeypatch, content, metric, words
):
    (here / "d.jsonl").write_text(content)
    monkeypatch.setattr(pipeline, "inspect_model", None)
    assert words in fails(OPTION, saved("lstm"), "--data", "d.jsonl", "--metric", metric)


@pytest.mark.parametrize("out", [[], ["--out", "a/b/out"]])
def test_a_folder_that_cannot_be_made_is_found_before_the_model_is_read(fails, monkeypatch, out):
    """The file system may be read-only, which permissions do not tell."""

    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(pipeline, "read", None)
    monkeypatch.setattr("bilstm_exporter.bundle.folder.tempfile.mkdtemp", refuse)
    assert "cannot be written: Read-only file system" in fails(FOLDER, "m.keras", *out)
    assert "cannot be written" in fails(FOLDER, "--builder", "a:b", *out)


def test_a_read_only_folder_is_found_before_the_model_is_read(fails, here, monkeypatch):
    def refuse_inside(*, dir, **names):  # noqa: A002 - as in tempfile
        if dir == here / "out":
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(dir=dir, **names)

    real = tempfile.mkdtemp
    (here / "out").mkdir()
    monkeypatch.setattr(pipeline, "read", None)
    monkeypatch.setattr("bilstm_exporter.bundle.folder.tempfile.mkdtemp", refuse_inside)
    message = fails(FOLDER, "m.keras", "--out", here / "out")
    assert "cannot be written: Permission denied" in message


def test_the_default_folder_is_checked_before_the_model_is_read(fails, here, monkeypatch):
    monkeypatch.setattr(pipeline, "read", None)
    (here / "m-edge").mkdir()
    (here / "m-edge" / "manifest.json").write_text("{}")
    assert "m-edge already exists" in fails(FOLDER, here / "m.keras")


def test_a_page_that_cannot_be_written_is_found_before_the_model_is_read(fails, monkeypatch):
    monkeypatch.setattr(pipeline, "read", None)
    message = fails(OPTION, "m.keras", "--streaming", "--html", "missing/page.html")
    assert "html: missing/page.html cannot be written: there is no folder" in message


@pytest.mark.usefixtures("here")
def test_that_a_page_has_no_curves_is_said_first(monkeypatch, capsys):
    monkeypatch.setattr("bilstm_exporter.cli.delay_page.plots_are_available", lambda: False)
    main(["m.keras", "--streaming", "--html", "page.html"])
    first, *_ = capsys.readouterr().err.splitlines()
    assert first.startswith("export-bilstm: the page has no plots: matplotlib")


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("options", [[], ["--json"], ["--quiet"]])
def test_a_search_without_data_says_first_what_is_not_known(capsys, options):
    main(["m.keras", "--max-kb", "900", *options])
    *said, _error = capsys.readouterr().err.splitlines()
    assert said[:1] == ([] if "--quiet" in options else [NO_DATA])


def test_no_model_at_all(fails):
    assert "no model" in fails(OPTION)


@pytest.mark.parametrize(
    ("build", "arguments", "words"),
    [
        (lambda: floats(kl.Conv1D(2, 5), kl.LSTM(2)), ("--time", "4"), "at least 5"),
        (lambda: floats(kl.LSTM(2), shape=(6, 3)), ("--time", "5"), "fixed at 6"),
        (lambda: floats(kl.Dense(2), shape=(3,)), ("--time", "5"), "no time axis"),
    ],
)
def test_an_axis_that_cannot_be_fixed_so(fails, tmp_path, build, arguments, words):
    build().save(tmp_path / "m.keras")
    assert words in fails(OPTION, "m.keras", *arguments)


# --- the output folder


def test_a_folder_that_is_not_a_bundle_is_never_replaced(fails, saved, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("my only copy")
    for arguments in ((), ("--overwrite",)):
        message = fails(FOLDER, saved("lstm"), "--out", "out", *arguments)
        assert "is not a bundle" in message
        assert "--out" in message


@pytest.mark.parametrize("out", [".", "../here", "./"])
def test_the_current_folder(fails, saved, tmp_path, monkeypatch, out):
    """Before the model is read, empty or not: the user would stand in a folder that is gone."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert "is the current folder" in fails(4, saved, "--out", out)


def test_a_file_in_the_way(fails, saved, tmp_path):
    (tmp_path / "out").write_text("x")
    for arguments in ((), ("--overwrite",)):
        assert "is not a folder" in fails(FOLDER, saved("lstm"), "--out", "out", *arguments)


def test_a_link_in_the_way(fails, saved, tmp_path):
    (tmp_path / "out").symlink_to("nowhere")
    assert "out" in fails(FOLDER, saved("lstm"), "--out", "out", "--overwrite")


@pytest.mark.slow
def test_a_bundle_is_replaced_only_if_asked(run, fails, saved, tmp_path):
    arguments = (saved("lstm"), "--out", "out", "--formats", "onnx", "--quiet")
    assert run(*arguments).code == 0
    (tmp_path / "out" / "golden.npz").write_bytes(b"changed")
    (tmp_path / "out" / "model.tflite").write_bytes(b"a file of the user")
    message = fails(FOLDER, *arguments)
    assert "--overwrite" in message
    assert run(*arguments, "--overwrite").code == 0
    names = sorted(path.name for path in tmp_path.rglob("*"))
    assert names == ["golden.npz", "manifest.json", "model.onnx", "model.tflite", "out"]
    assert (tmp_path / "out" / "model.tflite").read_bytes() == b"a file of the user"
    assert (tmp_path / "out" / "golden.npz").read_bytes() != b"changed"


@pytest.mark.slow
def test_a_failed_export_leaves_the_bundle_that_was_there(run, fails, saved, make_wrong):
    arguments = (saved("lstm"), "--out", "out", "--formats", "onnx", "--overwrite", "--quiet")
    assert run(*arguments).code == 0
    make_wrong("onnx")
    fails(PARITY, *arguments)  # which compares the folder before and after


@pytest.mark.slow
def test_an_empty_folder_can_be_filled(run, saved, tmp_path):
    (tmp_path / "out").mkdir()
    arguments = (saved("lstm"), "--out", "out", "--formats", "onnx", "--quiet", "--overwrite")
    assert run(*arguments).code == 0


def test_a_name_too_long(fails, saved):
    assert "too long" in fails(FOLDER, saved("lstm"), "--out", "x" * 300)


def test_a_parent_that_is_a_file(fails, saved, tmp_path):
    (tmp_path / "file").write_text("x")
    assert "file/out" in fails(FOLDER, saved("lstm"), "--out", "file/out")


def test_a_folder_that_no_one_can_make(fails, saved):
    assert "/proc/out" in fails(FOLDER, saved("lstm"), "--out", "/proc/out")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(fails, saved, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    assert "locked/out" in fails(FOLDER, saved("lstm"), "--out", "locked/out")


def test_folders_made_on_the_way_are_removed_again(fails, tmp_path):
    floats(kl.Conv1D(2, 5), kl.LSTM(2)).save(tmp_path / "m.keras")
    fails(OPTION, "m.keras", "--out", "new/deeper/out", "--time", "4")


@pytest.mark.slow
def test_folders_on_the_way_are_made(run, saved, tmp_path):
    arguments = ("--out", "new/deeper/out", "--formats", "onnx", "--quiet")
    assert run(saved("lstm"), *arguments).code == 0
    assert (tmp_path / "new" / "deeper" / "out" / "manifest.json").is_file()
