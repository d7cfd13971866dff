"""Syslog in, log records of the mesh out: for programs that know nothing of us."""
