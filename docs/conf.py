from __future__ import annotations

from sphinx.ext.napoleon import NumpyDocstring

import scvitl

project = "scvitl"
author = "the scvitl developers"
copyright = "2026, the scvitl developers"
version = release = scvitl.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinxcontrib.bibtex",
]
default_role = "literal"
exclude_patterns = ["_build", "**/.ipynb_checkpoints"]

# Notebooks are stored with their outputs and not run again for the documentation.
nb_execution_mode = "off"
nb_merge_streams = True
nb_output_stderr = "remove"
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = False
napoleon_use_rtype = False
python_maximum_signature_line_length = 90

html_theme = "sphinx_book_theme"
html_title = "scvitl"
html_theme_options = {"show_navbar_depth": 2}


def parse_returns(self: NumpyDocstring, section: str) -> list[str]:
    """Take Returns as it is written: sentences, then a definition list of the fields in `adata`.

    Napoleon would take each line of such a text for one more value.
    """
    lines = self._dedent(self._consume_to_next_section())
    return [*self._format_block(":returns: ", lines), ""]


NumpyDocstring._parse_returns_section = parse_returns
