"""Folders and files that are whole or absent: written beside their place under another name, then renamed into it."""

import contextlib
import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from t5kit.errors import CheckpointError

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_LEFT_OVER = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{12}\.(?P<ending>partial|replaced|removed)")
_NO_PERMISSION = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextlib.contextmanager
def atomic_folder(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Give a fresh folder to write into; when the block ends well it is flushed to the disk and becomes `path`.

    If the block fails, whatever was there before is untouched and nothing is left behind. With `overwrite` an existing
    folder is renamed aside, replaced and removed: it is never half old and half new, though a power cut between the two
    renames leaves it under its temporary name. Without, only an empty folder may stand there. Missing parents are made.
    Raises: CheckpointError with one sentence for no space, no permission, or an existing target.
    """
    try:
        target = path.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a NUL in the name
        raise CheckpointError(f"{str(path)!r} is no path a folder can be written to: {error}.") from error
    with _worded(target):
        check_target(target, overwrite=overwrite)
        new_parents = [parent for parent in target.parents if not parent.exists()]
        target.parent.mkdir(parents=True, exist_ok=True)
        # Path.mkdir, not tempfile: the folder gets the user's usual permissions, not 0700.
        temporary = _sibling(target, "partial")
        temporary.mkdir()
    try:
        with _worded(target):
            yield temporary
            _flush_to_disk(temporary)
            _put_in_place(temporary, target, overwrite=overwrite)
            _flush_folder(target.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        for parent in new_parents:
            with contextlib.suppress(OSError):  # somebody else may have used it meanwhile
                parent.rmdir()
        raise


def write_file(path: Path, data: bytes) -> None:
    """Write a file that is the old one or the new one, whenever the process or the machine stops.

    Raises: CheckpointError with one sentence for no space or no permission; the old file is then untouched.
    """
    temporary = _sibling(path, "partial")
    try:
        with _worded(path):
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            _flush_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_folder(path: Path) -> None:
    """Remove a folder that is whole or absent at every instant: renamed away first, then emptied."""
    with _worded(path):
        aside = _sibling(path, "removed")
        path.rename(aside)
        shutil.rmtree(aside)


def recover_folder(parent: Path) -> None:
    """Clear away what writers that were killed left in `parent`: nobody may be writing there.

    A folder that was renamed aside to be replaced, and never was, gets its name back; unfinished ones are removed.
    Raises: CheckpointError with one sentence for no permission.
    """
    with _worded(parent):
        for entry in sorted(parent.iterdir()):
            found = _LEFT_OVER.fullmatch(entry.name)
            if found is None:
                continue
            if found["ending"] == "replaced" and not (parent / found["name"]).exists():
                entry.rename(parent / found["name"])
            elif entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()


def check_target(target: Path, *, overwrite: bool) -> None:
    """Raise CheckpointError if `target` is a file or, without `overwrite`, a folder that is not empty."""
    if not target.exists():
        return
    if not target.is_dir():
        raise CheckpointError(f"{target} exists and is no folder. Choose another path.")
    if not overwrite and any(target.iterdir()):
        raise CheckpointError(
            f"{target} exists and is not empty. Choose another path, or replace it with overwrite=True (--overwrite)."
        )


def _sibling(target: Path, ending: str) -> Path:
    return target.parent / f".{target.name[:100]}.{secrets.token_hex(6)}.{ending}"


def _put_in_place(temporary: Path, target: Path, *, overwrite: bool) -> None:
    check_target(target, overwrite=overwrite)
    if not target.exists() or not any(target.iterdir()):
        if os.name == "nt" and target.exists():
            target.rmdir()  # POSIX renames over an empty folder, Windows does not
        temporary.rename(target)
        return
    aside = _sibling(target, "replaced")
    target.rename(aside)
    try:
        temporary.rename(target)
    except BaseException:
        aside.rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _flush_to_disk(folder: Path) -> None:
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            # Windows flushes only what is open for writing; elsewhere a file without write permission is flushed too.
            descriptor = os.open(Path(parent, name), os.O_RDWR if os.name == "nt" else os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        _flush_folder(Path(parent))


def _flush_folder(folder: Path) -> None:
    if os.name == "nt":
        return  # Windows cannot open a folder for flushing, and writes its entries through
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _worded(target: Path) -> Iterator[None]:
    """Turn the system's error into one sentence about writing `target`."""
    try:
        yield
    except OSError as error:
        # Not the error itself: it names our temporary file.
        said, unchanged = error.strerror or str(error), "Nothing was written there"
        if error.errno in _NO_SPACE:
            sentence = f"There is no space left to write {target} ({said}). {unchanged}; free some space."
        elif error.errno in _NO_PERMISSION:
            sentence = f"There is no permission to write {target} ({said}). {unchanged}; choose another path."
        else:
            sentence = f"{target} cannot be written: {said}. {unchanged}."
        raise CheckpointError(sentence) from error
