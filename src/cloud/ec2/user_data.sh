#!/bin/bash
# First boot of a machine that pgconvoy asked for. Holds no secret. cloud-init runs it once, as root.
# MINUTES, PG_CLIENT and WHO are set in a line that pgconvoy puts above this one.
# ROOT, SYS and DEV are for tests: where the file system, sysfs and the devices begin.
set -euo pipefail

: "${MINUTES:?}" "${PG_CLIENT:?}" "${WHO:?}"
ROOT=${ROOT-} SYS=${SYS-/sys} DEV=${DEV-/dev}
STATE=$ROOT/var/lib/pgconvoy/state
SPACE=$ROOT/mnt/pgconvoy

say() {
    printf '%s\n' "$*" >"$STATE.new"
    mv "$STATE.new" "$STATE"
}

# The end comes first: whatever fails below, the machine does not outlive its time. It was started so that
# powering off terminates it.
limit_life() {
    # Where it fails, the timer is what remains.
    shutdown -P "+$MINUTES" "pgconvoy's time is up" || say 'starting: the time to live, by its timer alone'
    # The line above does not survive a reboot; a timer with a date does.
    local at
    at=$(date -u -d "+$MINUTES minutes" '+%Y-%m-%d %H:%M:%S UTC')
    mkdir -p "$ROOT/etc/systemd/system" "$ROOT/usr/local/sbin"
    cat >"$ROOT/etc/systemd/system/pgconvoy-end.service" <<'UNIT'
[Unit]
Description=End of a machine that pgconvoy asked for
[Service]
Type=oneshot
ExecStart=/sbin/poweroff
UNIT
    cat >"$ROOT/etc/systemd/system/pgconvoy-end.timer" <<UNIT
[Unit]
Description=When the machine ends
[Timer]
OnCalendar=$at
Persistent=true
[Install]
WantedBy=timers.target
UNIT
    systemctl daemon-reload
    systemctl enable --now pgconvoy-end.timer
}

# Disks that belong to the instance and end with it. NVMe ones are told from EBS by their model, never by their
# letter. On Xen every disk beside the root's is one: no other is ever attached.
own_disks() {
    local model name root
    for model in "$SYS"/block/nvme*n1/device/model; do
        [ -e "$model" ] || continue
        if grep -q 'Instance Storage' "$model"; then
            name=${model#"$SYS"/block/}
            printf '%s\n' "$DEV/${name%%/*}"
        fi
    done
    root=$(findmnt -n -o SOURCE / || true)
    for name in "$SYS"/block/xvd*; do
        [ -e "$name" ] || continue
        name=${name##*/}
        case $root in "/dev/$name"*) continue ;; esac
        # Images mount the first one at /mnt.
        umount "$DEV/$name" 2>/dev/null || true
        printf '%s\n' "$DEV/$name"
    done
}

make_space() {
    local disks target
    mapfile -t disks < <(own_disks)
    mkdir -p "$SPACE"
    if [ "${#disks[@]}" -eq 0 ]; then
        # A copy from server to server needs none.
        say 'starting: no disk of its own, the root disk is used'
    else
        target=${disks[0]}
        if [ "${#disks[@]}" -gt 1 ]; then
            target=$DEV/md/pgconvoy
            [ -e "$target" ] || mdadm --create "$target" --run --homehost=any --level=0 --chunk=256 \
                --raid-devices="${#disks[@]}" "${disks[@]}"
        fi
        # No discard at the start: it takes minutes on terabytes, and the disks come empty.
        [ "$(blkid -o value -s LABEL "$target" || true)" = pgconvoy ] ||
            mkfs.ext4 -q -F -m 0 -L pgconvoy -E nodiscard,lazy_itable_init=1,lazy_journal_init=1 "$target"
        mountpoint -q "$SPACE" || mount -o noatime,nodiscard "$target" "$SPACE"
    fi
    chown "$WHO:" "$SPACE"
    chmod 700 "$SPACE"
}

# pg_dump, as new as the newest server: the project's own packages.
install_client() {
    export DEBIAN_FRONTEND=noninteractive
    local try
    for try in 1 2 3 4 5; do
        if apt-get update -q && apt-get install -y -q --no-install-recommends ca-certificates postgresql-common; then
            break
        fi
        [ "$try" -lt 5 ] || return 1
        sleep $((try * 5))
    done
    "$ROOT/usr/share/postgresql-common/pgdg/apt.postgresql.org.sh" -y
    apt-get install -y -q --no-install-recommends "postgresql-client-$PG_CLIENT"
}

give_up() {
    trap - ERR
    say "failed: line $1: $2" || true
    # Nobody may know of a machine without an end: it does not live on. Powering off terminates it.
    systemctl is-active -q pgconvoy-end.timer || poweroff -f
}

trap 'give_up "$LINENO" "$BASH_COMMAND"' ERR
set -E
mkdir -p "$(dirname "$STATE")"
chmod 755 "$(dirname "$STATE")"
say 'starting: the time to live'
limit_life
say 'starting: disks'
if ! command -v mdadm >/dev/null; then
    { apt-get update -q && apt-get install -y -q --no-install-recommends mdadm; } || say 'starting: no mdadm'
fi
make_space
say 'starting: pg_dump'
install_client
say ready
