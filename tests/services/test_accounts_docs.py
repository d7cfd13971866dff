"""What docs/accounts.md says is true: its commands print what it says, and its gateway lets in whom it says."""

import asyncio
import json
import os
import re
import secrets
import shutil
import subprocess
from pathlib import Path

from tests.services.sign_up_mesh import ROOT, sign_up_mesh, until
from tests.snippets import snippets

PAGE = ROOT / "docs" / "accounts.md"


def settled(text: str) -> object:
    """JSON, less what differs from day to day."""
    text = re.sub(r"\d{4}-\d\d-\d\d(T[\d:.]+Z)?", "then", text)
    return json.loads(re.sub(r'"[0-9a-f]{32}"', '"some id"', text))


def run(command: str, address: str) -> str:
    text = command.replace("localhost:8080", address)
    if shutil.which("curl") is None:
        text = text.replace("curl ", f"python '{ROOT / 'tests' / 'curl.py'}' ")
    done = subprocess.run(
        ["sh", "-e", "-c", text], capture_output=True, text=True, env=os.environ, check=True, timeout=20
    )
    return done.stdout


async def test_commands_print_what_is_shown(nats_url: str) -> None:
    *shown, mails = snippets("run", PAGE)
    assert len(shown) == 3
    services = ("services.accounts", "services.mailer", "services.signups")
    async with sign_up_mesh(nats_url, f"t{secrets.token_hex(4)}", *services) as mesh:
        await until(mesh.accounts_are_served)
        address = str(mesh.client.base_url).removeprefix("http://").rstrip("/")
        for snippet in shown:
            assert snippet.output
            printed = await asyncio.to_thread(run, snippet.text, address)
            assert settled(printed) == settled(snippet.output), snippet
            await until(lambda: mesh.has_counted(1))
        await until(lambda: mesh.mails_done(1))
        (mail,) = json.loads(await asyncio.to_thread(run, mails.text, address))["operations"]
        assert (mail["done"], mail["response"]["reply"]) == (True, "2.0.0 OK queued as 1")


async def test_strangers_may_sign_up_and_nothing_else(nats_url: str, tmp_path: Path) -> None:
    (settings,) = snippets("gateway", PAGE)
    (tmp_path / "gateway.toml").write_text(settings.text)
    (tmp_path / "api-keys.toml").write_text(f'[keys.us]\nsha256 = "{"0" * 64}"\n')
    services = ("services.accounts", "services.mailer", "services.signups")
    prefix = f"t{secrets.token_hex(4)}"
    async with sign_up_mesh(nats_url, prefix, *services, config=tmp_path / "gateway.toml") as mesh:

        async def refuses(path: str) -> bool:
            answer = await mesh.client.post(path, json={"email": "ada@example.com"})
            return answer.status_code == 401

        for method in (
            "mailer.v1.Mailer/SendWelcomeMail",
            "accounts.v1.Accounts/CompleteSignUp",
            "signups.v1.Signups/GetSignups",
            "google.longrunning.Operations/ListOperations",
        ):
            await until(lambda method=method: refuses(f"/{method}"), method)
        assert (
            await mesh.client.post("/mailer.v1.Mailer/WelcomeUser", json={})
        ).status_code == 404  # it handles events
        await until(mesh.accounts_are_served)
        answers = [(await mesh.post(f"{number}@example.com")).status_code for number in range(6)]
        assert answers[:4] == [200] * 4
        assert answers[-1] == 429
        await until(lambda: mesh.mails_done(answers.count(200)))
        assert len(mesh.server.mails) == answers.count(200)
