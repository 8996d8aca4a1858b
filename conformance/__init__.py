"""The judge: a black box that knows HTTP and the CLI's pipes, and never imports what it judges."""
