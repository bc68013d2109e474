"""The tuning file: the fastest configuration that `bench-bilstm --tune` found on this device.

`load` reads it. It is named after the bundle's folder, `model-edge.tuning.json`, and is next to
it, not inside: the folder stays as exported, and a bundle cannot bring its own tuning. The file
has one entry per device. An entry is used only for the device, the versions of the backends and
the model files that it was measured with.
"""

from __future__ import annotations

import hashlib
import json
import stat
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

from bilstm_runtime.backends import BACKENDS
from bilstm_runtime.bundle.codec import Field, decode, parse_document
from bilstm_runtime.constraints import Range
from bilstm_runtime.errors import ManifestError, TuningWarning

if TYPE_CHECKING:
    from pathlib import Path

    from bilstm_runtime.bundle.folder import Bundle
    from bilstm_runtime.bundle.manifest import Manifest

SUFFIX: Final = ".tuning.json"
EXACT_RECIPE: Final = "float32"
MAX_THREADS: Final = 1024
FORMAT_VERSION: Final = 1
_MAX_BYTES: Final = 2**20


@dataclass(frozen=True)
class Tuning:
    """How to run a model on one device.

    Attributes:
        backend: The name of the backend.
        recipe: The recipe of the file that it runs.
        threads: The number of threads that the backend may use.
        recipes_named: Whether the user named the recipes to choose from. If not, only float32
            and the manifest's recommended recipe may be chosen.
    """

    backend: str
    recipe: str
    threads: Annotated[int, Range(1, MAX_THREADS)]
    recipes_named: bool = False

    def agrees(self, backend: str | None, recipe: str | None, threads: int | None) -> bool:
        """Whether the tuning is compatible with the given arguments (None: not given)."""
        return (
            backend in (None, self.backend)
            and recipe in (None, self.recipe)
            and threads in (None, self.threads)
        )


def tuning_file(bundle: Bundle) -> Path:
    """Return the path of a bundle's tuning file, next to its folder."""
    folder = bundle.folder.resolve()
    return folder.parent / f"{folder.name}{SUFFIX}"


def find_tuning(bundle: Bundle) -> Tuning | None:
    """Return the tuning for this bundle on this device, or None.

    It never raises. A tuning for another device or other model files is ignored; a damaged one is
    ignored with a `TuningWarning`.
    """
    path = tuning_file(bundle)
    try:
        entries = read_entries(path)
        if entries is None:
            return None
        from bilstm_runtime.device import this_device  # noqa: PLC0415 (loading without is quicker)

        entry = entries.get(this_device().key)
        if entry is None or entry.get("model").text() != model_key(bundle.manifest):
            return None
        return _tuning(entry.get("choice"), bundle.manifest)
    except (ManifestError, OSError, UnicodeDecodeError, RuntimeError) as error:
        problem = error.problem if isinstance(error, ManifestError) else str(error)
        reason = " ".join(problem.split())
        message = (
            f"{path} is ignored: {reason}. Remove it, or write it again: "
            f"bench-bilstm {bundle.folder} --tune"
        )
        warnings.warn(message, TuningWarning, stacklevel=3)
        return None


def allowed_recipes(manifest: Manifest) -> set[str]:
    """Return the recipes that a tuning may choose by default: exact, or recommended."""
    return {EXACT_RECIPE, manifest.recommended_recipe}


def read_entries(path: Path) -> dict[str, Field] | None:
    """Read the entries of a tuning file by device; None if there is no file.

    Raises:
        ManifestError: The file has other content.
        OSError: The file cannot be read.
        UnicodeDecodeError: The file is not text.
    """
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_BYTES:
        message = "it is not a regular file of reasonable size"
        raise OSError(message)
    root = parse_document(path.read_bytes().decode("utf-8"), path.name)
    version = root.get("format_version")
    if version.value != FORMAT_VERSION:
        version.refuse(f"{FORMAT_VERSION}, the only one this bilstm-edge reads")
    return root.get("devices").members()


def _tuning(choice: Field, manifest: Manifest) -> Tuning:
    """Read the choice of an entry, and check it against the bundle."""
    tuning = decode(Tuning, choice)
    choice.get("backend").text(among=tuple(BACKENDS))
    form = BACKENDS[tuning.backend].format
    present = {artifact.recipe for artifact in manifest.artifacts if artifact.format == form}
    usable = present if tuning.recipes_named else present & allowed_recipes(manifest)
    if tuning.recipe not in usable:
        choice.get("recipe").refuse(f"one of {', '.join(sorted(usable)) or 'none'}")
    return tuning


def model_key(manifest: Manifest) -> str:
    """Return a hash of the names and checksums of the model files."""
    files = sorted((artifact.file, artifact.sha256) for artifact in manifest.artifacts)
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()
