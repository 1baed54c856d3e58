"""For mkdocs: the reference pages come from the code while the site is built, and are files of no checkout."""

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from reference import pages


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages, also instead of ones that `make reference` left."""
    for name, text in pages().items():
        uri = f"reference/{name}"
        if old := files.get_file_from_path(uri):
            files.remove(old)
        files.append(File.generated(config, uri, content=text))
    return files
