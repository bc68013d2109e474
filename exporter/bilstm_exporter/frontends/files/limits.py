"""How much memory, and which other files, a model file may claim.

A few bytes can claim a weight of any size: the number of units in a configuration, the shape of an
HDF5 dataset that was never written, a hole in a file, a member of an archive. A folder can hold
links to other places, and pipes whose end never comes. Each is compared with what is stored before
memory is taken or anything is opened.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import operator
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from bilstm_exporter.errors import ModelFileError
from bilstm_exporter.frontends.patching import replaced

# Keras stores weights without compression, and people who compress them gain little.
_UNPACKED_LIMIT, _RATIO_LIMIT = 2**28, 50
# Weights are stored in a smaller dtype than they are computed in, at most; states of a stateful
# model are not stored at all.
_WEIGHT_RATIO, _STATES_LIMIT = 4, 2**28
_OBJECTS_LIMIT = 2**17  # some five for each layer
_STRINGS_LIMIT = 2**16
_KERAS = frozenset({"keras", "tf_keras"})
_BLOCK = 512  # the unit of st_blocks


def check_file(path: Path) -> None:
    """Check that a file is a regular one whose size is not mostly a hole.

    Raises:
        ModelFileError: It is not.
    """
    if path.exists() and not path.is_file():
        message = f"{path} is neither a file nor a folder: reading it could wait forever"
        raise ModelFileError(message)
    if path.exists():
        status = path.stat()
        stored = getattr(status, "st_blocks", math.inf) * _BLOCK  # not on Windows
        check_unpacked(path, status.st_size, stored)


def check_unpacked(path: Path, size: int, stored: float) -> None:
    """Check the number of bytes that stored bytes claim to be.

    Args:
        path: The file, for the message.
        size: The number that is claimed.
        stored: The number that is stored.

    Raises:
        ModelFileError: No model is compressed so well.
    """
    if size > max(_UNPACKED_LIMIT, _RATIO_LIMIT * stored):
        message = (
            f"{path} would unpack to {size} bytes, which no model does: it is damaged, or made to "
            f"fill memory"
        )
        raise ModelFileError(message)


def check_folder(main: Path) -> None:
    """Check that the files beside the main file of a folder are regular files, and lie in it.

    Where the main file is itself a link, as in a cache of downloads, the others may be links to
    the folder that it leads to.

    Args:
        main: The main file of the folder, such as ``saved_model.pb``.

    Raises:
        ModelFileError: One is a pipe, a device, or a link to another place.
    """
    roots = {main.parent.resolve(), main.resolve().parent}
    for path in sorted(main.parent.rglob("*")):
        check_beside(path, roots)


def check_beside(path: Path, roots: set[Path]) -> None:
    """Check that a file, with links resolved, is a regular file or folder within some folders.

    Raises:
        ModelFileError: It is not.
    """
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        message = f"{path} cannot be opened: {getattr(error, 'strerror', None) or error}"
        raise ModelFileError(message) from error
    if not any(real.is_relative_to(root) for root in roots):
        message = (
            f"{path} leads out of the folder of the model, to {real}, which is not opened. Copy "
            f"the file itself into the folder"
        )
        raise ModelFileError(message)
    if not real.is_dir():
        check_file(path)


def hdf5_size(file: Any, path: Path, stored: float) -> int:
    """Return the number of bytes of all datasets of an HDF5 file.

    Args:
        file: The open file.
        path: Its path, for the message.
        stored: The size of the file.

    Raises:
        ModelFileError: A dataset lies in another file, they claim far more than is stored, or
            there are more of them than a model has.
    """
    pending, seen = [file.id], set[Any]()
    total = 0
    while pending:
        group = pending.pop()
        links: list[tuple[bytes, Any]] = []
        # The functions of h5py for groups take ten times as long.
        group.links.iterate(lambda name, link, to=links: to.append((name, link.type)), info=True)
        for name, kind in links:
            if kind != h5py.h5l.TYPE_HARD:
                raise _elsewhere(path, name)
            info = h5py.h5o.get_info(group, name)
            if info.addr in seen:
                continue
            seen.add(info.addr)
            if len(seen) > _OBJECTS_LIMIT:
                message = (
                    f"{path} holds more than {_OBJECTS_LIMIT} HDF5 objects, which no model has"
                )
                raise ModelFileError(message)
            if info.type == h5py.h5o.TYPE_GROUP:
                pending.append(h5py.h5g.open(group, name))
            elif info.type == h5py.h5o.TYPE_DATASET:
                total += _dataset_size(h5py.Dataset(h5py.h5d.open(group, name)), path, name)
                check_unpacked(path, total, stored)
    return total


def _dataset_size(item: Any, path: Path, name: bytes) -> int:
    """Return the bytes that reading a dataset takes: its values, or a chunk that holds them."""
    if item.is_virtual or item.id.get_create_plist().get_external_count() > 0:
        raise _elsewhere(path, name)
    if item.shape is None:
        return 0
    if h5py.check_string_dtype(item.dtype) is not None and item.dtype.hasobject:
        return _strings_size(item, path, name)
    if item.dtype.hasobject:
        message = (
            f"{path} holds references or lists in {name.decode(errors='replace')!r}, where "
            f"weights are numbers"
        )
        raise ModelFileError(message)
    return int(max(math.prod(item.shape), math.prod(item.chunks or (0,))) * item.dtype.itemsize)


def _strings_size(item: Any, path: Path, name: bytes) -> int:
    """Return the bytes of a dataset of strings, such as labels that somebody stored with a model.

    Its elements may share one long string of the file, so that each is measured alone.
    """
    count = math.prod(item.shape)
    if count > _STRINGS_LIMIT:
        message = (
            f"{path} holds {count} strings in {name.decode(errors='replace')!r}, more than "
            f"{_STRINGS_LIMIT}: store them in another file"
        )
        raise ModelFileError(message)
    total = 0
    for place in np.ndindex(item.shape):
        total += len(item[place])
        check_unpacked(path, total, 0)
    return total


def _elsewhere(path: Path, name: bytes) -> ModelFileError:
    return ModelFileError(
        f"{path} takes {name.decode(errors='replace')!r} from another place or file (an HDF5 "
        f"link, external storage or a virtual dataset), which Keras never writes: save the model "
        f"again with model.save"
    )


@contextlib.contextmanager
def limited_weights(layer: type, path: Path, stored: int) -> Iterator[None]:
    """Refuse to create weights in this context that are far larger than those in the file.

    The layers of Keras get zeros until the weights of the file take their place: an initializer,
    such as a random orthogonal matrix, can take minutes.

    Args:
        layer: The base class of the layers of a Keras.
        path: The file, for the message.
        stored: The number of bytes of weights that are stored.
    """
    add_weight = layer.add_weight  # type: ignore[attr-defined] # of either Keras
    named = list(inspect.signature(add_weight).parameters)[1:]
    # Keras 3 takes only the shape, the initializer and the dtype by position, without names.
    place = named.index("initializer") if named[0] == "name" else 1
    left = _STATES_LIMIT + _WEIGHT_RATIO * stored

    def add_limited(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal left
        left -= sum(map(_float_bytes, (*args, *kwargs.values())))
        if left < 0:
            message = (
                f"{path} holds {stored} bytes of weights, but its layer {self.name!r} takes far "
                f"more: its configuration is damaged, or is not that of the weights"
            )
            raise ModelFileError(message, layers=[self.name])
        if type(self).__module__.partition(".")[0] in _KERAS:
            if len(args) > place:
                args = (*args[:place], "zeros", *args[place + 1 :])
            elif "initializer" in kwargs:
                kwargs["initializer"] = "zeros"
        return add_weight(self, *args, **kwargs)

    with replaced({(layer, "add_weight"): add_limited}):
        yield


def _float_bytes(value: Any) -> int:
    """Return the bytes of a float32 array, if the value is its shape."""
    sizes = value.as_list() if hasattr(value, "as_list") else value
    if not isinstance(sizes, (tuple, list)):
        return 0
    whole = [operator.index(size) for size in sizes if hasattr(size, "__index__")]
    return 4 * math.prod(whole) if len(whole) == len(sizes) else 0
