#!/usr/bin/env bash
# The pages of docs/ agree with the program: docs/ops.md is what the records say, links lead somewhere,
# and every option in a command line that a page shows is one the program knows.
set -u
build=$1
bad=0
fail() {
    echo "$*" >&2
    bad=1
}

if [ "$(uname -m)" = x86_64 ]; then # elsewhere there are fewer levels than on the page
    if ! "$build/docs_ops" | diff docs/ops.md - >&2; then
        fail "docs/ops.md is out of date; run:  make && build/docs_ops > docs/ops.md"
    fi
fi

for page in README.md CHANGELOG.md docs/*.md; do
    [ -e "$page" ] || continue
    for link in $(grep -oE '\]\([^)# ]+' "$page" | cut -c3- | grep -v ://); do
        [ -e "$(dirname "$page")/$link" ] || fail "$page: the link '$link' leads nowhere"
    done
    # Lines of the form: [build/]langevin COMMAND ..., also continued with a backslash.
    while read -r line; do
        command=$(echo "$line" | sed -E 's/^(build\/)?langevin +([a-z]+).*/\2/')
        help=$("$build/langevin" "$command" --help 2>&1) || {
            fail "$page: there is no command 'langevin $command'"
            continue
        }
        for option in $(echo "$line" | grep -oE -- '--[a-z][a-z-]*'); do
            echo "$help" | grep -qE -- "$option([^a-z-]|$)" || fail "$page: langevin $command has no option $option"
        done
    done < <(sed -e ':a' -e '/\\$/N; s/\\\n//; ta' "$page" | grep -E '^ *(\$ )?(build/)?langevin [a-z]+( |$)' | sed -E 's/^ *(\$ )?//')
done
# A block below "<!-- from FILE -->" is quoted: it stands so in the file.
for page in README.md docs/*.md; do
    while read -r line source; do
        quoted=$(tail -n +"$((line + 1))" "$page" | awk '/^    /{started = 1; print substr($0, 5); next} started && NF {exit} started {print}')
        text=$(cat "$source") || fail "$page:$line: there is no file '$source'"
        case $text in
        *"$quoted"*) ;;
        *) fail "$page:$line: $source no longer says what is quoted from it" ;;
        esac
    done < <(grep -nE '^<!-- from [^ ]+ -->$' "$page" | sed -E 's/^([0-9]+):<!-- from (.*) -->$/\1 \2/')
done
exit $bad
