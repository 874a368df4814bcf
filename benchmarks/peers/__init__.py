"""One module for each library: a function named after each operation that it has, and `set_threads`."""
