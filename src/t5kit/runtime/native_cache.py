"""The packed cache: weights as the native engine packed them, kept in a file that the next start only maps.

It lies in the folder that `T5KIT_CACHE` names, or in the user's cache folder, never beside a model, and may be deleted
at any time. One file belongs to one model folder, precision, kernel set and installed engine; when the folder or the
engine changes, it is replaced.

What is in a file is never trusted: its header must be whole, its key must say exactly the model files, architecture,
precision, kernels and build that are asked for, it must belong to this user, and the engine compares a digest of every
byte before it uses one. Whatever fails is packed anew. Files appear by renaming, so that a reader sees a whole one
or none, however many processes start at once.
"""

import contextlib
import hashlib
import mmap
import os
import re
import struct
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from t5kit.checkpoint.source_files import WeightFile
from t5kit.checkpoint.tensors import TensorView

CACHE_VARIABLE = "T5KIT_CACHE"
"""Environment variable: the folder for packed weights, or "off" for none."""

MIN_CACHED_BYTES = 4 << 20
"""Smaller models are packed in a few milliseconds and not cached."""

_MAGIC = b"t5kit packed\r\n\x1a\n"
_LAYOUT = 3
# Raised when the engine lays weights out differently, or the header changes.
_HEADER_BYTES = 4096
# One page, so that the data starts aligned in a mapping.
_FIELDS = struct.Struct("<16sI32sQQI")
# Magic, layout, key, bytes of data, their digest, length of what follows: the model's path, a zero and the engine's;
# zeros; and at the end the hash of all before it.
_HASH_BYTES = 16
_FAMILY = ".t5packed"
_SUFFIX = f"{_FAMILY}{_LAYOUT}"
# So that versions of t5kit beside each other leave each other's files alone.
_UNFINISHED = ".tmp"
_FILE_NAME = re.compile("[0-9a-f]{32}[.]")
_ABANDONED_S = 3600.0
# Unfinished files this old are of a process that died.
_OUTDATED_S = 30 * 86400.0
# Files of another layout this old are taken for those of a version that is no longer used.

_has_warned = False


class PackedCache:
    """One model's place in the cache."""

    def __init__(self, file: Path, *, key: bytes, model: Path, core: Path) -> None:
        self.file = file
        """Where its packed weights lie, or will."""
        self._key = key
        self._belongs_to = (model, core)

    @classmethod
    def locate(
        cls,
        weight_files: Sequence[WeightFile],
        tensors: Sequence[TensorView],
        *,
        config: Mapping[str, object],
        weights: str,
        kernels: str,
        core: Path,
    ) -> "PackedCache | None":
        """Return the place of the model whose tensors lie in `weight_files`, or None where nothing is to be cached.

        Files that were replaced or written to since they were opened are not cached: what is packed is not theirs.
        `core` is the engine's own file: another build may pack otherwise, and each installed one has its own place.
        """
        folder = cache_folder()
        if folder is None or not weight_files or sum(view.size_bytes for view in tensors) < MIN_CACHED_BYTES:
            return None
        header = hashlib.blake2b(digest_size=32)
        for view in tensors:
            header.update(repr((view.name, view.dtype, view.shape)).encode())
        try:
            if not all(file.is_as_read for file in weight_files):
                return None
            files = [(str(file.path.resolve()), file.identity) for file in weight_files]
            model = weight_files[0].path.parent.resolve()
            core = core.resolve()
            build = (str(core), WeightFile.of(core, core.stat()).identity)
            key = (_LAYOUT, files, header.hexdigest(), sorted(config.items()), weights, kernels, build)
        except OSError:  # a file went away while it was read; the engine will say so
            return None
        place = hashlib.blake2b(repr((str(model), weights, kernels, str(core))).encode(), digest_size=16).hexdigest()
        digest = hashlib.blake2b(repr(key).encode(), digest_size=32).digest()
        return cls(folder / f"{place}{_SUFFIX}", key=digest, model=model, core=core)

    def read(self) -> tuple[memoryview, int] | None:
        """Return the mapped data and the digest that they must have, or None where there is no file to use.

        The data are not looked at here. They stay mapped as long as somebody holds the view.
        """
        try:
            descriptor = os.open(self.file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except (OSError, ValueError):
            return None
        try:
            status = os.fstat(descriptor)
            if status.st_uid not in (os.geteuid(), 0):
                return None
            header = os.pread(descriptor, _HEADER_BYTES, 0)
            fields = _parsed(header)
            if fields is None:
                return None
            key, size_bytes, digest, _ = fields
            if key != self._key or status.st_size != _HEADER_BYTES + size_bytes:
                return None
            mapped = mmap.mmap(descriptor, status.st_size, access=mmap.ACCESS_READ)
        except (OSError, ValueError):
            return None
        finally:
            os.close(descriptor)
        return memoryview(mapped)[_HEADER_BYTES:], digest

    def write(self, data: np.ndarray, digest: int) -> None:
        """Save packed weights [N] uint8; where that cannot be, say so once on standard error and go on."""
        try:
            self.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._tidy()
            self._write(data.data, digest)
        except OSError as error:
            say_once(f"t5kit: packed weights are not cached in {self.file.parent}: {error.strerror or error}.")

    def _write(self, data: memoryview, digest: int) -> None:
        paths = b"\0".join(os.fsencode(path) for path in self._belongs_to)
        if len(paths) > _HEADER_BYTES - _FIELDS.size - _HASH_BYTES:
            paths = b""  # not known, so never called gone
        fields = _FIELDS.pack(_MAGIC, _LAYOUT, self._key, data.nbytes, digest, len(paths))
        header = (fields + paths).ljust(_HEADER_BYTES - _HASH_BYTES, b"\0")
        descriptor, name = tempfile.mkstemp(prefix=f"{self.file.stem}.", suffix=_UNFINISHED, dir=self.file.parent)
        unfinished = Path(name)
        try:
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                _write_all(file.fileno(), header + _hash(header))
                _write_all(file.fileno(), data)
            unfinished.replace(self.file)
        except BaseException:
            with contextlib.suppress(OSError):
                unfinished.unlink()
            raise

    def _tidy(self) -> None:
        """Remove packed weights whose model folder or engine is gone, and what died processes left unfinished."""
        for entry in list(self.file.parent.iterdir()):
            with contextlib.suppress(OSError):
                if entry.suffix == _UNFINISHED and _FILE_NAME.match(entry.name):
                    if time.time() - entry.lstat().st_mtime > _ABANDONED_S:
                        entry.unlink()
                elif entry.suffix.startswith(_FAMILY) and entry.suffix != _SUFFIX and not entry.is_symlink():
                    if time.time() - entry.lstat().st_mtime > _OUTDATED_S:
                        entry.unlink()
                elif entry.suffix == _SUFFIX and entry.is_file() and not entry.is_symlink():
                    with entry.open("rb") as file:
                        fields = _parsed(file.read(_HEADER_BYTES))
                    if fields is None or not all(os.path.lexists(path) for path in fields[3].split(b"\0") if path):
                        entry.unlink()


def cache_folder() -> Path | None:
    """Return the folder for packed weights, which need not exist yet; None where T5KIT_CACHE is "off"."""
    stated = os.environ.get(CACHE_VARIABLE, "")
    if stated.strip().lower() == "off":
        return None
    try:
        if stated:
            return Path(stated).expanduser() / "packed"
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Caches" / "t5kit" / "packed"
        base = Path(os.environ.get("XDG_CACHE_HOME", ""))
        # The base directory specification: a relative path is to be ignored.
        return (base if base.is_absolute() else Path.home() / ".cache") / "t5kit" / "packed"
    except RuntimeError as error:  # no home
        if stated:
            say_once(f"t5kit: packed weights are not cached: {CACHE_VARIABLE}={stated!r}: {error}")
        return None


def _hash(header: bytes) -> bytes:
    return hashlib.blake2b(header, digest_size=_HASH_BYTES).digest()


def _parsed(header: bytes) -> tuple[bytes, int, int, bytes] | None:
    """Return (key, bytes of data, digest, paths apart by zeros) of a whole header of this layout."""
    if len(header) != _HEADER_BYTES or _hash(header[:-_HASH_BYTES]) != header[-_HASH_BYTES:]:
        return None
    magic, layout, key, size_bytes, digest, paths_bytes = _FIELDS.unpack_from(header)
    if magic != _MAGIC or layout != _LAYOUT:
        return None
    return key, size_bytes, digest, header[_FIELDS.size : _FIELDS.size + paths_bytes]


def _write_all(descriptor: int, data: bytes | memoryview) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest[: 1 << 26]) :]


def say_once(message: str) -> None:
    """Print a line on standard error, if nothing of the cache was said yet."""
    global _has_warned
    if not _has_warned:
        _has_warned = True
        print(message, file=sys.stderr)
