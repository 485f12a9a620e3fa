"""Files and folders: written whole or not at all, by one command at a time, and only where they belong.

===========  ====================================================================================
`atomic`     `atomic_file` and `atomic_directory`: an interrupted command leaves what was there
`temporary`  `temporary_folder`, and how the next command removes what a killed one left
`locks`      `output_lock`: one command at a time writes to an output
`checks`     `regular_file` for inputs, `output_file` and `output_folder` for outputs: refused before any work
`content`    `sha256` and `write_json`
`cache`      `cache_directory`
===========  ====================================================================================
"""

from msal_deploy.files.atomic import atomic_directory, atomic_file
from msal_deploy.files.cache import cache_directory
from msal_deploy.files.checks import StrPath, output_file, output_folder, regular_file
from msal_deploy.files.content import sha256, write_json
from msal_deploy.files.locks import output_lock
from msal_deploy.files.temporary import remove_leftovers, temporary_folder

__all__ = [
    "StrPath",
    "atomic_directory",
    "atomic_file",
    "cache_directory",
    "output_file",
    "output_folder",
    "output_lock",
    "regular_file",
    "remove_leftovers",
    "sha256",
    "temporary_folder",
    "write_json",
]
