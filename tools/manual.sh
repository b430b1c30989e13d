#!/bin/sh
# Writes the manual pages, one a command, that the program itself makes.  manual.sh PROGRAM FOLDER
set -eu
mkdir -p "$2"
"$1" help --man >"$2/langevin.1"
for command in $("$1" help --complete "" | grep -vE '^(-|help$)'); do
    "$1" help --man "$command" >"$2/langevin-$command.1"
done
