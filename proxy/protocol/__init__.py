"""The pure core: bytes in, values out. No I/O, no clock, no randomness, no logging, and no knowledge of an API.

`dialogue` is one conversation with the CLI: `commands` and `replies` make the lines that go to it, `lines` decodes what
comes back, and `turn` makes deltas of that. `failures` is the one table of what can go wrong.
"""
