"""The way out: a proxy that decides by rules, addresses and TLS names, and the doors that lead to it."""
