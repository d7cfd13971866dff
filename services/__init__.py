"""Reference services: plain grpc.aio servicers, served by natsmesh."""
