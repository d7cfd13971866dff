"""Stores that are killed at the worst moment: what they wrote is committed, and the broker does not know yet."""

import os
import signal
from collections.abc import AsyncIterator

from google.protobuf import empty_pb2

import rpc
from clickstream.v1 import clickstream_pb2 as pb
from mesh.v1 import log_pb2
from services.clickstream import Store
from services.logs import Logs


class DyingStore(Store):
    async def StoreClicks(
        self, request_iterator: AsyncIterator[pb.Click], context: rpc.EventContext
    ) -> empty_pb2.Empty:
        await super().StoreClicks(request_iterator, context)
        os.kill(os.getpid(), signal.SIGKILL)
        return empty_pb2.Empty()


class DyingLogs(Logs):
    async def StoreLogRecords(
        self, request_iterator: AsyncIterator[log_pb2.LogRecord], context: rpc.EventContext
    ) -> empty_pb2.Empty:
        await super().StoreLogRecords(request_iterator, context)
        os.kill(os.getpid(), signal.SIGKILL)
        return empty_pb2.Empty()
