"""Cameras as they are in the field: real processes, real streams, and a server that misbehaves on purpose."""
