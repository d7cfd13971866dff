"""Moleculer with moleculer-web, over NATS: the Node framework that is closest in spirit."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from benchmarks.processes import Program, Stage
from benchmarks.setups.base import Setup

FOLDER = Path(__file__).resolve().parent.parent / "moleculer"
INSTALL_TIMEOUT = 180.0


class Moleculer(Setup):
    """See the module's text."""

    name = "moleculer"
    title = "Moleculer + moleculer-web over NATS (Node)"

    def missing(self) -> str | None:
        if shutil.which("node") is None or shutil.which("npm") is None:
            return "node and npm not found: install Node.js 18 or newer"
        if (FOLDER / "node_modules" / "moleculer-web").is_dir():
            return None
        command = ["npm", "ci", "--ignore-scripts"]
        try:
            installed = subprocess.run(
                command, cwd=FOLDER, capture_output=True, text=True, timeout=INSTALL_TIMEOUT, check=False
            )
        except subprocess.TimeoutExpired:
            return f"npm ci in benchmarks/moleculer took more than {INSTALL_TIMEOUT:.0f} s"
        if installed.returncode != 0:
            return f"npm ci in benchmarks/moleculer failed: {installed.stderr.strip()[-300:]}"
        return None

    def start(self, stage: Stage) -> Program:
        nats_url = stage.broker()
        gateway = stage.spawn("gateway", ["node", "gateway.mjs", nats_url, str(stage.gateway_port)], cwd=FOLDER)
        stage.await_port(gateway, stage.gateway_port)
        return stage.spawn("back-end", ["node", "backend.mjs", nats_url], cwd=FOLDER)
