"""Discovery: how services say what they are (ADR-32, content-addressed schemas) and how others learn it."""
