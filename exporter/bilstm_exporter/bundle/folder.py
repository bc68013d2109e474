"""The bundle's folder: written aside first, then put in place in one rename."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bilstm_exporter.errors import ExportError, OutputFolderError
from bilstm_runtime.bundle.manifest import MANIFEST_FILE

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS})


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
    # Innermost first: a failed export takes away the folders that were made for it.
    made = [parent for parent in folder.parents if not parent.exists()]
    aside = None
    try:
        with _told(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            yield aside
        except OSError as error:
            if isinstance(error, ExportError) or not _is_in(aside, error):
                raise
            raise _unwritable(folder, error) from error
        with _told(folder):
            aside.chmod(0o755)
            _into_place(aside, folder)
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)
        if not folder.exists():
            with contextlib.suppress(OSError):
                for parent in made:
                    parent.rmdir()


def check_writable(folder: Path, *, overwrite: bool) -> None:
    """Raise early, before minutes of work.

    Raises:
        OutputFolderError: Something is there that must not be replaced.
    """
    try:
        _refuse_what_is_there(folder, overwrite=overwrite)
    except OSError as error:  # a name too long, a parent that may not be searched
        if isinstance(error, OutputFolderError):
            raise
        raise _unwritable(folder, error) from error


@contextlib.contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Say of every failure that the folder cannot be written."""
    try:
        yield
    except OSError as error:
        raise _unwritable(folder, error) from error


def _is_in(aside: Path, error: OSError) -> bool:
    """Whether a failure is that of writing there, and not of some file read on the way."""
    if error.filename is None:  # where a file that is open cannot take any more
        return error.errno in _FULL
    path = Path(os.fsdecode(error.filename)).absolute()
    return aside.absolute() in (path, *path.parents)


def _unwritable(folder: Path, error: OSError) -> OutputFolderError:
    return OutputFolderError(f"{folder} cannot be written: {error.strerror or error}")


def _refuse_what_is_there(folder: Path, *, overwrite: bool) -> None:
    if not folder.exists() and not folder.is_symlink():
        return
    if not folder.is_dir() or folder.is_symlink():
        message = f"{folder} is there already and is no folder: choose another with --out"
        raise OutputFolderError(message)
    if not any(folder.iterdir()):
        return
    if not (folder / MANIFEST_FILE).is_file():
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
