"""The commands: what tools/ and the console script call. Parse, call, print."""
