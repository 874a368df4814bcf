# Only for cimport: nothing here is called from Python.
