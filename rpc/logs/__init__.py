"""Log records on their way into the mesh: made from Python's, kept in a bounded backlog, published as events."""
