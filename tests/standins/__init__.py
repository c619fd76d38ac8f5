"""Stand-ins for vendors' tools, for tests only: each says in its first line that it is one."""
