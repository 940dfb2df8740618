"""The hub of published models, where it may be out of reach: libraries of the hub try six times and half a minute before they say so.

In: the name of a model or tokenizer. Out: a context in which transformers and timm read what this machine has of it, and ask the hub for
the rest only where it answers at all.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from mm1_ablate.config.local_path import local

LONGEST_SILENCE = 10.0
"""Seconds that a connection to the hub may take: as long as the hub's own libraries wait for an answer."""


class Unavailable(Exception):
    """A model, configuration or tokenizer that this machine lacks."""


@contextmanager
def hub_if_reachable(name: str) -> Iterator[None]:
    """Within, a hub that cannot be reached is not asked, and for a path no hub is.

    Libraries raise OSError of what is neither here nor to be fetched.
    """
    from huggingface_hub import constants

    declared = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = declared or (local(name) is None and not _answers(constants.ENDPOINT))
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = declared


@cache
def _answers(address: str) -> bool:
    """Whether a connection can be made, through a proxy if the environment names one; whatever the answer is."""
    try:
        urlopen(Request(address, method="HEAD"), timeout=LONGEST_SILENCE).close()
    except HTTPError:
        return True
    except URLError as error:
        # Certificates are the libraries' to judge.
        return isinstance(error.reason, ssl.SSLError)
    except OSError:
        return True
    return True
