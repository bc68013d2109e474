"""The golden cases of bundles on 64-bit ARM, emulated by qemu: check-bilstm with public wheels.

    python benchmarks/aarch64.py WORK BUNDLE...

puts into the folder WORK, unless they are there: qemu and Python for arm64 from Debian's packages
(with `apt-get` in folders of its own, so that the system is not changed), and the wheels of numpy,
onnxruntime and ai-edge-litert for aarch64 from PyPI. Then it runs check-bilstm on every bundle as
several processors, and prints a table. The exit code is 1 if a file that ran disagrees. It needs
Debian on x86-64; the first run takes some minutes. The packages are those of Debian 13: with the
qemu 7.2 of Debian 12, onnxruntime 1.32 crashes when it is loaded.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

RUNTIME: Final = Path(__file__).resolve().parents[1] / "runtime"
PROCESSORS: Final = ("cortex-a72", "neoverse-n1", "max")
"""A Raspberry Pi 4; dot products of int8; everything that qemu has, SVE and matrix products too."""

WHEELS: Final = ("numpy", "onnxruntime", "ai-edge-litert")
PLATFORMS: Final = tuple(f"manylinux_2_{minor}_aarch64" for minor in range(17, 40))
SUITE: Final = "trixie"
"""The release of Debian: qemu 10 and Python 3.13."""

_TIMEOUT: Final = 1800


def unpack(work: Path, architecture: str, packages: Sequence[str]) -> Path:
    """Unpack Debian packages with all they need; returns the folder that holds `usr`."""
    system = work / f"system-{architecture}"
    if system.is_dir():
        return system
    apt = work / f"apt-{architecture}"
    for name in ("state/lists/partial", "cache/archives/partial", "sources"):
        (apt / name).mkdir(parents=True, exist_ok=True)
    (apt / "status").touch()
    release = Path("/etc/os-release").read_text(encoding="utf-8")
    codename = release.partition("VERSION_CODENAME=")[2].partition("\n")[0]
    for file in Path("/etc/apt").glob("sources.list*/debian*"):
        text = file.read_text(encoding="utf-8").replace(codename, SUITE)
        (apt / "sources" / file.name).write_text(text, encoding="utf-8")
    settings = {
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "APT::Sandbox::User": "root",
        "Dir::State": apt / "state",
        "Dir::State::status": apt / "status",
        "Dir::Cache": apt / "cache",
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": apt / "sources",
    }
    command = ["apt-get", "-qq", *(f"-o{key}={value}" for key, value in settings.items())]
    run([*command, "update"])
    run([*command, "install", "--download-only", "--no-install-recommends", "-y", *packages])
    partial = system.with_suffix(".partial")
    # Debian's base-files makes /lib a link to /usr/lib; other packages come after it.
    (partial / "usr" / "lib").mkdir(parents=True)
    (partial / "lib").symlink_to("usr/lib")
    for package in sorted((apt / "cache" / "archives").glob("*.deb")):
        run(["dpkg-deb", "-x", package, partial])
    partial.rename(system)
    return system


def prepare_wheels(work: Path, version: str) -> Path:
    """Unpack the wheels for aarch64 and that version of Python; returns their folder."""
    folder = work / f"wheels-{version}"
    if not folder.is_dir():
        platforms = [f"--platform={name}" for name in (*PLATFORMS, "manylinux2014_aarch64")]
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--only-binary=:all:", *platforms,
             f"--python-version={version}", "--implementation=cp", f"--target={partial}", *WHEELS]
        )  # fmt: skip
        partial.rename(folder)
    return folder


def run(command: list[str | Path]) -> None:
    """Run a command; its output is shown."""
    subprocess.run(list(map(str, command)), check=True)


def python_of(system: Path) -> tuple[Path, str]:
    """The interpreter of the unpacked system, and its version, such as "3.11"."""
    found = (system / "usr" / "bin").glob("python3.*")
    binary = next(path for path in sorted(found) if path.name.removeprefix("python3.").isdigit())
    return binary, binary.name.removeprefix("python")


def checked(
    emulator: Path, processor: str, system: Path, wheels: Path, bundle: Path
) -> dict[str, Any]:
    """Run check-bilstm on one bundle as one processor; returns its report as JSON."""
    binary, _ = python_of(system)
    command = [emulator, "-cpu", processor, "-L", system, binary]
    arguments = ["-m", "bilstm_runtime.cli.check", bundle.absolute(), "--json"]
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{RUNTIME}{os.pathsep}{wheels}",
        "PYTHONHOME": str(system / "usr"),
        "OMP_NUM_THREADS": "1",
    }
    result = subprocess.run(
        list(map(str, [*command, *arguments])),
        env=environment,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT,
        check=False,
    )
    try:
        report: dict[str, Any] = json.loads(result.stdout)
    except ValueError:
        message = (
            f"{bundle} as {processor}: no report (exit code {result.returncode})\n"
            f"{result.stderr[-2000:]}"
        )
        raise SystemExit(message) from None
    return report


def main() -> int:
    """Run the checks, and print a line for each file, backend and processor."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("work", type=Path, help="folder for Python and the wheels of arm64")
    parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE")
    parser.add_argument("--cpu", action="append", help="a processor that qemu knows")
    options = parser.parse_args()
    work = options.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    emulator = unpack(work, "amd64", ["qemu-user"]) / "usr" / "bin" / "qemu-aarch64"
    system = unpack(work, "arm64", ["python3", "libstdc++6", "libgomp1"])
    wheels = prepare_wheels(work, python_of(system)[1])
    failed = ran = 0
    for processor in options.cpu or PROCESSORS:
        for bundle in options.bundles:
            for check in checked(emulator, processor, system, wheels, bundle)["checks"]:
                state = {True: "pass", False: "FAIL", None: "not run"}[check["passed"]]
                share = check["max_error_ratio"]
                shown = "" if share is None else f"{share:8.4f} of the allowed error"
                row = f"{processor:12} {bundle.name:20} {check['file']:24} {check['backend']:7}"
                print(row, f"{state:8} {shown} {check['reason']}".rstrip(), flush=True)
                failed += check["passed"] is False
                ran += check["passed"] is not None
    versions = sorted(path.name.removesuffix(".dist-info") for path in wheels.glob("*.dist-info"))
    print(f"{ran} checks, {failed} failed; {', '.join(versions)}")
    return 1 if failed or not ran else 0


if __name__ == "__main__":
    sys.exit(main())
