# Starts and stops one server, told so on standard input, one command a line.
# When the input ends, however the program that held it ended: stops the server and removes everything.
# Arguments: the cluster's directory, the programs' directory, LD_LIBRARY_PATH or nothing.
umask 077
trap '' HUP INT TERM QUIT
base=$1 bin=$2 data=$1/data
if [ -n "$3" ]; then
    LD_LIBRARY_PATH=$3
    export LD_LIBRARY_PATH
fi
HOME=$base
export HOME
cd "$base" || exit 1

while read -r verb arguments; do
    case $verb in
    init)
        IFS= read -r user
        IFS= read -r password
        printf '%s\n' "$password" >password
        # shellcheck disable=SC2086
        "$bin/initdb" -D "$data" -N --pwfile=password -A trust $arguments -U "$user" >initdb.log 2>&1 </dev/null
        code=$?
        rm -f password
        ;;
    clone)
        # The data of a server that is stopped.
        cp -R "$arguments" "$data" >clone.log 2>&1 </dev/null
        code=$?
        ;;
    start)
        "$bin/pg_ctl" -D "$data" -l "$base/server.log" -w -t 60 start >pg_ctl.log 2>&1 </dev/null
        code=$?
        ;;
    stop)
        "$bin/pg_ctl" -D "$data" -m "$arguments" -w -t 60 stop >pg_ctl.log 2>&1 </dev/null
        code=$?
        ;;
    *)
        code=127
        ;;
    esac
    echo "$code"
done

if [ -f "$data/postmaster.pid" ]; then
    "$bin/pg_ctl" -D "$data" -m immediate -w -t 30 stop >pg_ctl.log 2>&1 </dev/null
fi
cd /
rm -rf "$base"
