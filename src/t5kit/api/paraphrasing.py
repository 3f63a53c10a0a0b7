"""Other words for inputs, made by a model before a run, and kept in the run's data so that they are made once."""

import dataclasses
import hashlib
import json
import warnings
from collections.abc import Sequence
from pathlib import Path

from t5kit.errors import RequestError, T5kitError
from t5kit.tasks.augmentation import Paraphrase

PARAPHRASES = "paraphrases.json"
"""What a paraphrasing callable made, in the run's data."""
CUT, REFUSED = "a translation was cut at the length limit", "a model could not take the text"
"""Why back-translation leaves a text as it is."""


@dataclasses.dataclass(frozen=True)
class BackTranslation:
    """A `Paraphrase` that puts texts into another language and back, by one model or one for each way.

    Texts that a model cannot take, and those whose translation is cut at the length limit on either way, come back as
    they are; of them a UserWarning tells.
    Raises: RequestError for another number of models, or a template without {text}.
    """

    models: Sequence[str | Path]
    """One or two folders or Hub ids, opened when it is called."""
    there: str
    """Template with {text} in it, such as "translate English to German: {text}"."""
    back: str
    threads: int | None = None
    offline: bool | None = None

    def __post_init__(self) -> None:
        if not 1 <= len(self.models) <= 2:
            raise RequestError(f"back-translation takes one or two models, got {len(self.models)}.")
        for template in (self.there, self.back):
            if "{text}" not in template:
                raise RequestError(f"the back-translation template {template!r} has no {{text}} in it.")

    @property
    def identity(self) -> list[str]:
        """What its answers hang on."""
        return [*map(str, self.models), self.there, self.back]

    def __call__(self, texts: list[str]) -> list[str]:
        """Return each text in other words, or as it is."""
        left = {CUT: 0, REFUSED: 0}
        halfway = {n: text for n, text in enumerate(self._translated(0, texts, left)) if text is not None}
        returned = self._translated(1, list(halfway.values()), left) if halfway else []
        found = list(texts)
        for n, text in zip(halfway, returned, strict=True):
            if text is not None:
                found[n] = text
        if any(left.values()):
            reasons = " and ".join(f"of {number:,} {why}" for why, number in left.items() if number)
            warnings.warn(
                f"back-translation leaves {sum(left.values()):,} of {len(texts):,} inputs out: {reasons}.",
                UserWarning,
                stacklevel=2,
            )
        return found

    def _translated(self, way: int, texts: list[str], left: dict[str, int]) -> list[str | None]:
        """Return each text's translation, or None and one more of those left for that reason. way: 0 there, 1 back."""
        from t5kit.api.model import Model

        name, template = (self.models[0], self.there) if way == 0 else (self.models[-1], self.back)
        with Model.from_pretrained(name, threads=self.threads, offline=self.offline) as model:
            answers = model.try_generate([template.replace("{text}", text) for text in texts])
        found: list[str | None] = []
        for answer in answers:
            if isinstance(answer, T5kitError):
                left[REFUSED] += 1
                found.append(None)
            elif answer[0].finish_reason == "length":
                left[CUT] += 1
                found.append(None)
            else:
                found.append(answer[0].text)
        return found


class KeptParaphrases:
    """A `Paraphrase` that does not ask again for what a run's data keep.

    The same texts by the same means are answered from `path`, where a run that was begun has them; `content` is what
    it should hold. A callable says what its answers hang on by an attribute `identity`; without it all are held to be
    one.
    """

    def __init__(self, paraphrase: Paraphrase, path: Path) -> None:
        self._paraphrase, self._path = paraphrase, path
        self._asked = ""
        self._found: list[str] = []

    def __call__(self, texts: list[str]) -> list[str]:
        """Return what is kept, or what the callable makes of the texts."""
        identity = getattr(self._paraphrase, "identity", None)
        self._asked = hashlib.sha256(json.dumps([identity, texts], default=repr).encode()).hexdigest()
        self._found = self._kept(len(texts)) or self._paraphrase(texts)
        return self._found

    def _kept(self, num_texts: int) -> list[str]:
        """Return what the file has for what is asked, or nothing."""
        try:
            kept = json.loads(self._path.read_text(encoding="utf-8"))
            found = kept["found"] if kept["asked"] == self._asked else []
        except (OSError, ValueError, TypeError, KeyError):
            return []
        is_whole = isinstance(found, list) and len(found) == num_texts and all(isinstance(text, str) for text in found)
        return found if is_whole else []

    @property
    def content(self) -> str:
        """The file, for the run's data."""
        return json.dumps({"asked": self._asked, "found": self._found}, indent=0) + "\n"
