"""The caller's edge: the objects that a stub's methods return, in grpc.aio's shapes."""

from rpc.client_calls.base import Deserializer, Serializer, check_credentials
from rpc.client_calls.intercepted import (
    InterceptedStreamStreamCall,
    InterceptedStreamUnaryCall,
    InterceptedUnaryStreamCall,
    InterceptedUnaryUnaryCall,
    Interception,
    RequestQueue,
)
from rpc.client_calls.opened import OpenCall
from rpc.client_calls.streaming import StreamStreamCall, StreamUnaryCall, UnaryStreamCall
from rpc.client_calls.unary import UnaryUnaryCall

__all__ = [
    "Deserializer",
    "InterceptedStreamStreamCall",
    "InterceptedStreamUnaryCall",
    "InterceptedUnaryStreamCall",
    "InterceptedUnaryUnaryCall",
    "Interception",
    "OpenCall",
    "RequestQueue",
    "Serializer",
    "StreamStreamCall",
    "StreamUnaryCall",
    "UnaryStreamCall",
    "UnaryUnaryCall",
    "check_credentials",
]
