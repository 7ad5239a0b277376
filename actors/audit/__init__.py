"""The audit log: one writer, an HMAC chain, crossed with the journals, and its verification."""
