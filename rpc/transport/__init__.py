"""How calls travel: the bus (``base``, ``nats``, ``memory``), both ends of the call path (``client``, ``server``)."""
