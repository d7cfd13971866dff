"""Events: protobuf messages on a subject named after their type, on JetStream. See docs/events.md."""
