"""Whose address a request comes from, when there may be proxies in front that say so."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Final

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

MAX_HOPS: Final = 16
"""Proxies that are followed back."""

IPV6_CLIENT_BITS: Final = 64
"""What one client has of IPv6 at least: it can take another address of these for every request (RFC 6177)."""


def parse_networks(texts: Iterable[str]) -> list[Network]:
    """Return networks given as ``10.0.0.0/8``, or single addresses. Raises ``ValueError``."""
    return [ip_network(text) for text in texts]


class ClientAddress:
    """Finds the address of clients. ``trusted`` are the proxies whose ``X-Forwarded-For`` counts."""

    def __init__(self, trusted: Iterable[Network] = ()) -> None:
        self._trusted = list(trusted)

    def of(self, scope: dict[str, Any]) -> str:
        """Return the client's address; of an IPv6 client its network, as ``2001:db8::/64``; nothing if it has none."""
        client = scope.get("client")
        if not client:
            return ""
        address = _parse(client[0])
        if address is None:
            return ""
        if self._trusted and self._trusts(address):
            address = self._behind(address, scope["headers"])
        if isinstance(address, IPv6Address):
            return str(IPv6Network((address, IPV6_CLIENT_BITS), strict=False))
        return str(address)

    def _trusts(self, address: Address) -> bool:
        return any(address in network for network in self._trusted)

    def _behind(self, address: Address, headers: Iterable[tuple[bytes, bytes]]) -> Address:
        """Follow the proxies back, from the nearest one, as far as they are trusted: before that, anybody writes."""
        values = [value for name, value in headers if name == b"x-forwarded-for"]
        hops = b",".join(values)[-MAX_HOPS * 48 :].decode("latin-1").split(",")[-MAX_HOPS:]
        for hop in reversed(hops):
            before = _parse(hop.strip())
            if before is None:
                return address
            address = before
            if not self._trusts(address):
                return address
        return address


def _parse(text: str) -> Address | None:
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
