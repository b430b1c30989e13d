# bash completion for langevin. All knowledge is in the program (cli/complete.c).
_langevin() {
    local cur=${COMP_WORDS[COMP_CWORD]} line file
    COMPREPLY=()
    [ "$cur" = = ] || [ "$cur" = : ] && cur=
    while IFS= read -r line; do
        case $line in
        :files | :folders)
            compopt -o filenames 2>/dev/null || : # not when a test calls
            while IFS= read -r file; do COMPREPLY+=("$file"); done < <(
                if [ "$line" = :files ]; then compgen -f -- "$cur"; else compgen -d -- "$cur"; fi
            )
            ;;
        *) COMPREPLY+=("$line") ;;
        esac
    done < <("${COMP_WORDS[0]}" help --complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -F _langevin langevin
