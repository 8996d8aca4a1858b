"""How the text of a setting is read. Each raises ValueError with words that follow the setting's name."""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable
from typing import Final

from msgspec import Struct


class Key(Struct, frozen=True):
    """An API key and the name by which it may be spoken of."""

    name: str
    secret: str

    def __repr__(self) -> str:
        return f"Key({self.name!r})"


class ModelName(Struct, frozen=True):
    """A model name of the user's own: offered as `name`, asked of the CLI as `target`."""

    name: str
    target: str


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    wanted = f"of {least} or more" if most is None else f"between {least} and {most}"

    def read(text: str) -> int:
        # `int` alone takes digits of every script, and "1_0".
        if not re.fullmatch(r"[0-9]{1,18}", text) or int(text) < least or (most is not None and int(text) > most):
            raise ValueError(f"must be a whole number {wanted}")
        return int(text)

    return read


def or_auto(number: Callable[[str], int]) -> Callable[[str], int | str]:
    def read(text: str) -> int | str:
        if text.lower() == "auto":
            return "auto"
        try:
            return number(text)
        except ValueError as error:
            raise ValueError(f"{error}, or auto") from None

    return read


def seconds(least: int) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= 86_400 * 7:
            raise ValueError(f"must be a number of seconds, {least} at least and a week at most")
        return value

    return read


def loopback(host: str) -> bool:
    """Whether only this computer can reach a server that is bound to `host`. When in doubt: no."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def address(text: str) -> str:
    host = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        if not re.fullmatch(r"[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*", host):
            raise ValueError("must be an address or a host name, without scheme and port") from None
        return host


def one_of(*choices: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text.lower() not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return text.lower()

    return read


def switch(text: str) -> bool:
    if text.lower() not in ("on", "off", "1", "0", "true", "false", "yes", "no"):
        raise ValueError("must be on or off")
    return text.lower() in ("on", "1", "true", "yes")


def names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (part.strip() for part in text.split(","))))


def names_like(pattern: str, words: str) -> Callable[[str], tuple[str, ...]]:
    """Reads names that all have this form; `words`: what they must be."""

    def read(text: str) -> tuple[str, ...]:
        found = names(text)
        if not all(re.fullmatch(pattern, name) for name in found):
            raise ValueError(words)
        return found

    return read


origin_list: Final = names_like(
    r"[A-Za-z][A-Za-z0-9+.-]*://[^\s/?#*]+/?", "must be origins such as https://app.example, separated by commas"
)
host_list: Final = names_like(
    r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]+)?",
    "must be host names such as nas.local, without scheme, separated by commas",
)


def key_list(text: str) -> tuple[Key, ...]:
    keys = []
    for number, part in enumerate(names(text), 1):
        name, colon, secret = part.partition(":")
        keys.append(Key(name, secret) if colon else Key(f"key-{number}", part))
        if not re.fullmatch(r"[\w.@-]+", keys[-1].name) or not re.fullmatch(r"[!-~]+", keys[-1].secret):
            raise ValueError("must be keys of plain ASCII, separated by commas, each optionally as name:key")
    if len({key.name for key in keys}) != len(keys):
        raise ValueError("must not give one name to two keys")
    if not keys:
        raise ValueError("must hold at least one key")
    return tuple(keys)


def model_list(text: str) -> tuple[ModelName, ...]:
    models = []
    for part in names(text):
        name, _, target = (side.strip() for side in part.partition("="))
        if not name or ("=" in part and not target):
            raise ValueError("must be model names separated by commas, each optionally as name=model of Claude")
        models.append(ModelName(name, target or name))
    if len({model.name for model in models}) != len(models):
        raise ValueError("must not give one name two meanings")
    return tuple(models)


def url(text: str) -> str:
    if not re.fullmatch(r"https?://[^\s/?#]+[^\s?#]*", text):
        raise ValueError("must be an http or https URL, without a query")
    return text


def fallback(text: str) -> str:
    kind, _, model = text.partition(":")
    if text.lower() in ("api-key", "bedrock", "vertex"):
        return text.lower()
    if kind.lower() != "model" or not re.fullmatch(r"[!-~]{1,100}", model):
        raise ValueError("must be api-key, bedrock, vertex, or model: with the name of a model, such as model:haiku")
    return f"model:{model}"


def dollars(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,6})?", text):
        raise ValueError("must be a number of dollars, 0 or more")
    return float(text)
