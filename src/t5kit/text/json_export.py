"""A SentencePiece vocabulary written as tokenizer.json, for the tools that read nothing else.

The `tokenizers` library gives the same ids on all ordinary text. Known exceptions, none of which concern our own
encoding (it always uses the SentencePiece model):
- Ties. SentencePiece sums scores in float32 over the whole text, `tokenizers` in float64 over each word; where two cuts
  are equally good ("----" as "-" "---" or "---" "-") they may choose differently: 71 of 63,752 English passages with
  T5's vocabulary, every one of them a tie.
- A text that spells `</s>`, `<pad>`, `<unk>` or a byte token gets that token here.
- Combining marks in a non-canonical order, or on letters that the rules replace (a mark on `Ⅰ`, half-width kana with a
  voicing mark), and U+2581 directly before a sentinel. `tokenizers` applies the compiled rules to whole graphemes and
  by itself loses marks; composing first and setting the other marks apart leaves only these. Of random strings from
  all scripts 0.1 % differ with T5's vocabulary and 0.7 % with mT5's.
Sentinels follow seqio: an added token that is normalised like text becomes `▁<extra_id_0>`, and so is found only behind
a space or at the beginning.
"""

import dataclasses
from collections.abc import Callable, Sequence

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, Unigram

from t5kit.text.sentencepiece_format import Algorithm, ModelFacts, Piece, PieceKind
from t5kit.text.tokenizer import sentinel_text
from t5kit.text.tokenizer_config import refused_by_library

_BOUNDARY = "\u2581"
_SEPARATOR = "\u0001"
"""A control character, which T5's rules delete; it stands between graphemes until they have."""
MARKS_PATTERN = r"(?<=[\s\S])(?=[\p{M}\u1100-\u11FF])"
"""Before every combining mark and Hangul jamo, but not at the text's beginning, where the library cannot delete."""
ENDS_PATTERN = r"\A +|[ \u2581]+\z"
"""Spaces at both ends of a text."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class JsonSource:
    """What a tokenizer.json is made from."""

    pieces: Sequence[Piece]
    """By id, sentinels included."""
    facts: ModelFacts
    pad_id: int
    eos_id: int
    unk_id: int
    sentinel_ids: tuple[int, ...]
    """By index."""
    normalize: Callable[[str], str]
    """The model's own normaliser; what it does decides what is asked of `tokenizers`."""

    @property
    def num_model_pieces(self) -> int:
        """Pieces without the sentinels, which are added tokens in tokenizer.json."""
        return len(self.pieces) - len(self.sentinel_ids)


def why_no_json(source: JsonSource) -> str | None:
    """Return why `tokenizers` cannot express this vocabulary, or None if it can."""
    facts = source.facts
    if facts.algorithm not in (Algorithm.UNIGRAM, Algorithm.BPE):
        return f"the library tokenizers has no algorithm {facts.algorithm.name}"
    if facts.treats_whitespace_as_suffix:
        return "its word boundaries stand behind the words"
    if not facts.escapes_whitespace:
        return "it does not escape spaces"
    if source.sentinel_ids != tuple(reversed(range(source.num_model_pieces, len(source.pieces)))):
        return "its sentinels are not its last ids in reversed order"
    boundary = _BOUNDARY if facts.adds_dummy_prefix else ""
    if any(source.pieces[i].text != boundary + sentinel_text(n) for n, i in enumerate(source.sentinel_ids)):
        return "its sentinels are not spelt as its word boundaries ask"
    kinds = {piece.kind for piece in source.pieces[: source.num_model_pieces]}
    if PieceKind.UNUSED in kinds:
        return "it has unused pieces"
    if PieceKind.USER_DEFINED in kinds and facts.algorithm is Algorithm.BPE:
        return "it has user-defined pieces"
    if len({piece.text for piece in source.pieces}) < len(source.pieces):
        return "two of its pieces are spelt the same"
    return None


def build_json(source: JsonSource) -> str:
    """Return the text of a tokenizer.json for a vocabulary that `why_no_json` has nothing against.

    Raises: TokenizerError if the library refuses what SentencePiece accepted.
    """
    with refused_by_library("The model's tokenizer.json"):
        return str(_build(source).to_str())


def _build(source: JsonSource) -> Tokenizer:
    facts = source.facts
    pieces = list(source.pieces[: source.num_model_pieces])
    special = {token_id: pieces[token_id].text for token_id in (source.pad_id, source.eos_id, source.unk_id)}
    if facts.keeps_all_text:
        # With plain spaces in the pieces U+2581 needs no escape: it is a character like any other.
        pieces = [piece._replace(text=piece.text.replace(_BOUNDARY, " ")) for piece in pieces]
    is_unigram = facts.algorithm is Algorithm.UNIGRAM
    tokenizer = Tokenizer(_unigram(pieces, source) if is_unigram else _bpe(pieces, source))
    if steps := _normalizers(source):
        tokenizer.normalizer = normalizers.Sequence(steps)
    # Speed: cutting at spaces first lets the library cache words. Not where a piece holds a space in its middle.
    if not facts.keeps_all_text and not any(_BOUNDARY in piece.text[1:] for piece in pieces):
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=_BOUNDARY, prepend_scheme="never", split=True)
    tokenizer.decoder = _decoder(facts)
    eos_text = special[source.eos_id]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=["$A", eos_text],
        pair=["$A", eos_text, "$B", eos_text],
        special_tokens=[(eos_text, source.eos_id)],
    )
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for _, text in sorted(special.items())])
    sentinels = [sentinel_text(index) for index in reversed(range(len(source.sentinel_ids)))]
    tokenizer.add_special_tokens([AddedToken(text, normalized=facts.adds_dummy_prefix) for text in sentinels])
    return tokenizer


def _unigram(pieces: list[Piece], source: JsonSource) -> Unigram:
    # A user-defined piece always wins in SentencePiece; the best score there is does the same here.
    scores = [(piece.text, 0.0 if piece.kind is PieceKind.USER_DEFINED else piece.score) for piece in pieces]
    return Unigram(scores, unk_id=source.unk_id, byte_fallback=source.facts.has_byte_fallback)


def _bpe(pieces: list[Piece], source: JsonSource) -> BPE:
    """SentencePiece joins the neighbours whose piece has the best score: every way to split a piece is a merge."""
    ids = {piece.text: token_id for token_id, piece in enumerate(pieces)}
    normal = {piece.text: piece.score for piece in pieces if piece.kind is PieceKind.NORMAL}
    merges = [
        (-score, position, text[:position], text[position:])
        for text, score in normal.items()
        for position in range(1, len(text))
        if text[:position] in normal and text[position:] in normal
    ]
    merges.sort()
    return BPE(
        vocab=ids,
        merges=[(left, right) for _, _, left, right in merges],
        unk_token=pieces[source.unk_id].text,
        fuse_unk=True,
        byte_fallback=source.facts.has_byte_fallback,
    )


def _normalizers(source: JsonSource) -> list[normalizers.Normalizer]:
    facts = source.facts
    steps: list[normalizers.Normalizer] = []
    if facts.charsmap:
        # Not once more behind the rules, which would serve the rarities: tokenizers 0.23 panics there (bounds of the
        # alignments, when the rules have deleted characters).
        if source.normalize("e\u0301").endswith("\u00e9"):
            steps.append(normalizers.NFC())
        if source.normalize(f"a{_SEPARATOR}b").endswith("ab"):
            steps.append(normalizers.Replace(Regex(MARKS_PATTERN), _SEPARATOR))
        steps.append(normalizers.Precompiled(facts.charsmap))
    if facts.removes_extra_whitespace:
        steps.append(normalizers.Replace(Regex(ENDS_PATTERN), ""))
        steps.append(normalizers.Replace(Regex(" {2,}"), " "))
    if facts.adds_dummy_prefix:
        steps.append(normalizers.Prepend(_BOUNDARY))
    if not facts.keeps_all_text:
        steps.append(normalizers.Replace(" ", _BOUNDARY))
    return steps


def _decoder(facts: ModelFacts) -> decoders.Decoder:
    drops_space = facts.adds_dummy_prefix or facts.removes_extra_whitespace
    if not facts.has_byte_fallback:
        return decoders.Metaspace(_BOUNDARY, prepend_scheme="always" if drops_space else "never", split=True)
    steps: list[decoders.Decoder] = [] if facts.keeps_all_text else [decoders.Replace(_BOUNDARY, " ")]
    steps += [decoders.ByteFallback(), decoders.Fuse()]
    if drops_space:
        steps.append(decoders.Strip(" ", 1, 0))
    return decoders.Sequence(steps)
