"""The public surface of both packages, whole: what users may rely on from one release to the next.

A change here is a change for users: it belongs into the CHANGELOG.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import subprocess
import sys
import typing
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest

import bilstm_exporter
import bilstm_exporter.errors
import bilstm_runtime
import bilstm_runtime.errors
from bilstm_exporter.cli.export import EXIT_CODES
from bilstm_exporter.options import ExportOptions, ExportSettings
from bilstm_runtime.cli.exit_codes import EXIT_CODES_HELP, ExitCode

ROOT = Path(__file__).parents[1]


def parameters(function: typing.Any) -> dict[str, typing.Any]:
    """Its parameters with their defaults; keyword-only ones begin with ``*``."""
    kinds = {inspect.Parameter.KEYWORD_ONLY: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    return {
        kinds.get(parameter.kind, "") + name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
    }


NO_DEFAULT = inspect.Parameter.empty


# --- names


@pytest.mark.parametrize(
    ("package", "names"),
    [
        (bilstm_exporter, "ExportError ExportOptions ParityError export"),
        (
            bilstm_runtime,
            (
                "BackendMissingError BilstmRuntimeError BundleError BundleVersionError "
                "CheckReport InputError Model check load"
            ),
        ),
    ],
    ids=["exporter", "runtime"],
)
def test_names(package, names):
    public = [name for name in package.__all__ if name != "__version__"]
    assert sorted(public) == names.split()
    assert all(hasattr(package, name) for name in package.__all__)


@pytest.mark.parametrize("package", [bilstm_exporter, bilstm_runtime])
def test_the_first_module_is_short_and_the_package_typed(package):
    folder = Path(package.__file__).parent
    assert len((folder / "__init__.py").read_text(encoding="utf-8").splitlines()) <= 35
    assert (folder / "py.typed").is_file()
    assert package.__version__ == version("bilstm-edge")


# --- the exporter


def test_export():
    assert parameters(bilstm_exporter.export) == {
        "model": NO_DEFAULT,
        "out": None,
        "*progress": None,
        "**options": NO_DEFAULT,
    }


OPTIONS = {
    "formats": ("onnx", "tflite"),
    "target": None,
    "recipes": "float32",
    "data": None,
    "metric": None,
    "max_drop": None,
    "max_kb": None,
    "max_ms": None,
    "batch": None,
    "time": None,
    "opset": 18,
    "custom_objects": {},
    "trust_code": False,
    "weights": None,
    "builder": None,
    "outputs": None,
    "labels": None,
    "threshold": None,
    "crf": None,
    "ctc": None,
    "sample_rate": None,
    "window": None,
    "hop": None,
    "tokenizer": None,
    "max_tokens": None,
    "padding": None,
    "truncating": None,
    "streaming": False,
    "chunk": None,
    "lookahead": None,
    "overwrite": False,
}


def test_the_options_of_export_and_their_defaults():
    assert dataclasses.asdict(ExportOptions()) == OPTIONS
    with pytest.raises(dataclasses.FrozenInstanceError):
        ExportOptions().batch = 3


def test_export_is_typed_with_all_of_its_options():
    """What an editor completes and a type checker accepts is what `ExportOptions` takes."""
    assert typing.get_type_hints(ExportSettings) == typing.get_type_hints(ExportOptions)
    assert not ExportSettings.__required_keys__
    annotation = inspect.signature(bilstm_exporter.export).parameters["options"].annotation
    assert annotation == "Unpack[ExportSettings]"


EXPORT_ERRORS = {
    "ExportError": (Exception, 3),
    "ModelFileError": (ValueError, 3),
    "UntrustedCodeError": (PermissionError, 3),
    "MissingLibraryError": (ImportError, 3),
    "UnknownObjectError": (LookupError, 3),
    "UnsupportedModelError": (NotImplementedError, 3),
    "UnsupportedOperatorError": (NotImplementedError, 3),
    "TargetError": (NotImplementedError, 3),
    "ParityError": (ArithmeticError, 1),
    "OutputFolderError": (OSError, 4),
    "OptionError": (ValueError, 2),
    "DataError": (ValueError, 2),
    "StreamingError": (NotImplementedError, 3),
    "BudgetError": (Exception, 6),
    "KerasContractError": (RuntimeError, 3),
}


def errors_of(module) -> dict[str, type[Exception]]:
    return {
        name: thing
        for name, thing in vars(module).items()
        if inspect.isclass(thing)
        and issubclass(thing, Exception)
        and thing.__module__ == module.__name__
        and thing.__name__ == name  # no alias
    }


def test_the_errors_of_the_exporter():
    found = errors_of(bilstm_exporter.errors)
    assert list(found) == list(EXPORT_ERRORS)
    for name, (builtin, exit_code) in EXPORT_ERRORS.items():
        assert issubclass(found[name], bilstm_exporter.ExportError), name
        assert issubclass(found[name], builtin), name
        assert found[name].exit_code == exit_code, name
    assert bilstm_exporter.ExportError("words").layers == ()
    assert bilstm_exporter.ParityError("words", layers=["lstm"]).layers == ("lstm",)
    assert len({error.code for error in found.values()}) == len(found)
    assert {error.exit_code for error in found.values()} < set(EXIT_CODES)


def test_the_report():
    from bilstm_exporter.report import ArtifactReport, ExportReport

    def names(cls):
        return " ".join(field.name for field in dataclasses.fields(cls))

    assert names(ExportReport) == (
        "bundle model generation artifacts probes_left_out largest_state declared_difference "
        "padding_neutral recommended judged searches left_out seconds spec fixed_by_options "
        "sha256 notes streaming"
    )
    assert names(ArtifactReport) == (
        "file format recipe bytes parity recurrences weights verdict operators missing_in_micro "
        "runtimes silently_wrong_in"
    )


# --- the runtime


def test_load_and_check():
    assert parameters(bilstm_runtime.load) == {
        "path": NO_DEFAULT,
        "*backend": None,
        "*recipe": None,
        "*threads": None,
        "*sha256": None,
    }
    assert parameters(bilstm_runtime.check) == {
        "path": NO_DEFAULT,
        "*backends": None,
        "*sha256": None,
    }


def test_a_model():
    model = bilstm_runtime.load(Path(__file__).parent / "runtime" / "fixtures" / "tagger")
    assert {name for name in dir(model) if not name.startswith("_")} == {
        "answers",
        "backend",
        "classify",
        "classify_windows",
        "close",
        "decode",
        "inputs",
        "is_stateful",
        "name",
        "output_structure",
        "outputs",
        "predict",
        "recipe",
        "reset",
        "restore_stream",
        "run_case",
        "sha256",
        "spans",
        "spec",
        "states",
        "stream",
        "streaming",
        "tag",
        "threads",
        "transcribe",
        "tuned",
    }
    assert parameters(bilstm_runtime.Model.predict) == {
        "self": NO_DEFAULT,
        "x": NO_DEFAULT,
        "*batch_size": None,
        "*progress": None,
    }
    assert parameters(bilstm_runtime.Model.stream) == {
        "self": NO_DEFAULT,
        "*chunk": None,
        "*lookahead": None,
        "*inputs": None,
    }
    assert parameters(bilstm_runtime.Model.reset) == {"self": NO_DEFAULT}
    assert parameters(bilstm_runtime.Model.run_case) == {"self": NO_DEFAULT, "inputs": NO_DEFAULT}


def test_a_check_report():
    fields = {field.name for field in dataclasses.fields(bilstm_runtime.CheckReport)}
    members = {name for name in dir(bilstm_runtime.CheckReport) if not name.startswith("_")}
    assert fields | members == {"name", "checks", "ran", "passed"}


RUNTIME_ERRORS = {
    "BilstmRuntimeError": Exception,
    "BundleError": ValueError,
    "BundleNotFoundError": FileNotFoundError,
    "ManifestError": ValueError,
    "BundleVersionError": ValueError,
    "ChecksumError": ValueError,
    "ArtifactError": ValueError,
    "NoArtifactError": LookupError,
    "GoldenError": ValueError,
    "BackendMissingError": ImportError,
    "MissingPackageError": ImportError,
    "UnknownBackendError": ValueError,
    "DuplicateBackendError": ValueError,
    "OptionError": ValueError,
    "InputError": ValueError,
    "InputTypeError": TypeError,
    "BackendRunError": RuntimeError,
    "ModelClosedError": RuntimeError,
    "StreamStateError": ValueError,
    "DataFileError": ValueError,
    "TuningFileError": Exception,
    "TuningWarning": UserWarning,
    "ChildProcessFailedError": RuntimeError,
    "PeerError": Exception,
}


def test_the_errors_of_the_runtime():
    found = errors_of(bilstm_runtime.errors)
    assert list(found) == list(RUNTIME_ERRORS)
    for name, builtin in RUNTIME_ERRORS.items():
        assert issubclass(found[name], builtin), name
        warning = issubclass(found[name], Warning)
        assert warning or issubclass(found[name], bilstm_runtime.BilstmRuntimeError), name


# --- the commands

FLAGS = {
    "export-bilstm": "batch builder chunk crf ctc custom-objects data debug explain formats hop "
    "html json labels lookahead max-drop max-kb max-ms max-tokens metric opset out outputs "
    "overwrite padding quiet recipes sample-rate streaming target threshold time tokenizer "
    "truncating trust-code weights window",
    "run-bilstm": "backend batch-size beam-width chunk debug hop input input-format lookahead "
    "output quiet raw recipe sha256 spans stream text threads threshold top-k window words",
    "check-bilstm": "backend debug json quiet sha256",
    "bench-bilstm": "against backend batches cold-runs custom-objects debug html json lengths "
    "markdown only output padding quiet recipes rounds seconds seed sha256 soak threads "
    "tune",
}


def commands() -> dict[str, str]:
    """The module of each command, as the project declares them."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    declared = text.partition("[project.scripts]\n")[2].partition("\n[")[0]
    return dict(re.findall(r'^([\w-]+) = "([\w.]+):main"$', declared, re.MULTILINE))


def shown_help(module: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(module).main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    return shown.out


def test_the_commands_are_those_installed():
    assert set(commands()) == set(FLAGS)
    for name, module in commands().items():
        (entry,) = entry_points(group="console_scripts", name=name)
        assert entry.value.endswith(":main")
        assert callable(entry.load())
        assert callable(importlib.import_module(module).main)


@pytest.mark.parametrize("command", FLAGS)
def test_the_flags_of_a_command(command, capsys):
    flags = re.findall(r"(?<![\w-])--([a-z][a-z0-9-]*)", shown_help(commands()[command], capsys))
    assert sorted(set(flags) - {"help", "version"}) == FLAGS[command].split()


def test_the_exit_codes_of_the_export(capsys):
    assert set(EXIT_CODES) == {0, 1, 2, 3, 4, 5, 6, 130, 141, 143}
    shown = shown_help("bilstm_exporter.cli", capsys)
    for code, meaning in EXIT_CODES.items():
        assert re.search(rf"^ +{code} +{re.escape(meaning)}$", shown, re.MULTILINE)


@pytest.mark.parametrize("command", ["run-bilstm", "check-bilstm", "bench-bilstm"])
def test_the_exit_codes_on_the_device(command, capsys):
    assert {code.value: code.name for code in ExitCode} == {
        0: "OK",
        1: "CHECK_FAILED",
        2: "USAGE",
        3: "BUNDLE",
        4: "BACKEND_MISSING",
        130: "INTERRUPTED",
        141: "BROKEN_PIPE",
        143: "TERMINATED",
    }
    assert re.findall(r"^  (\d+) ", EXIT_CODES_HELP, re.MULTILINE) == [
        str(code.value) for code in ExitCode
    ]
    assert EXIT_CODES_HELP in shown_help(commands()[command], capsys)


@pytest.mark.parametrize("command", FLAGS)
def test_an_interrupt_is_reported_from_the_first_line_on(command):
    """numpy takes a tenth of a second to import; no command imports it before it can report one."""
    code = f"import sys, {commands()[command]}; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("False", "")


def test_importing_the_packages_imports_nothing_heavy():
    code = """
import sys
import bilstm_exporter, bilstm_exporter.cli.export, bilstm_exporter.errors, bilstm_runtime
heavy = {"tensorflow", "keras", "tf_keras", "onnx", "onnxruntime", "tf2onnx", "ai_edge_litert"}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
