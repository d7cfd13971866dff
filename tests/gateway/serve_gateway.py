"""A gateway as a process: ``serve_gateway.py '<options as JSON>'``."""

import dataclasses
import json
import logging
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "gen")]

from gateway import Config, run  # noqa: E402 - the paths come first
from gateway.config_file import load_config  # noqa: E402
from gateway.tls import TlsOptions  # noqa: E402


def configure_logging() -> None:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)


if __name__ == "__main__":
    configure_logging()
    options = json.loads(sys.argv[1])
    if tls := options.get("tls"):
        options["tls"] = TlsOptions(
            **{name: Path(value) if "/" in str(value) else value for name, value in tls.items()}
        )
    file = options.pop("config", None)
    config = load_config(Path(file), Config) if file is not None else Config()
    sys.exit(run(dataclasses.replace(config, **options), before_start=configure_logging))
