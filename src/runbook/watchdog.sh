# Stands beside a command, and ends it where pgconvoy ends before it does.
# $1: what kill is told: a process, or a group (-7). $2: seconds from asking it to end to making it.
# Standard input: a pipe to which nobody writes; its end is pgconvoy's. Standard output: a lock, held until nothing runs.
target=$1 grace_s=$2
trap '' HUP INT QUIT TERM
exec 3>&1 1>&2
while read -r nothing; do :; done

# What has ended does not count, though nobody may ever ask how it did. proc_pid_stat(5): the process, its name in parentheses,
# its state, its parent, its group.
runs() {
    for stat in /proc/[0-9]*/stat; do
        read -r line <"$stat" || continue
        process=${line%% *}
        set -- ${line##*) }
        case $1 in Z | X) continue ;; esac
        case $target in "$process" | "-$3") return 0 ;; esac
    done
    [ ! -r /proc/self/stat ] && kill -s 0 -- "$target"
}

# Whether it is over within so many seconds.
is_over() {
    looks=$(($1 * 10))
    while runs; do
        [ "$looks" -gt 0 ] || return 1
        looks=$((looks - 1))
        sleep 0.1 || sleep 1
    done
}

kill -s TERM -- "$target"
is_over "$grace_s" || kill -s KILL -- "$target"
# Another user's, which we may not end: what it does must not meet what is done next. Not for ever: it may be meant to stay.
is_over 600
