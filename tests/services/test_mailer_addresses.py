"""Which addresses and names people may give."""

import pytest

from services.addresses import check_address, check_name
from services.welcome_mail import sender_address


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("ada@example.com", "ada@example.com"),
        ("Ada.Lovelace+news@Example.COM", "Ada.Lovelace+news@example.com"),
        ("ada@bücher.example.com", "ada@xn--bcher-kva.example.com"),
        ("x" * 64 + "@example.com", "x" * 64 + "@example.com"),
        ("o'brien@example.com", "o'brien@example.com"),
    ],
)
def test_addresses_as_mail_servers_take_them(given: str, taken: str) -> None:
    assert check_address(given) == taken


@pytest.mark.parametrize(
    "address",
    [
        "",
        "ada",
        "ada@",
        "@example.com",
        "ada@localhost",
        "ada@b.test",
        "ada@[127.0.0.1]",
        "Ada <ada@example.com>",
        '"a b"@example.com',
        "ünal@example.com",
        "x" * 65 + "@example.com",
        "ada@" + "x." * 150 + "com",
        "ada@example.com\r\nRCPT TO:<eve@example.com>",
        "ada\n@example.com",
        "ada@example.com\x00",
        " ada@example.com",
        "ada@example.com,eve@example.com",
        "a@b@example.com",
        "x" * 1_000_000,
    ],
)
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ValueError, match=r"^email: ") as caught:
        check_address(address)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "name", ["", "Ada", " Ada  ", "Þórbergur 🧊", "علی‌رضا", "Ada, Countess of Lovelace", "J. R.", "👩‍🔬"]
)
def test_names(name: str) -> None:
    assert check_name(name) == name.strip()


@pytest.mark.parametrize(
    "name",
    [
        "x" * 65,
        "Ada\r\nBcc: eve@example.com",
        "Ada\u2028Lovelace",
        "\u202egnp.exe",
        "a\x00b",
        "https://example.com",
        "Go to WWW.example.com",
        "=?utf-8?q?Ada=0D=0A?=",
    ],
)
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(ValueError, match=r"^display_name: "):
        check_name(name)


@pytest.mark.parametrize(
    ("text", "name", "address"),
    [
        ("hello@example.com", "", "hello@example.com"),
        ("Acme <hello@example.com>", "Acme", "hello@example.com"),
        ('"Acme, Inc." <hello@example.com>', "Acme, Inc.", "hello@example.com"),
    ],
)
def test_who_writes(text: str, name: str, address: str) -> None:
    sender = sender_address(text)
    assert (sender.display_name, sender.addr_spec) == (name, address)


@pytest.mark.parametrize(
    "text",
    ["", "Acme", "hello", "hello@localhost", "a@example.com, b@example.com", "a@example.com\nBcc: b@example.com"],
)
def test_who_cannot_write(text: str) -> None:
    with pytest.raises(ValueError, match=r"^MAIL_FROM: "):
        sender_address(text)
