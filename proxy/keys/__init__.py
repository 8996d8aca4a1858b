"""API keys: those of the settings, and those that `claude-max-api keys` makes and keeps as hashes."""
