"""The text of the welcome mail."""

from datetime import datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP

_BODY = """\
Hello{to_whom},

your account is ready. Good to have you here!

If you did not sign up, somebody has mistyped an address.
Then forget this mail.
"""


def sender_address(text: str) -> Address:
    """Read ``Name <local@domain>``, or the address alone. Raises ValueError for all else."""
    message = EmailMessage()
    try:
        message["From"] = text  # raises for line breaks
        (address,) = message["From"].addresses
    except (ValueError, IndexError, AttributeError):
        raise ValueError("MAIL_FROM: write one address: hello@example.com, or Acme <hello@example.com>") from None
    if not address.username or "." not in address.domain or not address.addr_spec.isascii():
        raise ValueError("MAIL_FROM: write an address with its domain: hello@example.com, or Acme <hello@example.com>")
    return Address(address.display_name, address.username, address.domain)


def welcome_mail(sender: Address, email: str, name: str, message_id: str, date: datetime) -> EmailMessage:
    """Compose the mail. Nothing in its arguments can become a header: ``EmailMessage`` refuses line breaks.

    ``message_id`` has its angle brackets. Raises ValueError for what cannot stand in a header.
    """
    mail = EmailMessage(policy=SMTP)
    mail["From"] = sender
    mail["To"] = Address(name, addr_spec=email)
    mail["Subject"] = "Welcome!"
    mail["Date"] = date
    mail["Message-ID"] = message_id
    mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: no automatic replies, please
    mail.set_content(_BODY.format(to_whom=f" {name}" if name else ""))
    return mail
