#!/usr/bin/env bash
# The commands of the documentation that take long.
DOCS_TIMEOUT=3600 exec bash tests/test_docs_commands.sh "$1" long
