#!/bin/sh
# Try a client against servers that misbehave: the same line, at a ser2net, at a late sredird, and at one that is in use.
# Put your own client in the place of the serpipe line to see how it fares.
set -eu
dir=$(mktemp -d)
pid=
trap 'kill $pid 2>/dev/null || :; wait; rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT TERM

mkfifo "$dir/ready"
for server in ser2net sredird+late=200ms serpipe+busy; do
    serpipe emulate "$server" --listen 0 --quiet --ready-fd 3 3>"$dir/ready" &
    pid=$!
    read -r _ address _ <"$dir/ready"
    code=0
    answer=$(echo "hello" | serpipe --quiet -t 300ms - "rfc2217://$address,57600" 2>&1) || code=$?
    echo "$server: exit $code, $answer"
    case $server in
    *busy) test "$code" = 3 ;;
    *) test "$answer" = "hello" ;;
    esac
    kill $pid
    wait $pid || :
done
