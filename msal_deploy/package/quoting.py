"""Quote texts of bundles and targets for the file they are written to: a script, YAML, Markdown, a comment.

Names are restricted where they are read (`msal_deploy.documents`). They are quoted here all the same: a value can also
come from a program, and the rules where they are read may change.
"""

import json
import re
import shlex

from jinja2 import BaseLoader, Environment, StrictUndefined

MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|!&~$])")


def shell(text: object) -> str:
    """Quote a text as one word of a shell command.

    >>> shell("image"), shell("$(touch x)")
    ('image', "'$(touch x)'")
    """
    return shlex.quote(str(text))


def yaml(text: object) -> str:
    r"""Quote a text as a string of YAML.

    >>> yaml('say "no": #1')
    '"say \\"no\\": #1"'
    """
    return json.dumps(line(text), ensure_ascii=False)


def markdown(text: object) -> str:
    r"""Escape what Markdown and HTML would interpret.

    >>> markdown("CC-BY-4.0"), markdown("<b>[x](y)")
    ('CC-BY-4.0', '\\<b\\>\\[x\\](y)')
    """
    return MARKDOWN.sub(r"\\\1", line(text))


def line(text: object) -> str:
    r"""Return a text on one line without control characters, for a comment.

    >>> line("Tesla T4\nRUN rm -rf /")
    'Tesla T4 RUN rm -rf /'
    """
    return " ".join("".join(character if character.isprintable() else " " for character in str(text)).split())


def environment(loader: BaseLoader | None = None) -> Environment:
    """Return a Jinja environment for text files, with this module's functions as filters.

    >>> environment().from_string("cat {{ name | shell }}").render(name="a b")
    "cat 'a b'"
    """
    made = Environment(
        loader=loader,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=loader is not None,
        lstrip_blocks=loader is not None,
        autoescape=False,  # these are text files, not HTML
    )
    made.filters.update(shell=shell, yaml=yaml, markdown=markdown, line=line)
    return made
