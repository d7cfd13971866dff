"""Durable work: what a ``.proto`` says of jobs and events."""
