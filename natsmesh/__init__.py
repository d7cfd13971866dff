"""The command ``natsmesh``: a broker, back-ends, a gateway, and a look at what is running. See ``docs/cli.md``."""
