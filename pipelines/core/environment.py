"""The variables and the address that the studio is started with: checked before anything is loaded, refused in one line.

Imports neither torch nor gradio, which reads its own variables while it is imported and answers a wrong one with a traceback.
"""

from __future__ import annotations

import difflib
import os
import socket
from collections.abc import Mapping

KNOWN = (
    "LATENT_STUDIO_AXE",
    "LATENT_STUDIO_CHROMIUM",
    "LATENT_STUDIO_GEOREMOVER",
    "LATENT_STUDIO_GPU_GIB",
    "LATENT_STUDIO_GPU_RESERVE_GIB",
    "LATENT_STUDIO_HOSTS",
    "LATENT_STUDIO_MODE",
    "LATENT_STUDIO_MODELS",
    "LATENT_STUDIO_MODEL_SET",
    "LATENT_STUDIO_NPNET",
    "LATENT_STUDIO_PROXIES",
    "LATENT_STUDIO_RAM_GIB",
    "LATENT_STUDIO_WORK",
)
"""Every variable of ours that anything reads; another one is a slip of somebody's hand."""
PORTS = (1, 65535)


def check(variables: Mapping[str, str] = os.environ) -> None:
    """Refuse what would be overlooked, or end in somebody else's words.

    Raises:
        ValueError: one line: which variable, what it is, what it may be.
    """
    for name in sorted(variables):
        if name.startswith("LATENT_STUDIO_") and name not in KNOWN:
            near = difflib.get_close_matches(name, KNOWN, 1)
            meant = f"did you mean {near[0]}?" if near else f"known are {', '.join(KNOWN)}."
            raise ValueError(f"The variable {name} is not known: {meant}")
    number(variables, "GRADIO_SERVER_PORT", *PORTS)
    number(variables, "GRADIO_NUM_PORTS", 1, 10_000)


def number(variables: Mapping[str, str], name: str, low: int, high: int) -> int | None:
    """A whole number in a variable; None where it is not set.

    Raises:
        ValueError: it is no such number.
    """
    text = variables.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 9 and low <= int(text) <= high):
        raise ValueError(f"The variable {name} is {text[:40]!r}: set it to a whole number from {low} to {high}.")
    return int(text)


def check_address(host: str, port: int | None) -> None:
    """Try to listen there, for a moment.

    Raises:
        ValueError: one line: the host is none of this machine, or the port is taken or not allowed.
    """
    bare = host.removeprefix("[").removesuffix("]")
    try:
        family, kind, protocol, _name, address = socket.getaddrinfo(bare, port or 0, type=socket.SOCK_STREAM)[0]
        probe = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError):
        raise ValueError(f"The host {host!r} is not known: choose an address of this machine with --host.") from None
    with probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except PermissionError:
            raise ValueError(f"This user may not listen on port {port}: choose one from 1024 on with --port.") from None
        except OSError:
            if port is not None and _is_here(family, address):
                text = f"The port {port} on {host} is taken: choose another with --port, or end what listens there."
                raise ValueError(text) from None
            raise ValueError(f"The host {host!r} is no address of this machine: choose another with --host.") from None


def _is_here(family: int, address: tuple) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((address[0], 0, *address[2:]))
        except OSError:
            return False
    return True
