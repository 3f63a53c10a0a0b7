"""Folders that are whole or absent: written beside their place under another name, then renamed into it."""

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from t5kit.errors import CheckpointError

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
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
        unchanged = "Nothing was written there"
        if error.errno in _NO_SPACE:
            sentence = f"There is no space left to write {target} ({error.strerror}). {unchanged}; free some space."
        elif error.errno in _NO_PERMISSION:
            sentence = f"There is no permission to write {target} ({error}). {unchanged}; choose another path."
        else:
            sentence = f"{target} cannot be written: {error}. {unchanged}."
        raise CheckpointError(sentence) from error
