"""`t5kit tokenizer`: train a vocabulary, and look at what one does to a text."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from t5kit.cli import options
from t5kit.cli.outputs import json_line
from t5kit.errors import RequestError

if TYPE_CHECKING:
    from t5kit.text import Tokenizer

TokenizerArgument = Annotated[
    str,
    typer.Argument(
        metavar="TOKENIZER",
        help="A folder with tokenizer files, one such file, or a Hugging Face Hub id.",
        show_default=False,
    ),
]

app = typer.Typer(help="Train a vocabulary, encode, decode.", no_args_is_help=True, rich_markup_mode=None)


@app.command("train")
def train(
    files: Annotated[
        list[Path], typer.Argument(help="Text files, one passage a line; .gz is read too.", show_default=False)
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.", show_default=False)],
    vocab_size: Annotated[int, typer.Option(help="Pieces, sentinels included.", min=1)] = 32100,
    type: Annotated[str, typer.Option("--type", help="unigram or bpe.")] = "unigram",
    byte_fallback: Annotated[bool, typer.Option(help="Unknown characters become bytes instead of <unk>.")] = True,
    num_sentinels: Annotated[int, typer.Option(help="Sentinels <extra_id_0>, …", min=0)] = 100,
    keep_whitespace: Annotated[
        bool, typer.Option("--keep-whitespace", help="Keep line breaks and repeated spaces.")
    ] = False,
    character_coverage: Annotated[float, typer.Option(help="Share of characters with a piece of their own.")] = 0.9995,
    max_sentences: Annotated[int, typer.Option(help="Lines to train on at most; 0 is all.", min=0)] = 0,
    characters: Annotated[
        list[str], typer.Option(help="Beginning of prompts that go on in characters, and their targets too.")
    ] = [],  # noqa: B006
    characters_in: Annotated[list[str], typer.Option(help="The same for prompts alone, not for their targets.")] = [],  # noqa: B006
    threads: options.ThreadsOption = None,
    encoding: options.EncodingOption = None,
    overwrite: options.OverwriteOption = False,
) -> None:
    """Train a vocabulary from text files and write it as a tokenizer folder."""
    from t5kit.text import CharacterRule, train_tokenizer

    rules = [CharacterRule(prefix, in_targets=True) for prefix in characters]
    rules += [CharacterRule(prefix) for prefix in characters_in]
    trained = train_tokenizer(
        files, output, vocab_size=vocab_size, model_type=type, byte_fallback=byte_fallback, num_sentinels=num_sentinels,
        keeps_whitespace=keep_whitespace, character_coverage=character_coverage, max_sentences=max_sentences,
        num_threads=threads, character_rules=rules, encoding=encoding,
        overwrite=overwrite,
    )  # fmt: skip
    print(
        f"t5kit: wrote {output} ({trained.vocab_size:,} ids, {trained.num_sentinels} of them sentinels).",
        file=sys.stderr,
    )


@app.command("encode")
def encode(
    name: TokenizerArgument,
    text: Annotated[str, typer.Argument(help="The text.", show_default=False)],
    json: options.JsonOption = False,
    revision: options.RevisionOption = None,
    offline: options.OfflineOption = False,
) -> None:
    """Print the ids of a text, EOS included; with --json the pieces too."""
    tokenizer = _load(name, revision=revision, offline=offline)
    ids = tokenizer.encode(text).tolist()
    pieces = [tokenizer.id_to_piece(token) for token in ids]
    print(json_line({"ids": ids, "pieces": pieces}) if json else " ".join(map(str, ids)), end="" if json else "\n")


@app.command("decode")
def decode(
    name: TokenizerArgument,
    ids: Annotated[list[int], typer.Argument(help="Token ids.", show_default=False)],
    revision: options.RevisionOption = None,
    offline: options.OfflineOption = False,
) -> None:
    """Print the text of token ids."""
    tokenizer = _load(name, revision=revision, offline=offline)
    for token in ids:
        if not 0 <= token < tokenizer.vocab_size:
            raise RequestError(f"{token} is no token id of {name}; its ids lie in [0, {tokenizer.vocab_size}).")
    print(tokenizer.decode(ids))


def _load(name: str, *, revision: str | None, offline: bool) -> "Tokenizer":
    from t5kit.checkpoint import resolve
    from t5kit.text import load_tokenizer

    path = Path(name)
    if path.suffix in (".json", ".model") and path.is_file():
        return load_tokenizer(path)
    return load_tokenizer(resolve(name, revision=revision, offline=offline or None))
