"""What MkDocs does beside its own for the site: pages that stand elsewhere, and links to the code.

The errors' catalogue is in the package, since ``pytest-vmports explain`` reads it; the changelog
and the security policy are where GitHub looks for them. On the site they are pages like the others.
Source: https://www.mkdocs.org/user-guide/configuration/#hooks
"""

import posixpath
import re
from pathlib import Path

from mkdocs.plugins import event_priority
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
ELSEWHERE = {
    "pytest_vmports/errors.md": "errors.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "report-a-fault.md",
}
HERE = {page: source for source, page in ELSEWHERE.items()}
CODE = "https://github.com/pytest-vmports/pytest-vmports/blob/main/"
LINK = re.compile(r"(?<=\]\()(?!https?:|#)([^)#\s]+)(?=[)#])")


@event_priority(100)  # before the one that looks for dead links
def on_files(files, config):
    """Add the pages that stand elsewhere."""
    for source, page in ELSEWHERE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown, page, **_):
    """Turn links to the repository's files into links to pages, or to the code as it is shown."""
    uri = page.file.src_uri
    folder = posixpath.dirname(HERE.get(uri, f"docs/{uri}"))

    def turned(match):
        target = posixpath.normpath(posixpath.join(folder, match[1]))
        if target in ELSEWHERE:
            target = f"docs/{ELSEWHERE[target]}"
        if target.startswith("docs/") and not target.startswith("docs/ci/"):
            return posixpath.relpath(target[5:], posixpath.dirname(uri) or ".")
        return CODE + target if (ROOT / target).exists() else match[0]

    return LINK.sub(turned, markdown)
