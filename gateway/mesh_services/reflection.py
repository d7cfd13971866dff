"""gRPC server reflection over the whole mesh: what ``grpcurl``, ``buf curl`` and Postman ask before they call.

Source: https://github.com/grpc/grpc/blob/master/doc/server-reflection.md. The messages of v1 and v1alpha are the same
on the wire, so one function serves both.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping

from google.protobuf.message import DecodeError
from grpc_reflection.v1alpha.reflection_pb2 import (
    ErrorResponse,
    ExtensionNumberResponse,
    FileDescriptorResponse,
    ListServiceResponse,
    ServerReflectionRequest,
    ServerReflectionResponse,
    ServiceResponse,
)

from gateway.mesh_services.schemas import File, SchemaIndex, ServiceSchema
from rpc import StatusCode, StatusError

MAX_REQUEST = 4096
"""Bytes of one request. The answer repeats it, and no name is as long."""

MAX_ANSWER = 2 * 1024 * 1024
"""Bytes of files in one answer: gRPC clients take 4 MiB. What a file imports is left out beyond it: they ask for it."""


class Reflection:
    """Answers from the schemas that the gateway serves."""

    def __init__(self, schemas: Callable[[], Mapping[str, bytes]], services: Callable[[], Collection[str]]) -> None:
        """``schemas`` are serialized sets of files by service, ``services`` the names to list."""
        self._current_schemas = schemas
        self._services = services
        self._index = SchemaIndex()
        self._indexed: dict[str, bytes] = {}
        self._indexing = asyncio.Lock()

    async def serve(self, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Answer the requests of one client, one by one. Raises ``StatusError``."""
        conversation = _Conversation(self)
        async for data in requests:
            if len(data) > MAX_REQUEST:
                raise StatusError(StatusCode.INVALID_ARGUMENT, f"a request of more than {MAX_REQUEST} bytes")
            try:
                request = ServerReflectionRequest.FromString(data)
            except DecodeError:
                raise StatusError(StatusCode.INVALID_ARGUMENT, "this is no ServerReflectionRequest") from None
            yield (await conversation.answer(request)).SerializeToString()

    async def index(self) -> SchemaIndex:
        """Return what is known now. Schemas are read when somebody asks, not when they come."""
        async with self._indexing:
            schemas = self._current_schemas()
            if self._indexed != schemas:
                now = dict(schemas)
                self._index = await asyncio.to_thread(self._index.updated, now)
                self._indexed = now
            return self._index

    def services(self) -> list[str]:
        """Return the names of the services, in order."""
        return sorted(self._services())


class _Conversation:
    """One stream of requests, and what its client knows already."""

    def __init__(self, reflection: Reflection) -> None:
        self._reflection = reflection
        self._schema: ServiceSchema | None = None
        """The one of the answer before: what a client asks next is most likely about the same service."""
        self._sent: set[File] = set()

    async def answer(self, request: ServerReflectionRequest) -> ServerReflectionResponse:
        response = ServerReflectionResponse(valid_host=request.host, original_request=request)
        kind = request.WhichOneof("message_request")
        index = await self._reflection.index()
        if kind == "list_services":
            services = [ServiceResponse(name=name) for name in self._reflection.services()]
            response.list_services_response.CopyFrom(ListServiceResponse(service=services))
        elif kind == "all_extension_numbers_of_type":
            name = request.all_extension_numbers_of_type
            numbers = index.extension_numbers(name)
            if numbers is None:
                return _failed(response, StatusCode.NOT_FOUND, f"there is no message {name!r}")
            response.all_extension_numbers_response.CopyFrom(
                ExtensionNumberResponse(base_type_name=name, extension_number=sorted(numbers))
            )
        elif kind is None:
            return _failed(response, StatusCode.INVALID_ARGUMENT, "the request does not say what it asks for")
        else:
            found = self._find(index, kind, request)
            if found is None:
                return _failed(response, StatusCode.NOT_FOUND, "there is no such file, symbol or extension")
            self._schema, file = found
            response.file_descriptor_response.CopyFrom(self._files(self._schema, file))
        return response

    def _find(
        self, index: SchemaIndex, kind: str, request: ServerReflectionRequest
    ) -> tuple[ServiceSchema, File] | None:
        match kind:
            case "file_by_filename":
                name = request.file_by_filename
                found = ((schema, schema.files.get(name)) for schema in index.all(self._schema))
            case "file_containing_symbol":
                symbol = request.file_containing_symbol.removeprefix(".")
                found = ((schema, schema.file_of(symbol)) for schema in index.schemas(symbol, self._schema))
            case _:
                message = request.file_containing_extension.containing_type
                number = request.file_containing_extension.extension_number
                found = ((schema, schema.file_extending(message, number)) for schema in index.all(self._schema))
        return next(((schema, file) for schema, file in found if file is not None), None)

    def _files(self, schema: ServiceSchema, asked: File) -> FileDescriptorResponse:
        """Return a file, and what it imports unless it was sent before or would be too much."""
        files = [file for file in schema.with_imports(asked) if file is asked or file not in self._sent]
        if sum(len(file.data) for file in files) > MAX_ANSWER:
            files = [asked]
        self._sent.update(files)
        return FileDescriptorResponse(file_descriptor_proto=[file.data for file in files])


def _failed(response: ServerReflectionResponse, code: StatusCode, message: str) -> ServerReflectionResponse:
    number: int = code.value[0]
    response.error_response.CopyFrom(ErrorResponse(error_code=number, error_message=message))
    return response
