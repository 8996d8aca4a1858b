"""What a request to `/v1/messages` may hold, for the document at `/openapi.json`; see `shapes`."""
