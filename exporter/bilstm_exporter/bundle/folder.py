"""The bundle's folder: written to a temporary folder first, then renamed."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bilstm_exporter.errors import ExportError, OutputFolderError
from bilstm_runtime.bundle.manifest import MANIFEST_FILE

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS})


def planned_folder(
    model: Any, out: str | os.PathLike[str] | None, weights: str | os.PathLike[str] | None = None
) -> Path | None:
    """Return the bundle's folder before the model is read.

    Args:
        model: The model, or the path of its file.
        out: The folder that the user chose.
        weights: The file of weights, which names the folder of a model without a file.

    Returns:
        The folder; None if it depends on the name of the model.
    """
    if out is not None:
        return Path(out)
    file = model if isinstance(model, (str, os.PathLike)) else weights
    if not isinstance(file, (str, os.PathLike)):
        return None
    return default_folder(Path(file).name, "model")


def default_folder(model_file: str, name: str) -> Path:
    """``model-edge`` for ``model.keras``, in the current folder."""
    return Path(f"{Path(model_file).stem or name}-edge")


@contextlib.contextmanager
def staged(folder: Path, *, overwrite: bool) -> Iterator[Path]:
    """A temporary folder beside ``folder``, renamed to ``folder`` unless the body raises.

    Args:
        folder: The bundle's folder.
        overwrite: Whether an existing bundle may be replaced.

    Raises:
        OutputFolderError: The folder already exists, or cannot be written.
    """
    check_writable(folder, overwrite=overwrite)
    # Innermost first: a failed export removes the folders it created.
    created = [parent for parent in folder.parents if not parent.exists()]
    staging = None
    try:
        with _as_output_folder_error(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            yield staging
        except OSError as error:
            if isinstance(error, ExportError) or not _is_in(staging, error):
                raise
            raise _unwritable(folder, error) from error
        with _as_output_folder_error(folder):
            staging.chmod(0o755)
            _move_into_place(staging, folder)
    finally:
        if staging is not None:
            _remove(staging)
        if not folder.exists():
            with contextlib.suppress(OSError):
                for parent in created:
                    parent.rmdir()


def check_writable(folder: Path, *, overwrite: bool) -> None:
    """Raise before minutes of work if the folder cannot be used.

    Raises:
        OutputFolderError: Something exists there that must not be replaced, or nothing can be
            created beside it.
    """
    try:
        _check_existing(folder, overwrite=overwrite)
    except OSError as error:  # a name that is too long, a parent without permission
        if isinstance(error, OutputFolderError):
            raise
        raise _unwritable(folder, error) from error
    check_creatable(folder)


def check_creatable(folder: Path) -> None:
    """Raise if nothing can be created beside a folder.

    Raises:
        OutputFolderError: There is no permission, the file system is read-only or full, or the
            name is too long.
    """
    with _as_output_folder_error(folder):
        parent = next(path for path in folder.absolute().parents if path.exists())
        # Permissions do not tell all: the way to know is to try.
        Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=parent)).rmdir()


@contextlib.contextmanager
def _as_output_folder_error(folder: Path) -> Iterator[None]:
    """Raise every OSError as an OutputFolderError of this folder."""
    try:
        yield
    except OSError as error:
        raise _unwritable(folder, error) from error


def _is_in(staging: Path, error: OSError) -> bool:
    """Whether an error comes from writing to the staging folder, not from reading another file."""
    if error.filename is None:  # a write to an open file failed
        return error.errno in _FULL
    path = Path(os.fsdecode(error.filename)).absolute()
    return staging.absolute() in (path, *path.parents)


def _unwritable(folder: Path, error: OSError) -> OutputFolderError:
    return OutputFolderError(f"{folder} cannot be written: {error.strerror or error}")


def _check_existing(folder: Path, *, overwrite: bool) -> None:
    if not folder.exists() and not folder.is_symlink():
        return
    if not folder.is_dir() or folder.is_symlink():
        message = f"{folder} already exists and is not a folder: choose another with --out"
        raise OutputFolderError(message)
    if not any(folder.iterdir()):
        return
    if not (folder / MANIFEST_FILE).is_file():
        message = f"{folder} already exists and is not a bundle: choose another with --out"
        raise OutputFolderError(message)
    if not overwrite:
        message = f"{folder} already exists: replace it with --overwrite, or choose another --out"
        raise OutputFolderError(message)


def _move_into_place(staging: Path, folder: Path) -> None:
    if not folder.exists():
        staging.rename(folder)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
    try:
        folder.rename(old / folder.name)
        staging.rename(folder)
    except BaseException:  # an interrupt too must not lose the bundle that was there
        if not folder.exists() and (old / folder.name).exists():
            (old / folder.name).rename(folder)
        raise
    finally:
        _remove(old)


def _remove(folder: Path) -> None:
    """Remove a folder, even if the user presses Ctrl-C again meanwhile."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except KeyboardInterrupt:
        shutil.rmtree(folder, ignore_errors=True)
        raise
