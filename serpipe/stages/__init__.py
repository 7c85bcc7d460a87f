"""One file per stage, sans-IO."""
