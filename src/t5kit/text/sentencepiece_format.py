"""A SentencePiece .model file: the facts that the library does not tell, and pieces appended to one.

The file is a protobuf message. It is read here by hand, every length checked against the file's: the generated code
that ships with sentencepiece needs the protobuf package, which T5 needs for nothing else, and a dozen fields are all we
want. Encoding stays with the library. Source: sentencepiece_model.proto.
"""

import dataclasses
import enum
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from t5kit.errors import TokenizerError

_FLOAT = struct.Struct("<f")
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# Field numbers of ModelProto, and of its SentencePiece, TrainerSpec and NormalizerSpec.
_PIECES, _TRAINER, _NORMALIZER, _DENORMALIZER = 1, 2, 3, 5
_MODEL_TYPE, _SUFFIX, _BYTE_FALLBACK, _UNK_ID, _BOS_ID, _EOS_ID, _PAD_ID, _UNK_SURFACE = 3, 24, 35, 40, 41, 42, 43, 44
_VOCAB_SIZE, _UNK_PIECE, _EOS_PIECE, _PAD_PIECE = 4, 45, 47, 48
_PIECE_TEXT, _PIECE_SCORE, _PIECE_KIND = 1, 2, 3
_NORMALIZER_NAME, _CHARSMAP, _DUMMY_PREFIX, _EXTRA_WHITESPACE, _ESCAPE, _RULES = 1, 2, 3, 4, 5, 6


class PieceKind(enum.IntEnum):
    """What a piece is for; the numbers are the file's."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class Algorithm(enum.IntEnum):
    """How a text is cut into pieces; the numbers are the file's."""

    UNIGRAM = 1
    BPE = 2
    WORD = 3
    CHAR = 4


class Piece(NamedTuple):
    """One entry of the vocabulary; its place is its id."""

    text: str
    score: float
    kind: PieceKind = PieceKind.NORMAL


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """How a model cuts and joins text, beyond its pieces. The defaults are the file format's."""

    algorithm: Algorithm = Algorithm.UNIGRAM
    has_byte_fallback: bool = False
    """A character without a piece becomes its UTF-8 bytes."""
    treats_whitespace_as_suffix: bool = False
    """The word boundary stands behind words, not before."""
    unk_surface: str = " \u2047 "
    """What decoding writes for the unknown token."""
    charsmap: bytes = b""
    """The compiled normalisation rules; empty for none."""
    adds_dummy_prefix: bool = True
    """A space is put before the text."""
    removes_extra_whitespace: bool = True
    """Spaces at both ends are dropped and runs of them become one."""
    escapes_whitespace: bool = True
    """Spaces become U+2581 before the text is cut."""
    has_denormalizer: bool = False
    """Decoding ends with rules of its own."""

    @property
    def keeps_all_text(self) -> bool:
        """Nothing is normalised and every character can be written, so that decoding gives the text back."""
        return (
            self.has_byte_fallback
            and not (self.charsmap or self.adds_dummy_prefix or self.removes_extra_whitespace)
            and not (self.treats_whitespace_as_suffix or self.has_denormalizer)
        )


def read_facts(data: bytes, source: str) -> ModelFacts:
    """Return the facts of the model file `data`; `source` is its name in messages.

    Raises: TokenizerError if the bytes are no whole SentencePiece model.
    """
    specs: dict[int, bytes] = {}
    position = 0
    size = len(data)
    # Speed: a piece is nearly always below 128 bytes with a one-byte length; 250,000 of them are skipped in 20 ms.
    while position + 1 < size and data[position] == 0x0A and data[position + 1] < 0x80:
        position += 2 + data[position + 1]
    for number, value in _fields(data, source, position):
        if number in (_TRAINER, _NORMALIZER, _DENORMALIZER) and isinstance(value, bytes):
            specs[number] = specs.get(number, b"") + value  # protobuf: a message in two parts is one message
    if _TRAINER not in specs or _NORMALIZER not in specs:
        raise TokenizerError(
            f"{source} is no whole SentencePiece model: its description of the normaliser or of the training is "
            "missing. The file is cut off or is another kind of file; fetch it again."
        )
    trainer = dict(_fields(specs[_TRAINER], source))
    normalizer = dict(_fields(specs[_NORMALIZER], source))
    try:
        return ModelFacts(
            algorithm=Algorithm(_integer(trainer, _MODEL_TYPE, 1)),
            has_byte_fallback=bool(_integer(trainer, _BYTE_FALLBACK, 0)),
            treats_whitespace_as_suffix=bool(_integer(trainer, _SUFFIX, 0)),
            unk_surface=_bytes(trainer, _UNK_SURFACE, ModelFacts.unk_surface.encode()).decode("utf-8"),
            charsmap=_bytes(normalizer, _CHARSMAP, b""),
            adds_dummy_prefix=bool(_integer(normalizer, _DUMMY_PREFIX, 1)),
            removes_extra_whitespace=bool(_integer(normalizer, _EXTRA_WHITESPACE, 1)),
            escapes_whitespace=bool(_integer(normalizer, _ESCAPE, 1)),
            has_denormalizer=any(
                number in (_CHARSMAP, _RULES) and value
                for number, value in _fields(specs.get(_DENORMALIZER, b""), source)
            ),
        )
    except (TypeError, ValueError) as error:
        raise TokenizerError(f"{source} is no SentencePiece model that can be read: {error}.") from None


def read_pieces(data: bytes, source: str) -> list[Piece]:
    """Return every piece of the model file, in the order of the ids.

    Raises: TokenizerError if the bytes are no whole SentencePiece model.
    """
    try:
        return [
            _decode_piece(value, source)
            for number, value in _fields(data, source)
            if number == _PIECES and isinstance(value, bytes)
        ]
    except (TypeError, ValueError, struct.error) as error:
        raise TokenizerError(f"{source} is no SentencePiece model that can be read: {error}.") from None


def append_pieces(data: bytes, pieces: Iterable[Piece]) -> bytes:
    """Return the model file with `pieces` behind its last piece; their ids go on from there.

    Protobuf lets the parts of a list stand anywhere, so the file itself is not touched.
    """
    return data + b"".join(_bytes_field(_PIECES, _encode_piece(piece)) for piece in pieces)


def build_model(pieces: Iterable[Piece], facts: ModelFacts, *, pad_id: int, eos_id: int, unk_id: int) -> bytes:
    """Return a whole model file without BOS."""
    pieces = list(pieces)
    trainer = b"".join(
        [
            _integer_field(_MODEL_TYPE, facts.algorithm),
            _integer_field(_VOCAB_SIZE, len(pieces)),
            _integer_field(_SUFFIX, facts.treats_whitespace_as_suffix),
            _integer_field(_BYTE_FALLBACK, facts.has_byte_fallback),
            _integer_field(_UNK_ID, unk_id),
            _integer_field(_BOS_ID, -1),
            _integer_field(_EOS_ID, eos_id),
            _integer_field(_PAD_ID, pad_id),
            _bytes_field(_UNK_SURFACE, facts.unk_surface.encode()),
            _bytes_field(_UNK_PIECE, pieces[unk_id].text.encode()),
            _bytes_field(_EOS_PIECE, pieces[eos_id].text.encode()),
            _bytes_field(_PAD_PIECE, pieces[pad_id].text.encode()),
        ]
    )
    normalizer = b"".join(
        [
            _bytes_field(_NORMALIZER_NAME, b"user_defined" if facts.charsmap else b"identity"),
            _bytes_field(_CHARSMAP, facts.charsmap),
            _integer_field(_DUMMY_PREFIX, facts.adds_dummy_prefix),
            _integer_field(_EXTRA_WHITESPACE, facts.removes_extra_whitespace),
            _integer_field(_ESCAPE, facts.escapes_whitespace),
        ]
    )
    return append_pieces(b"", pieces) + _bytes_field(_TRAINER, trainer) + _bytes_field(_NORMALIZER, normalizer)


def _fields(data: bytes, source: str, position: int = 0) -> Iterator[tuple[int, int | bytes]]:
    """Yield (field number, value) of one message: an int for numbers, bytes for the rest."""
    size = len(data)
    if position > size:
        raise _cut_off(source)
    while position < size:
        tag, position = _read_varint(data, position, source)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == _VARINT:
            value, position = _read_varint(data, position, source)
            yield number, value
            continue
        if wire_type == _BYTES:
            length, position = _read_varint(data, position, source)
        elif wire_type in (_FIXED32, _FIXED64):
            length = 4 if wire_type == _FIXED32 else 8
        else:
            raise TokenizerError(f"{source} is no SentencePiece model: wire type {wire_type} at byte {position}.")
        if length > size - position:
            raise _cut_off(source)
        yield number, data[position : position + length]
        position += length


def _read_varint(data: bytes, position: int, source: str) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):  # 64 bits fit in ten bytes
        if position >= len(data):
            raise _cut_off(source)
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise TokenizerError(f"{source} is no SentencePiece model: a number at byte {position} has more than 64 bits.")


def _cut_off(source: str) -> TokenizerError:
    return TokenizerError(
        f"{source} is no whole SentencePiece model: it ends in the middle of a field. Fetch it again."
    )


def _integer(fields: dict[int, int | bytes], number: int, default: int) -> int:
    value = fields.get(number, default)
    if not isinstance(value, int):
        raise TypeError(f"field {number} should be a number")
    return value


def _bytes(fields: dict[int, int | bytes], number: int, default: bytes) -> bytes:
    value = fields.get(number, default)
    if not isinstance(value, bytes):
        raise TypeError(f"field {number} should be a string")
    return value


def _encode_varint(value: int) -> bytes:
    if 0 <= value < 0x80:
        return bytes((value,))
    value &= 2**64 - 1  # protobuf writes a negative number as its 64-bit complement
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _integer_field(number: int, value: int) -> bytes:
    return _encode_varint(number << 3 | _VARINT) + _encode_varint(int(value))


def _bytes_field(number: int, value: bytes) -> bytes:
    return _encode_varint(number << 3 | _BYTES) + _encode_varint(len(value)) + value


def _decode_piece(data: bytes, source: str) -> Piece:
    # Speed: as every writer writes it (text, score, kind), 250,000 of them in 0.4 s instead of 3 s.
    end = 2 + data[1] if len(data) > 2 and data[0] == 0x0A and data[1] < 0x80 else 0
    rest = len(data) - end
    if end and rest in (5, 7) and data[end] == 0x15 and (rest == 5 or (data[end + 5] == 0x18 and data[end + 6] < 7)):
        kind = PieceKind(data[end + 6]) if rest == 7 else PieceKind.NORMAL
        return Piece(data[2:end].decode("utf-8"), _FLOAT.unpack_from(data, end + 1)[0], kind)
    fields = dict(_fields(data, source))
    (score,) = _FLOAT.unpack(_bytes(fields, _PIECE_SCORE, bytes(4)))
    return Piece(_bytes(fields, _PIECE_TEXT, b"").decode("utf-8"), score, PieceKind(_integer(fields, _PIECE_KIND, 1)))


def _encode_piece(piece: Piece) -> bytes:
    score = _encode_varint(_PIECE_SCORE << 3 | _FIXED32) + _FLOAT.pack(piece.score)
    return _bytes_field(_PIECE_TEXT, piece.text.encode()) + score + _integer_field(_PIECE_KIND, piece.kind)
