"""A broker that lets in only who has a credentials file: operator, account and user, made for a test."""

import base64
import json
import os
import time
from dataclasses import dataclass
from typing import Any

import nkeys

LIMITS = {
    "subs": -1,
    "conn": -1,
    "leaf": -1,
    "imports": -1,
    "exports": -1,
    "data": -1,
    "payload": -1,
    "wildcards": True,
}


@dataclass(frozen=True)
class Account:
    """The broker's configuration, and a credentials file of one user."""

    config: str
    creds: str


class Key:
    def __init__(self, prefix: int) -> None:
        self.seed = nkeys.encode_seed(os.urandom(32), prefix)
        self.pair = nkeys.from_seed(bytearray(self.seed))
        self.public = self.pair.public_key.decode()

    def sign(self, subject: "Key", name: str, **nats: Any) -> str:
        """Return a JWT about ``subject`` (nats-io/jwt, version 2)."""
        claims = {
            "jti": base64.b32encode(os.urandom(32)).decode().rstrip("="),
            "iat": int(time.time()),
            "iss": self.public,
            "sub": subject.public,
            "name": name,
            "nats": {"version": 2, **nats},
        }
        parts = [encode(json.dumps(each).encode()) for each in ({"typ": "JWT", "alg": "ed25519-nkey"}, claims)]
        text = ".".join(parts)
        return f"{text}.{encode(self.pair.sign(text.encode()))}"


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def make_account() -> Account:
    operator, system, account = (
        Key(nkeys.PREFIX_BYTE_OPERATOR),
        Key(nkeys.PREFIX_BYTE_ACCOUNT),
        Key(nkeys.PREFIX_BYTE_ACCOUNT),
    )
    user = Key(nkeys.PREFIX_BYTE_USER)
    operator_jwt = operator.sign(operator, "operator", type="operator", system_account=system.public)
    system_jwt = operator.sign(system, "SYS", type="account", limits=LIMITS)
    account_jwt = operator.sign(account, "shop", type="account", limits=LIMITS)
    user_jwt = account.sign(user, "somebody", type="user", subs=-1, data=-1, payload=-1)
    config = f"""
operator: {operator_jwt}
resolver: MEMORY
resolver_preload: {{ {system.public}: {system_jwt}, {account.public}: {account_jwt} }}
"""
    creds = f"""-----BEGIN NATS USER JWT-----
{user_jwt}
------END NATS USER JWT------

-----BEGIN USER NKEY SEED-----
{user.seed.decode()}
------END USER NKEY SEED------
"""
    return Account(config, creds)
