"""How calls travel: the bus (``base``, ``nats``, ``memory``) and the halves of the call path (``client``, ``server``)."""
