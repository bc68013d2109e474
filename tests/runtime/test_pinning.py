"""A bundle that somebody else wrote: its SHA-256, and its signature."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from bilstm_bench.cli import main as bench
from bilstm_runtime import check
from bilstm_runtime.cli.check import main as check_bilstm
from bilstm_runtime.cli.run import main as run_bilstm
from bilstm_runtime.errors import ChecksumError

WRONG = "0" * 64


def digest_of(folder):
    return hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()


@pytest.mark.parametrize("command", [run_bilstm, check_bilstm, bench])
def test_every_command_opens_the_pinned_bundle_only(fixtures, command, capsys, tmp_path):
    more = []
    if command is run_bilstm:
        (tmp_path / "in.jsonl").write_text("[[1, 2, 3, 4]]\n")
        more = ["--input", str(tmp_path / "in.jsonl")]
    elif command is bench:
        more = ["--only", "latency", "--rounds", "1", "--seconds", "0", "--lengths", "2", "--json"]
    bundle = [str(fixtures / "classifier"), *more]
    assert command([*bundle, "--sha256", WRONG]) == 3
    assert "not the bundle that was asked for" in capsys.readouterr().err
    assert command([*bundle, "--sha256", "abc"]) == 2
    if command is not bench:
        assert command([*bundle, "--sha256", digest_of(fixtures / "classifier")]) == 0


def test_check_takes_a_digest(fixtures):
    folder = fixtures / "classifier"
    assert check(folder, sha256=digest_of(folder)).passed
    with pytest.raises(ChecksumError):
        check(folder, sha256=WRONG)


def signed(*arguments):
    command = [sys.executable, "-m", "model_signing", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.slow
def test_a_signature_of_model_signing(bundle, tmp_path):
    """The commands of SECURITY.md: any change to the folder breaks the signature."""
    pytest.importorskip("model_signing")
    ec = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ec")
    from cryptography.hazmat.primitives import serialization

    key = ec.generate_private_key(ec.SECP256R1())
    private, public = tmp_path / "key.pem", tmp_path / "pub.pem"
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    public.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    folder, signature = bundle(), tmp_path / "model-edge.sig"
    done = signed("sign", "key", folder, "--private_key", private, "--signature", signature)
    assert done.returncode == 0, done.stderr
    verify = ("verify", "key", folder, "--public_key", public, "--signature", signature)
    assert signed(*verify).returncode == 0
    manifest = Path(folder) / "manifest.json"
    whole = manifest.read_text()
    manifest.write_text(json.dumps(json.loads(whole) | {"name": "other"}))
    assert signed(*verify).returncode != 0
    manifest.write_text(whole)
    (Path(folder) / "added").write_text("")
    assert signed(*verify).returncode != 0
