"""The bundle's folder: written to a temporary folder first, then exchanged with the old one.

The temporary folder stands beside the bundle's and holds `MARKER`, which stays locked while the
export lives. If the export is killed, the lock ends, and the next export to the same folder removes
what is left. The new bundle and the old one change places in one step where the system has such a
call. Where it has none, the old one is renamed first; if the export is killed between the two
renames, the next one puts it back.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from bilstm_exporter.errors import ExportError, OptionError, OutputFolderError
from bilstm_runtime.bundle.folder import open_bundle
from bilstm_runtime.bundle.manifest import MANIFEST_FILE
from bilstm_runtime.errors import BundleError, BundleVersionError

if sys.platform != "win32":
    import fcntl

MARKER = "bilstm-edge-export"
"""The file that marks a temporary folder as one of an export."""

_SUFFIX = ".export"
"""How the names of temporary folders end."""

_SWAP, _HERE = 2, -100
"""RENAME_EXCHANGE and AT_FDCWD of Linux; macOS has the same number for RENAME_SWAP."""

_NEW, _OLD = "new", "old"
"""The folders in a temporary folder: the bundle being written, and the one that it replaces."""

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
        return output_folder(out)
    file = model if isinstance(model, (str, os.PathLike)) else weights
    if not isinstance(file, (str, os.PathLike)):
        return None
    return default_folder(Path(file).name, "model")


def default_folder(model_file: str, name: str) -> Path:
    """``model-edge`` for ``model.keras``, in the current folder."""
    return Path(f"{Path(model_file).stem or name}-edge")


def output_folder(out: str | os.PathLike[str]) -> Path:
    """Return the folder that a user named for the bundle.

    ``..`` is resolved, so that ``nothere/../x`` creates no folder ``nothere``.

    Raises:
        OptionError: The name is empty.
    """
    if not os.fspath(out):
        message = "the output folder (--out) has an empty name; give a name, or leave --out away"
        raise OptionError(message)
    folder = Path(out)
    if ".." not in folder.parts:
        return folder
    # realpath does not fail for links that lead to each other, unlike resolve before Python 3.13.
    if folder.name == "..":
        return Path(os.path.realpath(folder))
    return Path(os.path.realpath(folder.parent)) / folder.name


@contextlib.contextmanager
def staged(folder: Path, *, overwrite: bool) -> Iterator[Path]:
    """A temporary folder that takes the place of ``folder`` unless the body raises.

    Of a bundle that is replaced, the files that its manifest names are deleted. Others stay.

    Args:
        folder: The bundle's folder.
        overwrite: Whether an existing bundle may be replaced.

    Raises:
        OutputFolderError: The folder already exists, or cannot be written.
    """
    with contextlib.suppress(OSError):
        _collect_leftovers(folder)
    check_writable(folder, overwrite=overwrite)
    # Innermost first: a failed export removes the folders it created.
    created = [parent for parent in folder.parents if not parent.exists()]
    try:
        with contextlib.ExitStack() as stack:
            with _as_output_folder_error(folder):
                folder.parent.mkdir(parents=True, exist_ok=True)
                workspace = stack.enter_context(_workspace(folder))
                staging = workspace / _NEW
                staging.mkdir()
            try:
                yield staging
            except OSError as error:
                if isinstance(error, ExportError) or not _is_in(staging, error):
                    raise
                raise _unwritable(folder, error) from error
            with _as_output_folder_error(folder):
                _check_existing(folder, overwrite=overwrite)
                _move_into_place(workspace, folder)
    finally:
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
    """Raise if nothing can be created beside a folder, or in it if it exists.

    Raises:
        OutputFolderError: There is no permission, the file system is read-only or full, or the
            name is too long.
    """
    with _as_output_folder_error(folder):
        parent = next(path for path in folder.absolute().parents if path.exists())
        # Permissions do not tell all: the way to know is to try. Moving a folder writes to it too.
        for place in (parent, *([folder] if folder.is_dir() else [])):
            _temporary(folder, place).rmdir()


@contextlib.contextmanager
def _as_output_folder_error(folder: Path) -> Iterator[None]:
    """Raise every OSError as an OutputFolderError of this folder."""
    try:
        yield
    except OutputFolderError:
        raise
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
    if folder.samefile(Path.cwd()):
        message = (
            f"{folder} is the current folder, and a bundle takes the place of its folder: choose "
            "another with --out, such as the name of a folder in it"
        )
        raise OutputFolderError(message)
    if not any(folder.iterdir()):
        return
    try:
        open_bundle(folder)
    except BundleVersionError as error:
        message = f"{folder} is a bundle of a newer bilstm-edge: choose another with --out"
        raise OutputFolderError(message) from error
    except BundleError as error:
        message = (
            f"{folder} already exists and is not a bundle: choose another with --out ({error})"
        )
        raise OutputFolderError(message) from error
    if not overwrite:
        message = f"{folder} already exists: replace it with --overwrite, or choose another --out"
        raise OutputFolderError(message)


@contextlib.contextmanager
def _workspace(folder: Path) -> Iterator[Path]:
    """A folder beside the bundle's, with a locked marker, which is removed at the end."""
    workspace, marker = _marked(folder)
    try:
        with marker:
            yield workspace
    finally:
        _remove(workspace)


def _temporary(folder: Path, parent: Path) -> Path:
    return Path(tempfile.mkdtemp(prefix=f".{folder.name}-", suffix=_SUFFIX, dir=parent))


def _marked(folder: Path) -> tuple[Path, IO[bytes]]:
    """Make a temporary folder; returns it and its marker, which has another name without a lock."""
    while True:
        workspace = _temporary(folder, folder.parent)
        # Until it is marked, another export may take it for one of a killed export, and remove it.
        with contextlib.suppress(FileNotFoundError), contextlib.ExitStack() as stack:
            marker = stack.enter_context((workspace / f"{MARKER}.tmp").open("wb"))
            if _try_lock(marker):
                (workspace / f"{MARKER}.tmp").rename(workspace / MARKER)
            stack.pop_all()
            return workspace, marker


def _try_lock(marker: IO[bytes]) -> bool:
    """Lock a marker, and tell whether that worked; some network file systems have no locks."""
    if sys.platform == "win32":
        return False
    try:
        fcntl.flock(marker, fcntl.LOCK_EX)
    except OSError:
        return False
    return True


def _collect_leftovers(folder: Path) -> None:
    """Remove what exports to this folder left behind when they were killed."""
    if not folder.name or not folder.parent.is_dir():
        return
    for workspace in folder.parent.iterdir():
        # The name only preselects; the marker decides.
        if workspace.name.startswith(f".{folder.name}-") and _is_abandoned(workspace):
            old = workspace / _OLD
            if old.is_dir() and not folder.exists():
                old.rename(folder)
            for replaced in (old, workspace / _NEW):  # after the exchange, the old one is in "new"
                if replaced.is_dir():
                    _discard(replaced, folder)
            shutil.rmtree(workspace, ignore_errors=True)
        elif workspace.name.startswith(f".{folder.name}-") and workspace.name.endswith(_SUFFIX):
            _remove_unmarked(workspace)


def _remove_unmarked(workspace: Path) -> None:
    """Remove an otherwise empty folder of an export that was killed before it marked it."""
    marker = workspace / f"{MARKER}.tmp"
    with contextlib.suppress(OSError):
        if marker.exists() and sys.platform != "win32":
            with marker.open("rb") as opened:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
                marker.unlink()
        workspace.rmdir()


def _is_abandoned(workspace: Path) -> bool:
    """Whether this is the temporary folder of an export that ended without removing it."""
    if sys.platform == "win32":  # an open file cannot be deleted there
        marker = workspace / f"{MARKER}.tmp"
        with contextlib.suppress(OSError):
            marker.unlink()
            return True
        return False
    try:
        with (workspace / MARKER).open("rb") as marker:
            fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _move_into_place(workspace: Path, folder: Path) -> None:
    staging = workspace / _NEW
    staging.chmod(0o755)
    if not folder.exists():
        staging.rename(folder)
        return
    _take_along(folder, staging)
    if _exchange(staging, folder):
        _discard(staging, folder)
        return
    old = workspace / _OLD
    try:
        folder.rename(old)
        staging.rename(folder)
    except BaseException:  # an interrupt too must not lose the bundle that was there
        if not folder.exists() and old.exists():
            old.rename(folder)
        raise
    _discard(old, folder)


def _take_along(folder: Path, staging: Path) -> None:
    """Link the files that are not part of the old bundle into the new one.

    Raises:
        OutputFolderError: The new bundle has a file of the same name.
    """
    for path in _others(folder):
        target = staging / path.relative_to(folder)
        target.parent.mkdir(exist_ok=True)
        if os.path.lexists(target):
            message = (
                f"{path} is not part of the bundle there, and the new bundle has a file of that "
                "name: move it away, or choose another --out"
            )
            raise OutputFolderError(message)
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, target, symlinks=True, copy_function=_link)
        else:
            _link(path, target)


def _others(folder: Path) -> list[Path]:
    """The entries of a bundle's folder that its manifest does not name."""
    if not any(folder.iterdir()):
        return []
    manifest = open_bundle(folder).manifest
    named = {MANIFEST_FILE, *manifest.files}
    own_folders = {Path(item.file).parts[0] for item in manifest.target_files}
    found = []
    for path in folder.iterdir():
        is_folder = path.is_dir() and not path.is_symlink()
        if is_folder and path.name in own_folders:
            found += [
                inner
                for inner in path.iterdir()
                if f"{path.name}/{inner.name}" not in named
                or (inner.is_dir() and not inner.is_symlink())
            ]
        elif is_folder or path.name not in named:
            found.append(path)
    return found


def _link(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Give a file a second name or, where the file system cannot, copy it."""
    try:
        os.link(source, target, follow_symlinks=False)
    except (OSError, NotImplementedError):
        shutil.copy2(source, target, follow_symlinks=False)


def _discard(old: Path, folder: Path) -> None:
    """Remove a replaced bundle; a file that was added to it meanwhile goes to the new one."""
    try:
        others = _others(old)
    except BundleError:  # half of it is removed already
        others = []
    for path in others:
        target = folder / path.relative_to(old)
        if not os.path.lexists(target):
            target.parent.mkdir(exist_ok=True)
            path.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders change places in one step; False if the system cannot."""
    names = os.fsencode(one.absolute()), os.fsencode(other.absolute())
    try:
        if sys.platform == "darwin":
            failed = ctypes.CDLL(None).renamex_np(*names, _SWAP)
        elif sys.platform == "linux":
            rename = ctypes.CDLL(None).renameat2
            failed = rename(_HERE, names[0], _HERE, names[1], _SWAP)
        else:
            return False
    except AttributeError:  # an older C library
        return False
    return bool(failed == 0)


def _remove(folder: Path) -> None:
    """Remove a folder, even if the user presses Ctrl-C again meanwhile."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except KeyboardInterrupt:
        shutil.rmtree(folder, ignore_errors=True)
        raise
