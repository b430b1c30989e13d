#!/bin/sh
# Dependencies point down only (docs/architecture.md). Prints every include that points the wrong way.
set -eu
cd "$(dirname "$0")/.."
bad=0
# check FOLDER ALLOWED-FOLDERS...: files of src/FOLDER may include only these folders of src.
check() {
    folder=$1
    shift
    allowed="$folder|$(echo "$*" | tr ' ' '|')"
    found=$(grep -rnE '^#include "(core|graph|op|plan|cpu|io|model|diffusion|train)/' "src/$folder" 2>/dev/null |
        grep -vE "#include \"($allowed)/" || true)
    if [ -n "$found" ]; then
        echo "src/$folder may include only $allowed:" >&2
        echo "$found" >&2
        bad=1
    fi
}
check core
check graph core
check op core graph
check plan core graph
check cpu core graph plan
check io core
check model core graph io plan
check diffusion core graph io plan model
check train core graph io plan model diffusion
if grep -rnE '^#include "(core|graph|op|plan|cpu|io|model|diffusion|train)/' cli 2>/dev/null; then
    echo "cli may include only include/langevin" >&2
    bad=1
fi
exit $bad
