"""Data sets, their partition among clients, and the clients' examples on disk."""
