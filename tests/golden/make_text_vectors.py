"""Remake tests/golden/text: tricky texts and the ids that the official vocabularies of T5 and mT5 give them.

Run by hand, never by a test:
    python tests/golden/make_text_vectors.py T5_SPIECE_MODEL MT5_SPIECE_MODEL      (sentencepiece 0.2.3, protobuf)

Nothing of t5kit is used. T5's sentinels are added to its model as seqio does it (vocabularies.py,
`SentencePieceVocabulary._load_model_internal`): pieces `▁<extra_id_99>` … `▁<extra_id_0>`, user-defined, score 0.
mT5's model holds them already. Ids are without EOS. Long texts are given as a text and how often it is repeated, and
frozen as the number of ids and the SHA-256 of their little-endian int32 bytes.
"""

import hashlib
import json
import pathlib
import sys
import unicodedata

import numpy as np
import sentencepiece
from sentencepiece import sentencepiece_model_pb2

OUT = pathlib.Path(__file__).parent / "text" / "official_ids.json"
NUM_SENTINELS = 100

TEXTS = [
    "",
    " ",
    "\n",
    " \t\r\n\v\f ",
    "translate English to German: That is good.",
    "summarize: The quick brown fox jumps over the lazy dog, twice; then it rests (a while).",
    "  leading, double  and   trailing spaces  ",
    "line one\nline two\r\nline three\rend",
    "tab\tseparated\tvalues",
    "no-break\u00a0space, thin\u2009space, ideographic\u3000space, zero\u200bwidth, word\u2060joiner",
    "line\u2028paragraph\u2029next\u0085line",
    "\ufeffbyte order mark",
    "soft\u00adhyphen and \u2011 non-breaking hyphen",
    "".join(map(chr, range(0x20))),
    "a\x00b\x01c\x07d\x1be\x7ff\x80g\x9fh",
    "{braces} [brackets] <angles> \\backslash ~tilde ^caret `tick` |pipe|",
    "if (x < 3 && y > 4) { return x[0]; }",
    "---- -------- ... ...... !!!???",
    "e-mail: someone@example.org, https://example.org/a_b?c=d&e=%20#f",
    "1234567890 3.14159 1,000,000 50% $9.99 €5 £7 ¥1000",
    "ＡＢＣ １２３ ｆｕｌｌ－ｗｉｄｔｈ！",
    "ﬁne ﬂow oﬃce ﬀ ĳ ŉ ǆ",
    "½ ¾ ⅓ x² H₂O Ⅷ ⅳ ① ⑳ ㊙ ㍿ ㎏ ㏂",
    "™ ® © ℃ № ℡ … ‥ ″ ‴ ⁉",
    "ｶﾞｷﾞｸﾞ ﾊﾟﾋﾟ ﾊﾝｶｸ",
    "e\u0301 a\u0302\u0301 o\u0308 n\u0303 A\u030a (decomposed)",
    "\u212b \u00c5 \u2126 \u03a9 \u1e9b\u0323",
    "a\u0301\u0327\u0323 q\u0307\u0323 marks that pile up: Z\u0351\u036b\u0343a\u0334\u0321l\u0321g\u0322o\u0320",
    unicodedata.normalize("NFD", "Tiếng Việt có dấu: ấ ầ ẩ ẫ ậ ế ề ể ễ ệ"),
    unicodedata.normalize("NFC", "Tiếng Việt có dấu: ấ ầ ẩ ẫ ậ ế ề ể ễ ệ"),
    unicodedata.normalize("NFD", "한국어 문장입니다"),
    "한국어 문장입니다. 대한민국",
    "日本語のテキスト、漢字とかな。",
    "简体中文和繁體中文，標點符號。",
    "Привет, мир! Ёлка и объём.",
    "مرحبا بالعالم، كيف الحال؟ ﷺ ﻻ",
    "שָׁלוֹם עוֹלָם",
    "नमस्ते दुनिया क़ ड़",
    "สวัสดีชาวโลก ก็ น้ำ",
    "Ελληνικά: ᾧ ἄνθρωπος, ῥόδον",
    "Straße, GROẞ, İstanbul, ıssız, Ǆ, ǅ",
    "Grüße aus München, façade, naïve, coöperate, Škoda, Łódź, ștefan, ţară",
    "😀 👍🏽 👩‍👩‍👧‍👦 🇩🇪 ☕️ ❤️‍🔥 1️⃣",
    "𝕳𝖊𝖑𝖑𝖔 𝟙𝟚𝟛 𐍈 𠜎 \U0010ffff \ufffd \ufffe",
    "\ue000 private use \uf8ff",
    "\u202eright to left override\u202c",
    "\u2581 \u2581word in\u2581word \u2581\u2581",
    "x\u2585y \u2047 \u2047",
    "Pneumonoultramicroscopicsilicovolcanoconiosis Donaudampfschifffahrtsgesellschaftskapitän",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "The</s> end<pad> of <unk> it <s> <0x41> <0xE2>",
    "<extra_id_0>",
    "<extra_id_0>. Hello",
    "Thank you <extra_id_0> me to your party <extra_id_1> week.",
    "<extra_id_0> for inviting <extra_id_1> last <extra_id_2>",
    "  <extra_id_0>  \n <extra_id_99>\tend",
    "glued<extra_id_0> (<extra_id_1>) <extra_id_2><extra_id_3>",
    "no sentinels: <extra_id_100> <extra_id_-1> <extra_id_00> <extra_id_ 1> <extra_id_1 extra_id_1",
    "wide space\u3000<extra_id_5>, \u2581<extra_id_6>",
    "CAPITALS, MiXeD cAsE, snake_case, camelCase, kebab-case, v1.2.3-rc4",
    "“curly” ‘quotes’ «guillemets» „low“ – en — em ― bar",
    "O'Neill's don't won't it's 'tis rock'n'roll",
]
REPEATED = [
    ("The quick brown fox jumps over the lazy dog. ", 2223),
    ("word", 25_000),
    ("a", 100_000),
    ("-", 5_000),
    (" \n\t", 30_000),
    ("日本語 ", 20_000),
    ("é{ﬁ😀", 10_000),
    ("<extra_id_0> x ", 1_000),
]


def digest(ids: list[int]) -> str:
    """Return the SHA-256 of ids as little-endian int32."""
    return hashlib.sha256(np.array(ids, dtype="<i4").tobytes()).hexdigest()


def main() -> None:
    """Write the vectors."""
    processors = {}
    for name, path in zip(("t5", "mt5"), sys.argv[1:3], strict=True):
        model = sentencepiece_model_pb2.ModelProto.FromString(pathlib.Path(path).read_bytes())
        if name == "t5":
            for index in reversed(range(NUM_SENTINELS)):
                model.pieces.add(piece=f"▁<extra_id_{index}>", score=0.0, type=4)
        processors[name] = sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
    lines = []
    for text in TEXTS:
        lines.append({"text": text} | {name: processor.encode(text) for name, processor in processors.items()})
    for text, repeat in REPEATED:
        entry: dict[str, object] = {"text": text, "repeat": repeat}
        for name, processor in processors.items():
            ids = processor.encode(text * repeat)
            entry[name] = {"num_ids": len(ids), "sha256": digest(ids)}
        lines.append(entry)
    rows = ",\n".join(json.dumps(line) for line in lines)
    OUT.write_text(f"[\n{rows}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
