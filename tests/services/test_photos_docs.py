"""What docs/photos.md says is true: its commands print what it says, with a queue that grows and drains."""

import asyncio
import json
import os
import re
import secrets
import shutil
import subprocess
import time
from pathlib import Path

from PIL import Image

from tests.cli.commands import Commands, closing, free_port
from tests.services import images
from tests.snippets import snippets

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "photos.md"
READY = r"^\d\d:.* serving"


def settled(text: str) -> object:
    """JSON, less what differs from day to day, and from photo to photo."""
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "then", text)
    text = re.sub(r'"sizeBytes": ?"\d+"', '"sizeBytes":"many"', text)
    return json.loads(re.sub(r"[0-9a-f]{32}", "some id", text))


def run(command: str, address: str, folder: Path, photo: str) -> str:
    text = command.replace("localhost:8080", address)
    if shutil.which("curl") is None:
        text = text.replace("curl ", f"python '{ROOT / 'tests' / 'curl.py'}' ")
    environment = {**os.environ, "PHOTO": photo}
    done = subprocess.run(
        ["sh", "-e", "-c", text], cwd=folder, env=environment, capture_output=True, text=True, check=True, timeout=20
    )
    return done.stdout


async def test_commands_print_what_is_shown(nats_url: str, tmp_path: Path) -> None:
    Image.effect_noise((1600, 1200), 60).convert("RGB").save(tmp_path / "photo.jpg")
    port, prefix = free_port(), f"t{secrets.token_hex(4)}"
    with closing(Commands(ROOT, NATS_URL=nats_url, NATSMESH_PREFIX=prefix)) as commands:
        front = commands.start("serve", "services.photos")
        gateway = commands.start("gateway", "--port", str(port))
        for each in (front, gateway):
            await asyncio.to_thread(each.says, READY)
        photo, shown = "", snippets("run", PAGE)
        for snippet in shown:
            printed = await asyncio.to_thread(run, snippet.text, f"localhost:{port}", tmp_path, photo)
            if "STATE_READY" in (snippet.output or ""):
                limit = time.monotonic() + 20
                while "STATE_PENDING" in printed:
                    assert time.monotonic() < limit, printed
                    printed = await asyncio.to_thread(run, snippet.text, f"localhost:{port}", tmp_path, photo)
            if snippet.output is not None:
                assert settled(printed) == settled(snippet.output), snippet
            photo = photo or json.loads(printed)["id"]
            if "for each" in snippet.text:
                assert printed.count('"STATE_PENDING"') == 5
                commands.start("serve", "services.photo_thumbnails", "--workers", "2")
        assert len(shown) == 5
        assert images.decode((tmp_path / "thumbnail.jpg").read_bytes()).size == (256, 192)
