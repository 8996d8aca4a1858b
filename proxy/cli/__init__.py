"""The process edge: the only code that starts or ends a child."""
