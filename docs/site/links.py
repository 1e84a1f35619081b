"""Links of the documentation to files of the repository, which are not part of the site."""

import re
from pathlib import Path

from mkdocs.exceptions import PluginError

_LINK = re.compile(r"\[([^\]]+)\]\((\.\./[^)#]+)\)")


def on_page_markdown(markdown, page, config, files):
    """Replace a link that leaves ``docs/`` by its text; stop the build where it leads to nothing.

    Raises:
        PluginError: the file does not exist in the repository; names page and file.
    """
    docs = Path(config["docs_dir"])
    here = (docs / page.file.src_path).parent

    def text_of(match):
        target = (here / match[2]).resolve()
        if target.is_relative_to(docs.resolve()):
            return match[0]
        if not target.exists():
            raise PluginError(f"{page.file.src_path} links to {match[2]}, which does not exist.")
        return match[1]

    return _LINK.sub(text_of, markdown)
