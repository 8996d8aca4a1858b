"""Setting up clients: `claude-max-api setup`."""
