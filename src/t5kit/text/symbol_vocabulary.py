"""A vocabulary whose tokens are the characters of prompts and the whole words of targets: letters to phonemes."""

from collections.abc import Iterable

from t5kit.errors import DataError
from t5kit.text.sentencepiece_format import ModelFacts, Piece, PieceKind, build_model
from t5kit.text.sentencepiece_tokenizer import NUM_SENTINELS, WORD_BOUNDARY, SentencePieceTokenizer
from t5kit.text.tokenizer import SENTINEL_PATTERN

MAX_SYMBOLS = 50_000
"""More different target words than this are running text, which wants a trained vocabulary."""


def symbol_tokenizer(
    prompts: Iterable[str], targets: Iterable[str], *, num_sentinels: int = NUM_SENTINELS
) -> SentencePieceTokenizer:
    """Return the vocabulary of these texts, in which every text of theirs can be written.

    Nothing is normalised but runs of spaces, which become one. Tokens stand in order of their text, so the same texts
    in any order give the same vocabulary. Sentinels of the texts are the vocabulary's own, not symbols.
    Raises: DataError without any text, or with more than MAX_SYMBOLS different words in the targets.
    Example: ["cat"], ["K AE T"] -> tokens ▁ a c t ▁AE ▁K ▁T: "cat" is ▁ c a t </s>, "K AE T" is ▁K ▁AE ▁T </s>
    """
    characters: set[str] = set()
    words: set[str] = set()
    for prompt in prompts:
        characters.update(SENTINEL_PATTERN.sub("", prompt))
    for target in targets:
        text = SENTINEL_PATTERN.sub("", target).replace(WORD_BOUNDARY, " ")
        characters.update(character for character in text if character.isspace())
        words.update(text.split())
        if len(words) > MAX_SYMBOLS:
            raise DataError(
                f"the targets hold more than {MAX_SYMBOLS:,} different words; a vocabulary of symbols is for phonemes, "
                'tags and the like. Use vocabulary.source = "unigram" for running text.'
            )
    letters = sorted(characters - {" ", WORD_BOUNDARY})
    if not letters and not words:
        raise DataError("there is no text to make a vocabulary of symbols from.")
    special = [
        Piece("<pad>", 0.0, PieceKind.CONTROL),
        Piece("</s>", 0.0, PieceKind.CONTROL),
        Piece("<unk>", 0.0, PieceKind.UNKNOWN),
    ]
    # Every piece costs the same, so a text is cut into as few as can be: a known word is one.
    symbols = [
        Piece(text, -1.0) for text in (WORD_BOUNDARY, *letters, *(WORD_BOUNDARY + word for word in sorted(words)))
    ]
    model = build_model([*special, *symbols], ModelFacts(), pad_id=0, eos_id=1, unk_id=2)
    return SentencePieceTokenizer(model, num_sentinels=num_sentinels)
