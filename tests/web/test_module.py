"""The ES module by itself: its own tests under Node, its cases, its types and its package."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from .make_cases import FILE, as_text

ROOT = Path(__file__).parents[2]
WEB = ROOT / "web"
PACKAGE = json.loads((WEB / "package.json").read_text(encoding="utf-8"))


def run(*command: str | Path, cwd: Path = WEB) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, command)), cwd=cwd, capture_output=True, text=True, timeout=300, check=False
    )


def test_the_cases_are_those_of_the_python_runtime():
    """python tests/web/make_cases.py writes them."""
    assert FILE.read_text(encoding="utf-8") == as_text()


@pytest.mark.slow
def test_the_modules_own_tests_pass(node):
    files = sorted((WEB / "test").glob("*.test.js"))
    result = run(node, "--test", *files)
    assert result.returncode == 0, result.stdout[-6000:]
    assert int(re.search(r"# pass (\d+)", result.stdout).group(1)) > 100
    assert {file.name for file in files} <= set(
        re.findall(r"[\w.]+\.js", PACKAGE["scripts"]["test"])
    )


def test_the_package_is_of_the_projects_version_and_names_files_that_exist():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'version = "{PACKAGE["version"]}"' in project
    named = [PACKAGE["types"], *PACKAGE["files"]]
    for target in PACKAGE["exports"].values():
        named += target.values() if isinstance(target, dict) else [target]
    assert not [name for name in named if not (WEB / name).exists()]


def test_no_module_imports_from_outside_its_folder():
    """So that the folder can be copied to a web server as it is; the example page too."""
    for file in [*WEB.glob("*.js"), *WEB.glob("lib/*.js"), *WEB.glob("example/*.js")]:
        text = file.read_text(encoding="utf-8")
        for target in re.findall(r'(?:from|import)\s*\(?\s*"([^"]+)"', text):
            is_tool = file.name == "prepare.js" and target.startswith("node:")
            assert target.startswith(("./", "../")) or is_tool, (file.name, target)
            if not target.startswith("./ort/") and not is_tool:
                assert (file.parent / target).is_file(), (file.name, target)


def test_pages_name_no_other_address():
    for file in [*WEB.glob("*.js"), *WEB.glob("lib/*.js"), *WEB.glob("example/*.*")]:
        if file.is_file():
            text = file.read_text(encoding="utf-8")
            found = set(re.findall(r"https?://[^\s\"'`)]+", text))
            assert found <= {"http://localhost:8000/example/", "http://www.w3.org/2000/svg"}, file


TYPED = """
import * as ort from "onnxruntime-web";
import { CharacterNgrams, InputError, NdArray, load, openBundle, type Output } from "bilstm-edge";
import { check, readExamples } from "bilstm-edge/files";

const bundle = await openBundle("model-edge/", { sha256: "00" });
const model = await load(bundle, { ort, recipe: bundle.recipes[0] });
const y: NdArray = await model.predict(["so good", "bad"], { batchSize: 4 });
const both = await model.predict<{ [name: string]: Output }>({
  ids: [[1, 2], [3]],
  extra: new NdArray("float32", [2, 3], new Float32Array(6)),
});
const x = await readExamples("x.csv", new Uint8Array(), model.inputs);
const seen: number[][] = [];
await model.predict(x, { progress: (done, count) => seen.push([done, count]) });
const { passed, ratio } = await check(model);
console.log(y.argmax().toArray(), both["label"], passed, ratio, model.inputs[0].axes[0].name);
const [[best]] = await model.classify(["so good"], { topK: 2 });
const [spans] = await model.spans(["so good"], { output: "tags" });
const [decoding] = model.manifest.decoding;
const scorer = new CharacterNgrams(decoding.labels, ["so good"], { order: 2 });
const texts = [await model.transcribe(x, { words: ["so"] }), await model.transcribe(x, { scorer })];
const [[tag]] = await model.tag(x, { marginals: true });
const [[first]] = await model.classifyWindows(new Float32Array(9), { window: 4, hop: 2 });
const all = await model.decode(x, { spans: true, words: ["so"] });
console.log(first.start, Object.keys(all));
console.log(texts.flat().length, tag.score);
console.log(best.label, spans.map(({ text, score }) => `${text} ${score}`));
try {
  await model.reset();
} catch (error) {
  if (error instanceof InputError) console.log(error.message);
}
// @ts-expect-error: onnxruntime is missing
await load("model-edge/", {});
// @ts-expect-error: no such dtype
new NdArray("complex64", [1], new Float32Array(1));
"""


@pytest.mark.slow
def test_the_types_hold_in_typescript(node, onnxruntime_web, tmp_path):
    compiler = WEB / "node_modules" / "typescript" / "bin" / "tsc"
    if not compiler.is_file():
        pytest.skip("typescript is not installed: run npm install in web/")
    modules = tmp_path / "node_modules"
    modules.mkdir()
    (modules / "bilstm-edge").symlink_to(WEB)
    for name in ("onnxruntime-web", "onnxruntime-common"):
        (modules / name).symlink_to(onnxruntime_web.parent / name)
    (tmp_path / "typed.mts").write_text(TYPED, encoding="utf-8")
    options = "--noEmit --strict --skipLibCheck --module nodenext --target es2022".split()
    result = run(node, compiler, *options, "typed.mts", cwd=tmp_path)
    assert result.returncode == 0, result.stdout


@pytest.mark.slow
def test_the_published_package_holds_what_it_needs(node, tmp_path):
    """The files that npm would publish, used from another project by the name of the package."""
    installed = tmp_path / "node_modules" / "bilstm-edge"
    installed.mkdir(parents=True)
    for name in [*PACKAGE["files"], "package.json"]:
        source = WEB / name
        files = source.rglob("*") if source.is_dir() else [source]
        for file in filter(Path.is_file, files):
            target = installed / file.relative_to(WEB)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    program = (
        'import { load } from "bilstm-edge"; import { check } from "bilstm-edge/files";'
        "console.log(typeof load, typeof check);"
    )
    (tmp_path / "main.mjs").write_text(program, encoding="utf-8")
    result = run(node, "main.mjs", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (0, "function function\n"), result.stderr


@pytest.mark.slow
def test_the_sample_of_the_docs_prints_a_prediction(node, onnxruntime_web, bundles, tmp_path):
    modules = tmp_path / "node_modules"
    modules.mkdir()
    (modules / "bilstm-edge").symlink_to(WEB)
    (modules / "onnxruntime-web").symlink_to(onnxruntime_web)
    source = ROOT / "examples" / "devices" / "browser" / "predict.js"
    (tmp_path / "predict.mjs").write_bytes(source.read_bytes())
    result = run(node, "predict.mjs", bundles / "speaker", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    name, prediction, error = result.stdout.strip().split("\n")[:3]
    assert name == "japanese_vowels float32 [ 'batch', 'time', 12 ]"
    assert prediction.startswith("[ 2, 9 ] [")
    assert error.startswith("input 'cepstra', example 0")
