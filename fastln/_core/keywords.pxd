"""Unknown keywords of the functions of the including module are explained from then on, by a call of `explain`."""

cdef extern from "keywords.h":
    void explain_keywords "fln_explain_keywords"(object explain)
