"""What a server serves and how much it takes on, as plain frozen data."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

from t5kit.api.engines import Engine, Weights
from t5kit.errors import ConfigError
from t5kit.scheduling import ServiceLimits

MIB = 2**20


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """One model to serve."""

    name: str
    """What requests call it."""
    path: Path
    """Its folder."""
    adapters: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    """Name -> folder of an adapter; requests name it in place of the model."""
    engine: Engine = "auto"
    weights: Weights = "auto"
    threads: int | None = None
    device: str = "auto"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RequestLimits:
    """What a single request, a client and the server as a whole may ask for; above it is refused, never cut."""

    max_input_tokens: int = 4096
    """Tokens of one text."""
    max_new_tokens: int = 2048
    """Tokens that one answer may be asked to have, or a given target may have."""
    max_texts: int = 512
    """Texts (or labels, candidates, targets) in one request."""
    max_pairs: int = 16_384
    """Pairs of a text and a label (candidate, target) in one request: the reply to so many takes a tenth of a second to
    write, during which nobody else is answered."""
    max_stop_strings: int = 64
    """Stop strings of one request: each is looked for at each token of an answer."""
    max_body_bytes: int = 4 * MIB
    """Bytes of one request's body."""
    max_grammar_bytes: int = 64 * 1024
    """Bytes of a regex, or of a json_schema as JSON: translating one takes time that grows faster than it does."""
    max_requests: int = 2048
    """Texts that one model holds at a time, answered and waiting ones together; then come refusals (429). A client may
    hold as many as it leaves free, so alone half of them."""
    max_queued_tokens: int = 2_000_000
    """Tokens of prompts and given targets that one model holds at a time, shared in the same way."""
    timeout_s: float = 60.0
    """Seconds for a request that names none."""
    max_timeout_s: float = 600.0
    """Seconds that a request may name."""
    requests_per_minute: int = 0
    """Of one client; 0 is no limit."""
    wrong_keys_per_minute: int = 20
    """API keys that are nobody's, which one address may try; 0 is no limit."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, least = getattr(self, field.name), 0 if field.name.endswith("_per_minute") else 1
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not value >= least:
                raise ConfigError(f"{field.name} = {value!r} must be a number of at least {least}.")
        if self.timeout_s > self.max_timeout_s:
            raise ConfigError(
                f"timeout_s = {self.timeout_s:g} must not be above max_timeout_s = {self.max_timeout_s:g}."
            )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ServingConfig:
    """A whole server."""

    models: tuple[ModelSource, ...]
    """The first one answers requests that name no model."""
    limits: RequestLimits = dataclasses.field(default_factory=RequestLimits)
    service: ServiceLimits = dataclasses.field(default_factory=ServiceLimits)
    """Of each model."""
    api_keys: Mapping[str, str] = dataclasses.field(default_factory=dict, repr=False)
    """Name of a client -> its key; empty: anyone may ask."""
    cors_origins: tuple[str, ...] = ()
    """Origins whose pages may call the server from a browser."""
    allowed_hosts: tuple[str, ...] = ()
    """Names or addresses that requests may be meant for (Host), beside this machine's own; "*", or none here: any. A
    server that only this machine hears takes none for its own alone."""
    logs_texts: bool = False
    """Write the users' texts into the log."""
    is_page_shown: bool = True
    """Show the page at /."""

    def __post_init__(self) -> None:
        names = [name for model in self.models for name in (model.name, *model.adapters)]
        if not names:
            raise ConfigError("There is no model to serve; name at least one.")
        repeated = {name for name in names if names.count(name) > 1}
        if repeated:
            raise ConfigError(
                f"The name {min(repeated)!r} stands for two models or adapters; give one of them another (NAME=PATH)."
            )


def default_max_cache_bytes() -> int:
    """Return a quarter of this machine's memory, or 2 GiB where it does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4
    except (AttributeError, OSError, ValueError):
        return 2048 * MIB
