"""A local server with the APIs of OpenAI, Anthropic and Ollama that drives the official Claude Code CLI."""

__version__ = "0.1.0"
