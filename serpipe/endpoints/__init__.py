"""One file per scheme, thin over `protocol/` and `_fdio.py`."""
