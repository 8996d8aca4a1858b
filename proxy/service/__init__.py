"""Keeping the server running: `claude-max-api service`."""
