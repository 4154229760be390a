#!/bin/sh
# Jobs of pgconvoy on a machine that it is a guest of: each outlives the connection that started it.
# A job is a directory: `started`, `pid`, `log`, `exit`. Whoever holds the lock `alive` runs it.
set -eu
umask 077

home=${PGCONVOY_HOME:-$HOME/.pgconvoy}
verb=$1
id=${2-}
dir=$home/jobs/$id
secrets=/dev/shm/pgconvoy-$(id -u)

die() {
    printf 'job: %s\n' "$*" >&2
    exit 70
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n "$@"; fi
}

is_alive() {
    [ -e "$dir/alive" ] && ! flock -n "$dir/alive" true
}

# Standard input becomes a file in memory that only this user can read: what the job's environment and arguments are.
keep_secrets() {
    [ "$(stat -f -c %T /dev/shm)" = tmpfs ] || die '/dev/shm is no memory file system'
    mkdir -p "$secrets"
    if [ ! -O "$secrets" ] || [ -L "$secrets" ]; then die "$secrets is somebody else's"; fi
    chmod 700 "$secrets"
    cat >"$secrets/$id.new"
    if [ "$(tail -n 1 "$secrets/$id.new")" != '#whole' ]; then
        rm -f "$secrets/$id.new"
        die 'the connection broke before the job was handed over'
    fi
    mv "$secrets/$id.new" "$secrets/$id"
}

case $verb in
start)
    mkdir -p "$dir"
    if [ -e "$dir/started" ]; then
        cat >/dev/null
        exit 0
    fi
    keep_secrets
    # A unit of that name, where it is left by a connection that broke, is this job.
    as_root systemd-run --quiet --collect --unit="pgconvoy-$id" --uid="$(id -u)" --gid="$(id -g)" \
        --setenv=HOME="$HOME" --setenv=PGCONVOY_HOME="$home" sh "$home/job" work "$id" ||
        is_alive || [ -e "$dir/started" ] || die 'systemd-run failed'
    tries=0
    until [ -e "$dir/started" ]; do
        tries=$((tries + 1))
        [ "$tries" -lt 300 ] || die 'the job does not begin'
        sleep 0.1
    done
    rm -f "$secrets/$id"
    ;;
work)
    exec 9>"$dir/alive"
    flock -n 9 || exit 0
    [ ! -e "$dir/started" ] || exit 0
    # shellcheck source=/dev/null
    . "$secrets/$id"
    : >"$dir/started"
    rm -f "$secrets/$id"
    cd "/mnt/pgconvoy" 2>/dev/null || cd "$home"
    [ -w . ] || cd "$home"
    "$home/bin/pgconvoy" "$@" </dev/null >>"$dir/log" 2>&1 &
    child=$!
    echo "$child" >"$dir/pid"
    trap 'kill -TERM "$child" 2>/dev/null || true' TERM INT HUP
    code=0
    while :; do
        code=0
        wait "$child" || code=$?
        kill -0 "$child" 2>/dev/null || break
    done
    echo "$code" >"$dir/exit.new"
    mv "$dir/exit.new" "$dir/exit"
    ;;
follow)
    [ -d "$dir" ] || die "there is no job $id"
    [ -e "$dir/log" ] || : >>"$dir/log"
    if is_alive && [ -s "$dir/pid" ]; then
        exec tail -c "+$(($3 + 1))" -f --pid="$(cat "$dir/pid")" "$dir/log"
    fi
    exec tail -c "+$(($3 + 1))" "$dir/log"
    ;;
state)
    if is_alive; then
        echo running
    elif [ -e "$dir/exit" ]; then
        echo "exit $(cat "$dir/exit")"
    elif [ -e "$dir/started" ]; then
        echo lost
    else
        echo unknown
    fi
    ;;
stop)
    if is_alive && [ -s "$dir/pid" ]; then kill -TERM "$(cat "$dir/pid")"; fi
    ;;
list)
    for dir in "$home"/jobs/*/; do
        [ -e "$dir/started" ] || continue
        dir=${dir%/}
        printf '%s ' "${dir##*/}"
        sh "$0" state "${dir##*/}"
    done
    ;;
machine)
    cat "${PGCONVOY_STATE:-/var/lib/pgconvoy/state}" 2>/dev/null || echo 'starting: the first boot'
    ;;
sum)
    sha256sum "$home/bin/pgconvoy" 2>/dev/null | cut -c 1-64
    ;;
install)
    mkdir -p "$home/bin"
    cat >"$home/bin/pgconvoy.new"
    chmod 700 "$home/bin/pgconvoy.new"
    [ "$(sha256sum "$home/bin/pgconvoy.new" | cut -c 1-64)" = "$2" ] || die 'the program did not arrive whole'
    sync "$home/bin/pgconvoy.new"
    mv "$home/bin/pgconvoy.new" "$home/bin/pgconvoy"
    ;;
*)
    die "no such verb: $verb"
    ;;
esac
