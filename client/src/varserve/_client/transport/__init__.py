"""How an operation reaches the service: channels, credentials, retries, blocking or awaited."""
