"""Protocols and algorithms, sans-IO: nothing here knows trio, os or a socket."""
