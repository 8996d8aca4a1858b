"""A local OpenAI-compatible server that drives the official Claude Code CLI."""
