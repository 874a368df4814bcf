"""From arguments to rows of memory, and from rows to threads: what all operations share."""
