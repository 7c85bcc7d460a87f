#!/bin/sh
# A port whose settings belong to the server: a client that asks for another rate reads which one holds, and the server
# names it once. Lines, breaks and purges are still the client's; deny=lines+break+purge would keep those too.
# The port is the built-in loopback device; with hardware it would be /dev/ttyUSB0 instead of loop:.
set -eu
dir=$(mktemp -d)
pids=
trap 'kill $pids 2>/dev/null || :; wait; rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT TERM

mkfifo "$dir/ready"
serpipe --ready-fd 3 rfc2217-listen:0,locked=115200n81 loop:,realtime=off 3>"$dir/ready" 2>"$dir/server" &
pids=$!
read -r _ address _ <"$dir/ready"

answer=$(echo "hello" | serpipe -t 300ms - "rfc2217://$address,9600" 2>"$dir/client")
echo "the port sent back: $answer"
test "$answer" = "hello"

echo "the client says: $(grep "in force is 115200" "$dir/client")"
echo "the server says: $(grep "policy: client asks for 9600; the port stays at 115200" "$dir/server")"
