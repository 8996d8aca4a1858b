"""Usage that outlives the server, in one SQLite file.

`schema`: its tables. `writer`: the server's. `reader`, `report`: what both `GET /v1/usage` and the terminal tell.
`terminal`: the report as text.
"""
