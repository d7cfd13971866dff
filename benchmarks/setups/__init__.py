"""What is measured, a module each: one back-end process, one gateway process, one broker (where there is one)."""

from benchmarks.setups.base import Setup
from benchmarks.setups.connectrpc import ConnectRpc
from benchmarks.setups.envoy import Envoy
from benchmarks.setups.faststream import FastStream
from benchmarks.setups.floor import Floor
from benchmarks.setups.moleculer import Moleculer
from benchmarks.setups.natsmesh import NatsMesh

__all__ = ["ALL", "Setup"]

ALL: tuple[Setup, ...] = (
    NatsMesh(sampled=None),
    NatsMesh(sampled=0.01),
    NatsMesh(sampled=1.0),
    Floor(),
    Moleculer(),
    Envoy(),
    FastStream(),
    ConnectRpc(),
)
"""In the order of the table."""
