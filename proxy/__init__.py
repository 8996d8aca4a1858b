"""A local OpenAI-compatible server that drives the official Claude Code CLI."""

__version__ = "0.1.0"
