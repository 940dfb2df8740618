"""How this process joins a Ray cluster. In: an address as people give it. Out: a connection, or in a sentence why there is none.

Ray itself tries for minutes where nobody answers, and of a token that is not taken it says only that it cannot connect.
"""

from __future__ import annotations

import logging
import os
import socket

PATIENCE = 5.0
"""Seconds that whoever listens at an address has to answer."""
MODE = "RAY_AUTH_MODE"
SAME_TOKEN = "~/.ray/auth_token, or what RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN names, must be the same here and on its nodes"
FROM_ELSEWHERE = (
    "is no address that trials can be started from: run the command on the cluster's head with --address auto, or send it there with"
    " `ray job submit --address http://HEAD:8265 -- mm1-ablate run ...`"
)


def join(address: str) -> None:
    """Connect this process to the cluster at an address: `auto`, or host:port of its head.

    Raises:
        ConnectionError: nobody answers there, or our token is not taken; what to do is said.
    """
    import ray

    place = place_of(address)
    show_token(place)
    try:
        ray.init(address=place, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ray.exceptions.AuthenticationError) as error:
        raise explain(error, place) from error


def place_of(address: str) -> str:
    """Host and port of an address, once somebody answers there.

    Raises:
        ConnectionError: it is no such address, or nobody answers.
    """
    from ray._private.services import canonicalize_bootstrap_address

    named = os.environ.get("RAY_ADDRESS") or address if address == "auto" else address
    if "://" in named:
        raise ConnectionError(f"{named} {FROM_ELSEWHERE}")
    try:
        place = canonicalize_bootstrap_address(address) or address
        host, _, port = place.rpartition(":")
        with socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE):
            return place
    except ValueError:
        raise ConnectionError(f"{named} is no address of a Ray cluster: give the head's host:port, such as 10.0.0.1:6379") from None
    except OSError as error:
        reason = error.strerror or str(error).strip()
        raise ConnectionError(f"no Ray cluster at {named}: {reason}") from error


def refuses(address: str) -> bool:
    """Whether there is a cluster at an address that does not take our token, or our lack of one; Ray says only that it cannot connect."""
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.exceptions import AuthenticationError

    host, _, port = address.rpartition(":")
    try:
        # Where nobody answers, Ray's client tries for most of a minute.
        with socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE):
            GcsClient(address=address)
    except AuthenticationError:
        return True
    except Exception:  # nobody answers there, or it is no host:port
        return False
    return False


def show_token(address: str) -> None:
    """Show the token that this machine has to a cluster that wants one.

    Clusters want one unless RAY_AUTH_MODE says otherwise; whoever joins them by an explicit address shows none unless it says so.
    """
    if MODE not in os.environ and refuses(address):
        from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available

        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


def explain(error: Exception, address: str) -> ConnectionError:
    """Why there is no connection to the cluster at an address, and what to do."""
    from ray.exceptions import AuthenticationError

    if isinstance(error, AuthenticationError):
        return ConnectionError(f"no token for the Ray cluster at {address}: {str(error).split('. ')[0]}; {SAME_TOKEN}")
    if refuses(address):
        return ConnectionError(f"the Ray cluster at {address} does not take the token of this machine; {SAME_TOKEN}")
    return ConnectionError(f"no Ray cluster at {address}: {str(error).strip()}")
