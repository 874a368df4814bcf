"""How Sphinx builds the manual: `make docs`."""

import re

import fastln

project = "fastln"
author = "The fastln developers"
copyright = "The fastln developers"  # noqa: A001 -- Sphinx's name
version = release = fastln.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "numpydoc"]
nitpicky = True  # a reference to nothing is a warning, and `make docs` takes warnings for errors
default_role = "code"

# numpydoc makes a reference of an attribute that is a property; the text about it stands beside it.
PROPERTIES = (
    *("weight", "bias", "normalized_shape", "eps", "elementwise_affine", "weight_offset", "cast"),
    *("parameters", "input_size", "hidden_size", "num_layers", "batch_first", "bidirectional", "norm_bias"),
    *("nonlinearity", "carry", "dtype"),
)
nitpick_ignore = [("py:obj", name) for name in PROPERTIES]

# The signature has names and defaults, the docstring says the types in words.
autodoc_typehints = "none"
autodoc_member_order = "bysource"
numpydoc_show_class_members = False  # autodoc lists them, once
# What a docstring must have: all that numpydoc knows, but for a second paragraph, a "See Also", and sections for what
# its first sentence has said.
numpydoc_validation_checks = {"all", "ES01", "SA01", "SS05", "PR01", "PR04", "PR07", "RT01"}

myst_enable_extensions = ["attrs_inline"]
myst_heading_anchors = 3

html_theme = "pydata_sphinx_theme"
html_title = "fastln"
html_theme_options = {
    "logo": {"text": "fastln"},
    "navbar_center": [],
    "navbar_end": ["theme-switcher"],
    "secondary_sidebar_items": ["page-toc"],
    "show_prev_next": True,
}
templates_path = ["_templates"]
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_sidebars = {"**": ["pages"]}
html_show_sourcelink = False
html_copy_source = False

PICTURE = re.compile(r'<picture>\s*<source [^>]*srcset="([^"]+)">\s*<img alt="([^"]+)" src="([^"]+)">\s*</picture>')


def show_pictures(app, path, parent, text):
    """A picture in HTML, which GitHub shows light or dark, in MyST, which this site shows light or dark."""
    text[0] = PICTURE.sub(r"![\2](\3){.only-light} ![\2](\1){.only-dark}", text[0])


def link_pages(app, what, name, obj, options, lines):
    """The page that a docstring names by its file, as a link."""
    lines[:] = [line.replace("docs/accuracy.md", ":doc:`the page on accuracy <accuracy>`") for line in lines]


def setup(app):
    """Connect what is Python here."""
    app.connect("include-read", show_pictures)
    app.connect("autodoc-process-docstring", link_pages)
