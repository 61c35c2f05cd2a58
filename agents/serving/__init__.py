"""The server of routed models: requests in a queue, one worker that runs them, OpenAI's endpoints, and a page."""
