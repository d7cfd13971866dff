"""``NATSMESH_LOGS=mesh``: the logs of our processes travel over the mesh too."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection

VARIABLE = "NATSMESH_LOGS"
COLLECTOR = "mesh.v1.Logs"

logger = logging.getLogger(__name__)


def ship_logs(service: str, instance: str, served: Collection[str] = ()) -> None:
    """Ship what is logged from now on, if the variable says so; standard error gets it all the same.

    A process that serves the collector itself ships nothing: each record would make it log the next one.
    """
    chosen = os.environ.get(VARIABLE, "").strip().lower()
    if chosen == "mesh" and COLLECTOR not in served:
        import rpc

        logging.getLogger().addHandler(rpc.LogHandler(service, instance=instance))
    elif chosen not in {"", "mesh"}:
        logger.warning("%s=%s is not understood: expected 'mesh', or nothing", VARIABLE, chosen)
