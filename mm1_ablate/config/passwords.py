"""Passwords, tokens and signatures in addresses: for whoever opens an address, and for nobody who reads what this program writes.

In: texts with addresses. Out: the same without `user:password@` and without signatures in queries, for the store, the terminal, logs and
MLflow; and for a declared address that was read back from there, the whole one again (`with_password`), as long as this process, or the
one that started it, has read the declaration. Trials are told by their environment (`VARIABLE`), not by the store.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any, TextIO, TypeVar

HIDDEN = "***"
VARIABLE = "MM1_ABLATE_ADDRESSES"
"""Environment variable of children: declared addresses with passwords, as JSON, by what is shown of them."""
SECRET = (
    r"sig|signature|x-[\w-]*-signature|x-amz-security-token|token|[\w-]*[_-]token|password|passwd|pwd|secret|api[_-]?key|auth|authorization"
)
"""Names of parameters by whose values an address may be opened."""
_USER = re.compile(r"""://[^\s/@:"'<>]*:[^\s/"'<>]*@|(?:(?<=http)|(?<=https))://[^\s/:@"'<>]+@""")
_QUERY = re.compile(r"""\?([^\s"'<>#?)\]},;\\|`]*)""")
_SECRET = re.compile(rf"(?:{SECRET})=(?!{re.escape(HIDDEN)})", re.IGNORECASE)
_SIGNING = re.compile(
    rf"(?:{SECRET}|x-(?:amz|goog|ms)-.*|awsaccesskeyid|googleaccessid|expires|policy|key-pair-id|s[evrpt]|spr|sk[evst]|skoid|sktid)=", re.I
)
"""What changes with each signature too: who signed, and for how long."""
_ALONE = re.compile(rf"""([?&](?:{SECRET})=)(?!{re.escape(HIDDEN)})[^&\s"'<>]+""", re.IGNORECASE)
_LEFT = re.compile(rf"[?&]{re.escape(HIDDEN)}(?=#|$)")
_whole: dict[str, str] = {}
"""Addresses that were declared, or found by a declared one, by what is shown of them."""
Value = TypeVar("Value")


def without_passwords(text: str) -> str:
    """A text with `***` in place of what addresses in it are opened by. One without such addresses is returned as it is."""
    if "://" in text:
        text = _USER.sub(f"://{HIDDEN}@", text)
    if "=" in text and _SECRET.search(text):
        text = _ALONE.sub(rf"\g<1>{HIDDEN}", _QUERY.sub(_without_signature, text))
    return text


def _without_signature(query: re.Match[str]) -> str:
    parts = query[1].split("&")
    if not any(_SECRET.match(part) for part in parts):
        return query[0]
    return "?" + "&".join([*(part for part in parts if not _SIGNING.match(part)), HIDDEN])


def hidden(value: Value) -> Value:
    """As `without_passwords`, of all texts in a JSON value, keys too."""
    if isinstance(value, str):
        return without_passwords(value)  # type: ignore[return-value]
    if isinstance(value, dict):
        return {hidden(key): hidden(entry) for key, entry in value.items()}  # type: ignore[return-value]
    if isinstance(value, list | tuple):
        return type(value)(map(hidden, value))  # type: ignore[call-arg, return-value]
    return value


def identity_of_address(address: str) -> str:
    """What an address is called in digests: the same whoever opens it, and with each new signature."""
    return _LEFT.sub("", without_passwords(address).replace(f"://{HIDDEN}@", "://"))


# ---------------------------------------------------------------- whole addresses
def remember(address: str) -> str:
    """What is shown of an address, which `with_password` makes whole again in this process."""
    shown = without_passwords(address)
    if shown != address:
        _whole[shown] = address
        if f"://{HIDDEN}@" in shown:  # any other path of the same server is opened likewise
            _whole[_server(shown)] = _server(address)
    return shown


def with_password(shown: str) -> str:
    """The whole address; the same where nothing is hidden in it or nobody here knows what."""
    if HIDDEN not in shown:
        return shown
    known = _whole | json.loads(os.environ.get(VARIABLE) or "{}")
    if shown in known:
        return str(known[shown])
    server = _server(shown)
    return known[server] + shown.removeprefix(server) if server in known else shown


def known_addresses() -> dict[str, str]:
    """What children need so that `with_password` knows there what it knows here."""
    inherited: dict[str, str] = json.loads(os.environ.get(VARIABLE) or "{}")
    return inherited | _whole


def _server(address: str) -> str:
    """Scheme, user and host of an address."""
    scheme, between, rest = address.partition("://")
    user, at, path = rest.rpartition("@") if "@" in rest.split("/")[0] else ("", "", rest)
    return f"{scheme}{between}{user}{at}{path.partition('/')[0]}"


# ---------------------------------------------------------------- what is printed
class WithoutPasswords:
    """A text stream that hides what addresses are opened by, and is another stream otherwise."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(without_passwords(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
