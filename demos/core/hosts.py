"""Which hosts, origins and proxies a server answers."""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import os
import re
import socket
from collections.abc import MutableMapping
from typing import Any

from pipelines.core import limits

LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclasses.dataclass(frozen=True)
class Rules:
    """Whom the server answers, from arguments and environment."""

    hosts: frozenset[str]
    """Names in small letters, without port."""
    addresses: bool = False
    """Any IP address may be the host: no page can make a name of its own into one."""
    proxies: tuple[Any, ...] = ()
    """Networks whose word about host and visitor is believed."""

    @classmethod
    def of(cls, listens: str | None, environment: MutableMapping[str, str] = os.environ) -> Rules:
        """The rules of a server that listens on ``listens`` (None: GRADIO_SERVER_NAME, else this machine alone).

        Raises:
            ValueError: LATENT_STUDIO_PROXIES holds something that is neither an address, a network nor "*".
        """
        listens = (listens or environment.get("GRADIO_SERVER_NAME") or "127.0.0.1").strip("[]")
        hosts = {*LOOPBACK, listens.lower()}
        hosts |= {name.lower() for name in _listed(environment.get("LATENT_STUDIO_HOSTS"))}
        hosts |= {name.lower() for name in _listed(environment.get("SPACE_HOST"))}
        everywhere = listens in ("0.0.0.0", "::")
        if everywhere:
            hosts.add(socket.gethostname().lower())
        named = _listed(environment.get("LATENT_STUDIO_PROXIES"))
        if environment.get("SPACE_HOST") and not named:
            named = ["*"]  # nobody reaches a Space but through its proxy
        networks: list[Any] = []
        for name in named:
            try:
                every = ("0.0.0.0/0", "::/0") if name == "*" else (name,)
                networks += [ipaddress.ip_network(one, strict=False) for one in every]
            except ValueError:
                raise ValueError(
                    f"LATENT_STUDIO_PROXIES holds {limits.described(name)}: give addresses, networks such as 10.0.0.0/8, or *."
                ) from None
        return cls(frozenset(hosts), everywhere, tuple(networks))

    def trusts(self, address: str) -> bool:
        """Whether a proxy at this address is believed."""
        try:
            ip = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(ip in network for network in self.proxies)

    def serves(self, host: str) -> bool:
        """Whether ``host``, as a browser sends it, is this server."""
        name = host_name(host)
        if name in self.hosts:
            return True
        return self.addresses and _is_ip(name)


def _listed(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def _is_ip(name: str) -> bool:
    with contextlib.suppress(ValueError):
        return bool(ipaddress.ip_address(name))
    return False


def host_name(host: str) -> str:
    """The name in a Host header, without its port, in small letters; "" where it is no host."""
    found = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([\w.-]+?)\.?)(?::\d{1,5})?", host, re.ASCII)
    return (found[1] or found[2]).lower() if found else ""


def same_origin(origin: str, host: str) -> bool:
    """Whether a page at ``origin`` came from ``host``; the scheme may differ, because a proxy ends TLS."""
    scheme, _, place = origin.partition("://")
    port = {"https": ":443", "http": ":80"}.get(scheme, "")
    return bool(place) and place.lower().removesuffix(port) == host.lower().removesuffix(port)
