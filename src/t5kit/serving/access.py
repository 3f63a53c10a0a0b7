"""Who may ask, where, and how often: API keys, hosts, rate limits, and how often a wrong key may be tried."""

import collections
import hashlib
import hmac
import ipaddress
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from t5kit.errors import ConfigError, OverloadedError

_HOST = re.compile(r"(\[(?P<address>[0-9a-f:.]+)\]|(?P<name>[^\s:@/\[\]]+))(:[0-9]*)?")
_MAX_CLIENTS = 10_000
"""Clients whose rate is remembered; the one not seen for the longest is forgotten first."""


class ApiKeys:
    """Keys by the name of their client. Only digests are kept, and every comparison takes the same time."""

    def __init__(self, keys: Mapping[str, str]) -> None:
        self._digests = {name: _digest(key) for name, key in keys.items()}

    def __bool__(self) -> bool:
        return bool(self._digests)

    def client_of(self, key: str) -> str | None:
        """Return whose key this is, or None. All keys are compared, whichever fits."""
        given = _digest(key)
        found = None
        for name, digest in self._digests.items():
            if hmac.compare_digest(given, digest):
                found = name
        return found


class RateLimiter:
    """A token bucket for each client: so many requests a minute, as many at once."""

    def __init__(
        self, requests_per_minute: int, clock: Callable[[], float] = time.monotonic, *, what: str = "requests"
    ) -> None:
        """requests_per_minute: 0 is no limit. what: they are called where one is refused."""
        self._what = what
        self._rate = requests_per_minute / 60
        self._burst = float(requests_per_minute)
        self._clock = clock
        self._buckets: collections.OrderedDict[str, tuple[float, float]] = collections.OrderedDict()
        """Client -> (requests it may make, at this time)."""

    def take(self, client: str) -> None:
        """Count a request. Raises: OverloadedError if the client has none left."""
        if not self._rate:
            return
        now = self._clock()
        left = self._left(client, now)
        self._buckets.pop(client, None)
        self._buckets[client] = (left - 1 if left >= 1 else left, now)
        if len(self._buckets) > _MAX_CLIENTS:
            self._buckets.popitem(last=False)
        self._refuse_below_one(left)

    def check(self, client: str) -> None:
        """Raise the OverloadedError that `take` would raise now; count nothing."""
        if self._rate:
            self._refuse_below_one(self._left(client, self._clock()))

    def _left(self, client: str, now: float) -> float:
        left, since = self._buckets.get(client, (self._burst, now))
        return min(self._burst, left + (now - since) * self._rate)

    def _refuse_below_one(self, left: float) -> None:
        if left < 1:
            raise OverloadedError(
                f"More than {self._burst:g} {self._what} a minute. Nothing was begun; ask more slowly.",
                retry_after_s=(1 - left) / self._rate,
            )


class KeyGuard:
    """Says whose key a request bears, and how often an address may try keys that are nobody's.

    An address that tried too often is refused before its key is looked at, or guessing would go on; but clients that
    it was seen to be before are let in, so that one with a wrong key locks out no other behind the same address.
    """

    def __init__(self, keys: ApiKeys, wrong_keys_per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        """wrong_keys_per_minute: an address's; 0 is no limit."""
        self._keys = keys
        self._wrong = RateLimiter(wrong_keys_per_minute, clock, what="wrong API keys from this address")
        self._seen: collections.OrderedDict[tuple[str, str], None] = collections.OrderedDict()
        """(place, client) that were let in, the latest last."""

    def __bool__(self) -> bool:
        return bool(self._keys)

    def client_of(self, key: str, address: str) -> str | None:
        """Return whose key this is, or None. Raises: OverloadedError for an address that tried too many."""
        place, client = _network(address), self._keys.client_of(key)
        if client is None:
            self._wrong.take(place)
            return None
        if (place, client) not in self._seen:
            self._wrong.check(place)
        self._seen[place, client] = None
        self._seen.move_to_end((place, client))
        if len(self._seen) > _MAX_CLIENTS:
            self._seen.popitem(last=False)
        return client


class HostGuard:
    """Says whether a request is meant for this server, by the host that its client asked for.

    A page of any site can make a browser ask a server of the same machine as if it were that site: it lets its own name
    stand for 127.0.0.1 (DNS rebinding). The name that the browser sends as Host gives it away.
    """

    def __init__(self, allowed: Sequence[str]) -> None:
        """allowed: names and addresses, beside which this machine's own are; none at all, or "*", allows any."""
        self._is_any = not allowed or "*" in allowed
        self._names = {_host_name(each) or each.lower() for each in allowed} | {"localhost"}

    def allows(self, host: str | None) -> bool:
        """Return whether requests with this Host header are answered; None: it has none, which no browser sends.

        >>> guard = HostGuard(["t5.example"])
        >>> [guard.allows(host) for host in ("T5.example:8000", "localhost", "127.0.0.2:80", "[::1]:8000", "a.example")]
        [True, True, True, True, False]
        """
        if self._is_any or host is None:
            return True
        name = _host_name(host)
        return name in self._names or is_loopback(name)


def is_loopback(address: str) -> bool:
    """Return whether an IP address is heard by this machine alone."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def read_api_keys(path: Path | None, variable: str | None) -> dict[str, str]:
    """Return name -> key of a file and of an environment variable's value.

    The file has one key a line, "name = key" or the key alone; empty lines and those that begin with # are passed over.
    The variable separates keys by commas, in the same forms.
    Raises: ConfigError for a file that cannot be read or holds no key, or a name or key that stands twice; no message
    holds a key.
    """
    entries: list[tuple[str, str]] = []
    if path is not None:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: the API keys cannot be read ({type(error).__name__}).") from error
        entries += [(f"{path}:{number}", line) for number, line in enumerate(lines, 1)]
    if variable is not None:
        entries += [(f"T5KIT_API_KEYS[{number}]", part) for number, part in enumerate(variable.split(","), 1)]
    keys: dict[str, str] = {}
    for place, entry in entries:
        entry = entry.strip()
        if not entry or entry.startswith("#"):
            continue
        name, separator, key = entry.partition("=")
        name, key = (name.strip(), key.strip()) if separator else (f"key {len(keys) + 1}", entry)
        if len(key) < 8 or not key.isascii() or not key.isprintable() or " " in key:
            raise ConfigError(f"{place}: a key must have at least 8 printable ASCII characters without spaces.")
        if name in keys or key in keys.values():
            raise ConfigError(f"{place}: the name or key stands there twice; each client needs one of its own.")
        keys[name] = key
    if not keys and (path is not None or variable is not None):
        raise ConfigError(f"{path or 'T5KIT_API_KEYS'} holds no API key; leave it out to let anyone ask.")
    return keys


def _host_name(host: str) -> str:
    """Return a Host header's name or address, without its port and the brackets of IPv6; "" for what is none."""
    found = _HOST.fullmatch(host.lower())
    return "" if found is None else (found["address"] or found["name"]).removesuffix(".")


def _network(address: str) -> str:
    """Return the part of an address that stands for one owner: of IPv6 the first 64 bits."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:  # a socket's name, or nothing known
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return address
    return str(parsed.ipv4_mapped or ipaddress.ip_network((parsed, 64), strict=False))


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
