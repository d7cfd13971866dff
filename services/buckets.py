"""Where the services keep what they know: buckets of values and of blobs, on the broker that they are served by."""

import os

import rpc


def open_bucket(name: str, *, ttl: float | None = None) -> rpc.KeyValue:
    """A bucket of this mesh: two meshes on one broker, told apart by their prefix, do not share it.

    For use within a handler. ``ttl``: seconds after which an unchanged value is gone.
    """
    return rpc.KeyValue(rpc.current_connection(), _bucket(name), ttl=ttl)


def open_store(name: str) -> rpc.ObjectStore:
    """A store of blobs of this mesh, see `open_bucket`. For use within a handler."""
    return rpc.ObjectStore(rpc.current_connection(), _bucket(name))


def _bucket(name: str) -> str:
    prefix = os.environ.get("NATSMESH_PREFIX", "").replace(".", "_")
    return f"{prefix}_{name}" if prefix else name
