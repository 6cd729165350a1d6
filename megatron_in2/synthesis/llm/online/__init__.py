"""Requests one by one, many at a time, within a server's limits."""
