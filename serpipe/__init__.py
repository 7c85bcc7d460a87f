"""serpipe: serial plumbing.

`run` and `open_endpoint` take the words of the command line; `serpipe.events` is what moves through them. The names below
are imported when they are first used: `import serpipe` alone costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from serpipe.api import Handle as Handle
    from serpipe.api import open_endpoint as open_endpoint
    from serpipe.pipeline import Options as Options
    from serpipe.pipeline import run as run

_HOMES = {
    "Handle": "serpipe.api",
    "open_endpoint": "serpipe.api",
    "Options": "serpipe.pipeline",
    "run": "serpipe.pipeline",
}

__all__ = ["Handle", "Options", "__version__", "open_endpoint", "run"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'serpipe' has no attribute {name!r}")
