"""The pure core: bytes in, values out. No I/O, no clock, no randomness, no logging.

`lines` decodes what the CLI writes, `turn` makes deltas of lines, `chat` makes chunks of deltas and a completion
of chunks; `request` makes a plan of an OpenAI request, `commands` makes the lines that put it to the CLI.
`failures` is the one table from what went wrong to what the client is told.
"""
