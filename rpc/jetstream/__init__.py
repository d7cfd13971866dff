"""JetStream over any ``Connection``: its JSON API, acknowledged publishing, pull consumers. Source: NATS ADR-1 to 60.

What nats-py's own client leaves to its users is done here: publishes are repeated with their id, pulls survive
restarts, streams are migrated. ``rpc.KeyValue`` stands on nats-py's client and lives in ``rpc.transport.jetstream``.
"""
