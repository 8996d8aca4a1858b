"""Anthropic's Messages API: the CLI's own events are its events, so nothing is reworded."""
