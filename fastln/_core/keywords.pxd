"""Unknown keywords and positional arguments too many, of functions of the including module, are explained from then on.

`explain` is called with the function's name and the keyword, or the most positional arguments and those given.
"""

cdef extern from "keywords.h":
    void explain_calls "fln_explain_calls"(object explain)
