#!/bin/bash
# run.sh BINARIES CORPUS OUT SECONDS [JOBS]: every fuzz_* program in BINARIES, 10 million executions for our own
# parsers, 1 million for what goes through picture libraries, JOBS at a time (default: all cores), ending
# after SECONDS at the latest. TARGETS="torch_file zip" in the environment: only these; RUNS=10000000: so many of each.
# A line per target: executions, coverage, crashes. OUT gets logs, crashing inputs and new corpora. Exit code 1 when
# something was found.
set -u
bin=$1 corpus=$2 out=$3 seconds=$4 jobs=${5:-$(nproc)}
mkdir -p "$out"
end=$(($(date +%s) + seconds))
run=${FUZZ_LOADER:-}
export ASAN_OPTIONS=quarantine_size_mb=16:malloc_context_size=4:allocator_release_to_os_interval_ms=-1:${ASAN_OPTIONS:-}

one() { # one TARGET PART RUNS
    local left=$((end - $(date +%s))) dict=()
    [ "$left" -gt 1 ] || return 0
    [ -e "$corpus/$1.dict" ] && dict=(-dict="$corpus/$1.dict") # of seeds.py
    mkdir -p "$out/corpus/$1-$2" "$corpus/$1"
    # shellcheck disable=SC2086
    $run "$bin/fuzz_$1" -runs="$3" -max_total_time="$left" -seed="$((1000 * $2 + 7))" -max_len=2048 -timeout=20 \
        -rss_limit_mb=3000 -print_final_stats=1 -artifact_prefix="$out/$1-" "${dict[@]}" "$out/corpus/$1-$2" \
        "$corpus/$1" >"$out/$1-$2.log" 2>&1 || true
}
export -f one
export bin corpus out end run
targets=${TARGETS:-}
[ -n "$targets" ] || for program in "$bin"/fuzz_*; do targets="$targets ${program##*/fuzz_}"; done

for target in $targets; do
    case $target in # parts, so that the slow ones use several cores
    png | jpeg | webp | gif) parts=1 runs=1000000 ;;
    unet_build | model_build) parts=1 runs=200000 ;; # no parser: the builders behind them
    tar) parts=10 runs=1000000 ;;
    json | trainer_json | bmp) parts=5 runs=2000000 ;;
    *) parts=4 runs=2500000 ;;
    esac
    [ -z "${RUNS:-}" ] || runs=$((RUNS / parts))
    for ((i = 0; i < parts; i++)); do echo "$parts $target $i $runs"; done
done | sort -k1,1n -k3,3n | cut -d' ' -f2- | xargs -P "$jobs" -L 1 bash -c 'one "$@"' _

bad=0
printf '%-18s %12s %10s %9s %8s\n' target executions coverage features crashes
for target in $targets; do
    n=$(cat "$out/$target"-[0-9]*.log 2>/dev/null | sed -n 's/stat::number_of_executed_units: *//p' | awk '{s += $1} END {print s + 0}')
    last=$(cat "$out/$target"-[0-9]*.log 2>/dev/null | grep -E ' cov: ' | sed -E 's/.* cov: ([0-9]+) ft: ([0-9]+).*/\1 \2/' |
        awk '$1 > c {c = $1} $2 > f {f = $2} END {printf "%10d %9d", c, f}')
    crashes=$(find "$out" -maxdepth 1 -regex ".*/$target-\(crash\|leak\|oom\|timeout\)-.*" | wc -l)
    broken=$(grep -lE 'ERROR: |SUMMARY: ' "$out/$target"-[0-9]*.log 2>/dev/null | wc -l)
    [ "$crashes" -ge "$broken" ] || crashes=$broken
    [ "$crashes" -eq 0 ] || bad=1
    printf '%-18s %12d %s %8d\n' "$target" "$n" "$last" "$crashes"
done
exit $bad
