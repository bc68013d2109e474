"""The bundle's folder: written aside first, then put in place in one rename."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bilstm_exporter.errors import OutputFolderError
from bilstm_runtime.manifest import MANIFEST_FILE


def default_folder(model_file: str, name: str) -> Path:
    """``model-edge`` for ``model.keras``, in the current folder."""
    return Path(f"{Path(model_file).stem or name}-edge")


@contextlib.contextmanager
def staged(folder: Path, *, overwrite: bool) -> Iterator[Path]:
    """A folder beside ``folder`` that takes its place if nothing is raised.

    Args:
        folder: Where the bundle goes.
        overwrite: Whether a bundle that is there may be replaced.

    Raises:
        OutputFolderError: The folder is there already, or cannot be written.
    """
    check_writable(folder, overwrite=overwrite)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        message = f"{folder} cannot be written: {error.strerror or error}"
        raise OutputFolderError(message) from error
    try:
        yield aside
        aside.chmod(0o755)
        _into_place(aside, folder)
    except OSError as error:
        if isinstance(error, OutputFolderError):
            raise
        message = f"{folder} cannot be written: {error.strerror or error}"
        raise OutputFolderError(message) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def check_writable(folder: Path, *, overwrite: bool) -> None:
    """Raise early, before minutes of work.

    Raises:
        OutputFolderError: Something is there that must not be replaced.
    """
    if not folder.exists() and not folder.is_symlink():
        return
    if not folder.is_dir() or folder.is_symlink():
        message = f"{folder} is there already and is no folder: choose another with --out"
        raise OutputFolderError(message)
    is_bundle = (folder / MANIFEST_FILE).is_file() or not any(folder.iterdir())
    if not is_bundle:
        message = f"{folder} is there already and is no bundle: choose another with --out"
        raise OutputFolderError(message)
    if not overwrite:
        message = f"{folder} is there already: replace it with --overwrite, or choose another --out"
        raise OutputFolderError(message)


def _into_place(aside: Path, folder: Path) -> None:
    if not folder.exists():
        aside.rename(folder)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
    folder.rename(old / folder.name)
    try:
        aside.rename(folder)
    except OSError:
        (old / folder.name).rename(folder)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)
