"""What people may give as their e-mail address and their name."""

import unicodedata

from email_validator import EmailNotValidError, validate_email

MAX_ADDRESS = 254
"""Characters, RFC 5321 section 4.5.3.1.3 less the angle brackets."""

MAX_NAME = 64

# Line breaks, bidirectional overrides and the like (Unicode's general categories).
_NOT_SHOWN = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
_JOINERS = "\u200c\u200d"  # Persian, Indic scripts and emoji need them


def check_address(email: str) -> str:
    """An address as mail servers take it: ASCII, its domain in lower case.

    Whether anybody lives there is not asked. Raises ValueError with a text that says what to change.
    """
    if not email:
        raise ValueError("email: it is missing; give the address that the mail shall go to")
    if len(email) > MAX_ADDRESS:
        raise ValueError(f"email: it is longer than {MAX_ADDRESS} characters")
    try:
        address = validate_email(email, check_deliverability=False, allow_smtputf8=False, strict=True)
    except EmailNotValidError as error:
        raise ValueError(f"email: {error}") from None
    if address.ascii_email is None:  # it never is without SMTPUTF8
        raise ValueError("email: what stands before the @ must be ASCII")
    return address.ascii_email


def check_name(name: str) -> str:
    """A name as people write it, without the spaces around it; may be empty. Raises ValueError as above."""
    name = unicodedata.normalize("NFC", name).strip()
    if len(name) > MAX_NAME:
        raise ValueError(f"display_name: it is longer than {MAX_NAME} characters")
    if any(unicodedata.category(each) in _NOT_SHOWN and each not in _JOINERS for each in name):
        raise ValueError("display_name: it has characters that cannot be shown; write it in one line")
    # Whoever signs up a stranger's address has a mail sent to it: it shall not be an advertisement.
    if "://" in name or "www." in name.lower():
        raise ValueError("display_name: it looks like a link; give a name")
    # RFC 2047: a mail program would show something else.
    if "=?" in name:
        raise ValueError("display_name: it looks like an encoded word; give it as it is")
    return name
