"""What the commands ``natsmesh jobs`` and ``natsmesh events`` share."""
