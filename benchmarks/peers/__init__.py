"""One module for each library: `forward` and `backward` make calls for given arrays, `set_threads` sets its threads."""
