"""How it is timed, on which machine, and the results of a run."""
