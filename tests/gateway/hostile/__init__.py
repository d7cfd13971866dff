"""A hostile client: inputs made from the grammars of HTTP, JSON and gRPC and then broken, and an eye on what they do.

    python -m tests.gateway.hostile --seconds 60 --seed 1

starts a broker, a back-end and a gateway of its own, sends for so long, and prints what was sent, how it was answered
and what should not have happened.
"""
