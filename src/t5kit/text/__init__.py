"""Text <-> ids: SentencePiece, tokenizer.json and bytes; sentinels; the incremental detokeniser; new vocabularies."""

from t5kit.text.byte_tokenizer import ByteSentinels, ByteTokenizer
from t5kit.text.character_rules import CharacterRule
from t5kit.text.detokenizer import Detokenizer
from t5kit.text.json_tokenizer import JsonTokenizer
from t5kit.text.loading import load_tokenizer
from t5kit.text.sentencepiece_tokenizer import SentencePieceTokenizer
from t5kit.text.tokenizer import Tokenizer
from t5kit.text.vocabulary_training import train_tokenizer

__all__ = [
    "ByteSentinels",
    "ByteTokenizer",
    "CharacterRule",
    "Detokenizer",
    "JsonTokenizer",
    "SentencePieceTokenizer",
    "Tokenizer",
    "load_tokenizer",
    "train_tokenizer",
]
