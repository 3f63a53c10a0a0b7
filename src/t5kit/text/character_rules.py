"""Prompts whose words are written letter by letter: what a vocabulary of word pieces hides from tasks about words.

A rule names the beginning of a prompt. What follows it is written in characters, and on request the target too, while
every other text keeps the vocabulary's pieces. Decoding needs no rule, since characters are pieces themselves.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from t5kit.errors import TokenizerError

CONFIG_KEY = "t5kit_character_rules"
"""Where tokenizer_config.json keeps them; other tools do not know it and write pieces."""
MOST_RULES = 1000


@dataclasses.dataclass(frozen=True, slots=True)
class CharacterRule:
    """Prompts that begin with `prefix` go on in characters: with "spell: ", `spell: teh` -> [▁spell, :, ▁, t, e, h]."""

    prefix: str
    """Beginning of a prompt, any space after it included."""
    in_targets: bool = False
    """The target of such a prompt is written in characters too."""

    def __post_init__(self) -> None:
        if not isinstance(self.prefix, str) or not self.prefix.strip():
            raise TokenizerError(
                f"a character rule's prefix is {self.prefix!r:.60}; expected the beginning of a prompt."
            )
        if not isinstance(self.in_targets, bool):
            raise TokenizerError(f"a character rule's in_targets is {self.in_targets!r:.60}; expected true or false.")

    @classmethod
    def of(cls, plain: Any, *, where: str) -> Self:
        """Return the rule that a JSON object describes. Raises: TokenizerError saying what is wrong where."""
        known = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(plain, dict) or "prefix" not in plain or not set(plain) <= known:
            raise TokenizerError(f"{where} is {plain!r:.80}; expected an object of prefix and in_targets.")
        try:
            return cls(**plain)
        except TokenizerError as error:
            raise TokenizerError(f"{where}: {error}") from None


def rules_from_json(plain: Any, path: Path) -> tuple[CharacterRule, ...]:
    """Return the rules of tokenizer_config.json at `path`. Raises: TokenizerError naming the file and the entry."""
    if not isinstance(plain, list) or len(plain) > MOST_RULES:
        raise TokenizerError(f"{path}: {CONFIG_KEY} is {plain!r:.60}; expected a list of at most {MOST_RULES} rules.")
    return tuple(CharacterRule.of(rule, where=f"{path}: {CONFIG_KEY}[{n}]") for n, rule in enumerate(plain))


def rules_to_json(rules: Sequence[CharacterRule]) -> dict[str, object]:
    """Return the entry of tokenizer_config.json, or nothing where there are no rules."""
    return {CONFIG_KEY: [dataclasses.asdict(rule) for rule in rules]} if rules else {}


def rule_of(prompt: str, rules: Sequence[CharacterRule]) -> CharacterRule | None:
    """Return the rule with the longest prefix of this prompt, or None."""
    found = [rule for rule in rules if prompt.startswith(rule.prefix)]
    return max(found, key=lambda rule: len(rule.prefix), default=None)
