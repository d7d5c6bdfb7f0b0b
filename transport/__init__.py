"""How messages travel: the log in memory and on Redis, connection, codec, keys, server."""
