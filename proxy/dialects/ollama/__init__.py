"""Ollama's own API, for clients that reach a local server over it: chats, and single prompts."""
