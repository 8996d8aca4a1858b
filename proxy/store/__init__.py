"""What is kept of responses and conversations, for later requests to go on from. Knows no API: items are JSON.

- `schema`: the tables.
- `store.Store`: entries and their items, each of one owner, within bounds; in memory or in a file.
- `answers.AnswersFile`: what the model wrote, for conversations that are put in again after a restart.
"""
