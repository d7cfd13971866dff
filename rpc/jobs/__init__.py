"""Durable jobs: methods that return a ``google.longrunning.Operation``, on JetStream. See docs/jobs.md.

The caller's channel publishes the request and knows the operation (``caller``); the channel answers for operations by
what JetStream holds (``operations``, ``records``); a worker of the server takes requests one by one (``worker``).
"""
