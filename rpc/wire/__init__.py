"""The wire protocol without I/O: what stands in messages, nothing about who carries them or when.

Nothing here imports asyncio or a NATS client; time is an argument. docs/wire-protocol.md is the specification.
"""
